"""Linear combinations of coefficients as text: "age:Sex[T.Female] - 2*age", "(a + b)/2 = 1"."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from jaxnlme.errors import OptionError, near_matches

_NUMBER = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_WORD = re.compile(r"[\w.]+(?:\[[^\]]*\])?(?::[\w.]+(?:\[[^\]]*\])?)*")


def linear_combination(text: str, names: Sequence[str]) -> tuple[np.ndarray, float]:
    """The coefficients (names,) of a linear combination, and its value under the hypothesis: the right-hand side
    of "=", zero without one, less constants.

    Numbers, names, +, -, *, / and parentheses; a name may hold any of these signs, and the longest name that fits is
    read.

    **Raises:** OptionError with the place that cannot be read, and for products of coefficients.
    """
    parts = _Reader(text, names).sides()
    if len(parts) > 2:
        raise OptionError(f"contrast {text!r} has more than one '='; expected one side, or two.")
    left = parts[0] - parts[1] if len(parts) == 2 else parts[0]
    if not left[:-1].any():
        raise OptionError(f"contrast {text!r} has no coefficient; it is a linear combination of {', '.join(names)}.")
    return left[:-1], -float(left[-1])


class _Reader:
    """A reader of one expression; values are vectors of coefficients with the constant last."""

    def __init__(self, text: str, names: Sequence[str]):
        self.text, self.names, self.place = text, names, 0
        self.by_length = sorted(range(len(names)), key=lambda k: -len(names[k]))

    def sides(self) -> list[np.ndarray]:
        out = [self.sum()]
        while self.take("="):
            out.append(self.sum())
        if self.rest():
            self.refuse("expected +, -, * or /")
        return out

    def rest(self) -> str:
        """The text that is not read yet, without blanks before it."""
        while self.place < len(self.text) and self.text[self.place].isspace():
            self.place += 1
        return self.text[self.place :]

    def take(self, sign: str) -> bool:
        if self.rest().startswith(sign):
            self.place += len(sign)
            return True
        return False

    def sum(self) -> np.ndarray:
        value = self.product()
        while True:
            if self.take("+"):
                value = value + self.product()
            elif self.take("-"):
                value = value - self.product()
            else:
                return value

    def product(self) -> np.ndarray:
        value = self.factor()
        while True:
            if self.take("*"):
                other = self.factor()
                if value[:-1].any() and other[:-1].any():
                    self.refuse("a product of two coefficients is not linear")
                value = value * other[-1] if value[:-1].any() else value[-1] * other
            elif self.take("/"):
                other = self.factor()
                if other[:-1].any() or other[-1] == 0:
                    self.refuse("expected a number other than zero after /")
                value = value / other[-1]
            else:
                return value

    def factor(self) -> np.ndarray:
        if self.take("+"):
            return self.factor()
        if self.take("-"):
            return -self.factor()
        rest, out = self.rest(), np.zeros(len(self.names) + 1)
        for k in self.by_length:
            name = self.names[k]
            after = rest[len(name) : len(name) + 1]
            if rest.startswith(name) and not (_wordlike(name[-1]) and _wordlike(after)) and after not in (":", "["):
                self.place += len(name)
                out[k] = 1.0
                return out
        number = _NUMBER.match(rest)
        if number:
            self.place += number.end()
            out[-1] = float(number[0])
            return out
        if self.take("("):
            value = self.sum()
            if not self.take(")"):
                self.refuse("expected )")
            return value
        word = _WORD.match(rest)
        hint = near_matches(word[0], self.names) if word else "expected a coefficient or a number"
        return self.refuse(f"{word[0]!r} is no coefficient; {hint.rstrip('.')}" if word else hint)

    def refuse(self, reason: str) -> np.ndarray:
        """**Raises:** OptionError."""
        raise OptionError(f"contrast {self.text!r}, character {self.place + 1}: {reason}.")


def _wordlike(character: str) -> bool:
    return bool(character) and (character.isalnum() or character in "._")
