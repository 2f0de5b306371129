"""The residual scale sigma g of variance functions g, with names, levels and data of their columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import jax.numpy as jnp

from jaxnlme.arguments import real_number
from jaxnlme.errors import OptionError, shown
from jaxnlme.model.fixed import Fixed, number_of
from jaxnlme.model.residual_error.error_parameter import ErrorParameter
from jaxnlme.model.residual_error.named_scales import abs_power
from jaxnlme.model.settings import MODEL

# The parameters of each kind of function, with their transforms.
_PARAMETERS = {
    "fixed": (),
    "power": (("power", "identity"),),
    "exponential": (("rate", "identity"),),
    "constant_power": (("const", "log"), ("power", "identity")),
    "strata": (),
}


@dataclasses.dataclass(frozen=True)
class VarianceTerm:
    """One factor of a variance function.

    **Fields:** `kind`: the name of its function in `jn.variance`; `of`: name of the column that it is of, None: the
    prediction; `by`: name of the column of strata, None: none; `starts`: of its parameters; `levels`: those of `by`,
    filled in when the model is bound to data.
    """

    kind: str
    of: str | None = None
    by: str | None = None
    starts: tuple[float | Fixed, ...] = ()
    levels: tuple[str, ...] | None = None

    def __post_init__(self):
        for (name, scale), start in zip(_PARAMETERS[self.kind], self.starts, strict=True):
            value = real_number(number_of(start))
            if value is None or (scale == "log" and not value > 0):
                raise OptionError(
                    f"variance function {self.kind}: {name} must start at one number"
                    f"{' above 0' if scale == 'log' else ''}; received {shown(start)}."
                )

    @property
    def formula(self) -> str:
        """The factor as a formula."""
        v = "|f|" if self.of is None else self.of
        per = f" by {self.by}" if self.by and self.kind != "strata" else ""
        return {
            "fixed": f"sqrt({v})",
            "power": f"{v}^power{per}",
            "exponential": f"exp(rate {v.strip('|')}{per})",
            "constant_power": f"(const + {v}^power{per})",
            "strata": f"ratio[{self.by}]",
        }[self.kind]

    def names(self) -> list[list[str]]:
        """The names of the parameters, a list over levels for each; without levels a list of one."""
        suffixes = [""] if self.by is None else [f"[{self.by}={level}]" for level in self.levels or ()]
        of = "" if self.of is None else f"({self.of})"
        if self.kind == "strata":
            return [[f"ratio{suffix}" for suffix in suffixes[1:]]]
        return [[f"{name}{of}{suffix}" for suffix in suffixes] for name, _ in _PARAMETERS[self.kind]]

    def parameters(self) -> list[ErrorParameter]:
        """The parameters, all levels of the first, then of the next."""
        if self.kind == "strata":
            return [ErrorParameter(name, 1.0, "log") for name in self.names()[0]]
        kinds = zip(self.names(), _PARAMETERS[self.kind], self.starts, strict=True)
        return [
            ErrorParameter(name, number_of(start), scale, isinstance(start, Fixed))
            for names, (_, scale), start in kinds
            for name in names
        ]

    def factor(self, f: Any, values: Mapping[str, Any], group: Any, code: Any) -> Any:
        """g (obs,) at the prediction `f` (obs,); `values` by name; `code` (obs,): the level of each row, or None."""
        parts = []
        for names in self.names():
            first = [1.0] if self.kind == "strata" else []
            levels = [*first, *(values[name] for name in names)]
            parts.append(levels[0] if code is None else jnp.stack([jnp.asarray(v, f.dtype) for v in levels])[code])
        if self.kind == "strata":
            return parts[0]
        v = f if self.of is None else column_of_group(group, self.of)
        if self.kind == "fixed":
            return jnp.sqrt(v)
        if self.kind == "exponential":
            return jnp.exp(parts[0] * v)
        return abs_power(v, parts[0]) if self.kind == "power" else parts[0] + abs_power(v, parts[1])


@dataclasses.dataclass(frozen=True)
class VarianceScale:
    """The residual standard deviation sigma g, g the product of `terms`. `*` multiplies two of them."""

    terms: tuple[VarianceTerm, ...]

    def __mul__(self, other: Any) -> VarianceScale:
        if not isinstance(other, VarianceScale):
            raise OptionError(
                f"a variance function is multiplied by another one only; received {shown(other)}. sigma is estimated "
                "beside it, so that a number changes nothing."
            )
        return VarianceScale((*self.terms, *other.terms))

    def __rmul__(self, other: Any) -> VarianceScale:
        if isinstance(other, int) and other == 1:  # the first factor of math.prod
            return self
        return self.__mul__(other)

    def _refuse(self, *_: Any) -> NoReturn:
        """**Raises:** OptionError: variance functions are multiplied."""
        raise OptionError(
            "variance functions are multiplied, as in jn.variance.power() * jn.variance.strata('Sex'); they have no "
            "sum, difference, quotient or power. A sum of a constant and a power is jn.variance.constant_power(); for "
            "any other standard deviation write a function, jn.error.custom(scale, parameters)."
        )

    __add__ = __radd__ = __sub__ = __rsub__ = __truediv__ = __rtruediv__ = __pow__ = __rpow__ = __neg__ = _refuse

    @property
    def formula(self) -> str:
        """The standard deviation as a formula."""
        return " ".join(["sigma", *(term.formula for term in self.terms)])

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of numbers that it reads."""
        return tuple(term.of for term in self.terms if term.of is not None)

    @property
    def strata(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Names of the columns of strata with their levels, one for each term that has strata."""
        return tuple((term.by, term.levels or ()) for term in self.terms if term.by is not None)

    def parameters(self) -> tuple[ErrorParameter, ...]:
        """sigma and the parameters of the terms. **Raises:** OptionError for two of the same name."""
        entries = (
            ErrorParameter("sigma", MODEL.error_start, "log", automatic=True),
            *(p for term in self.terms for p in term.parameters()),
        )
        names = [p.name for p in entries]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise OptionError(
                f"the variance functions {self.formula} have two parameters {', '.join(repeated)}: one function of the "
                "same column is enough."
            )
        return entries

    def resolve(self, levels: Callable[[str], Sequence[Any]]) -> VarianceScale:
        """The scale with the levels of its columns of strata, once the data are known."""
        terms = (
            term
            if term.by is None or term.levels
            else dataclasses.replace(term, levels=tuple(map(str, levels(term.by))))
            for term in self.terms
        )
        return VarianceScale(tuple(terms))

    def __call__(self, f: Any, values: Mapping[str, Any], group: Any) -> Any:
        """sigma g (obs,) at the prediction `f` (obs,), with `values` of the parameters by name."""
        out, codes = values["sigma"], iter(group.codes)
        for term in self.terms:
            out = out * term.factor(f, values, group, None if term.by is None else next(codes))
        return out


def column_of_group(group: Any, name: str) -> Any:
    """A column of numbers of one group: of x (obs,), or of v ()."""
    return group.x[name] if name in group.x.names else group.v[name]
