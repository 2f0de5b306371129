"""Parameters that act on doses, by compartment: lag time, bioavailability, modelled duration and rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxnlme.errors import ModelError, OptionError, near_matches, shown
from jaxnlme.pkpd.phi_names import first_of

# Names in phi of each kind for doses into compartment N (NONMEM's numbers); without N: into the first compartment.
_STEMS = {
    "lag": ("LAG", "ALAG", "TLAG"),
    "bioavailability": ("F",),
    "duration": ("D", "DUR"),
    "rate": ("R",),
}
KINDS = tuple(_STEMS)


@dataclass(frozen=True)
class DoseParameters:
    """Names of the parameters that act on doses.

    **Fields:** `chosen`: triples (kind, number of the compartment, name in upper case) that replace the names by
    default.
    """

    chosen: tuple[tuple[str, int, str], ...] = ()

    def names(self, kind: str, number: int) -> tuple[str, ...]:
        """Names that the parameter `kind` of doses into compartment `number` may have."""
        for chosen_kind, chosen_number, name in self.chosen:
            if (chosen_kind, chosen_number) == (kind, number):
                return (name,)
        names = tuple(f"{stem}{number}" for stem in _STEMS[kind])
        # D and R without a number would be the names of too many other things.
        return (*names, *_STEMS[kind]) if number == 1 and kind in ("lag", "bioavailability") else names

    def in_words(self, compartments: int) -> str:
        """The first name of each, by kind, for doses into `compartments` compartments: "LAG1, LAG2 (lag); ..."."""
        out = []
        for kind in KINDS:
            own = [self.names(kind, number)[0] for number in range(1, compartments + 1)]
            out.append(f"{', '.join(own)} ({kind})")
        return "; ".join(out)

    def value(self, kind: str, number: int, values: Mapping[str, Any]) -> Any:
        """The value of the parameter in `values` (by name in upper case), None where there is none.

        **Raises:** ModelError where a name was chosen that `values` lacks.
        """
        for chosen_kind, _, name in self.chosen:
            if chosen_kind == kind and name not in values:
                raise ModelError(
                    f"{kind} is the parameter {name} (without regard to case), which phi lacks; "
                    f"{near_matches(name, [*values])}"
                )
        name = first_of(self.names(kind, number), values)
        return None if name is None else values[name]


def dose_parameters(title: str, states: Sequence[str], options: Mapping[str, Any]) -> DoseParameters:
    """The DoseParameters of a model.

    **Arguments:** `states`: names of the compartments; `options`: by kind a name (for doses into the first
    compartment), a dictionary of names by compartment (number or name), or None.
    **Raises:** OptionError for others.
    """
    chosen = []
    for kind, option in options.items():
        if option is None:
            continue
        by_compartment = {1: option} if isinstance(option, str) else option
        if not isinstance(by_compartment, Mapping) or not all(isinstance(n, str) for n in by_compartment.values()):
            raise OptionError(
                f"{title}: {kind} must be the name of a parameter, or a dictionary of names by compartment, such as "
                f"{{1: 'X'}} or {{{states[0]!r}: 'X'}}; received {shown(option)}."
            )
        for compartment, name in by_compartment.items():
            chosen.append((kind, _number(title, kind, compartment, states), name.upper()))
    return DoseParameters(tuple(chosen))


def _number(title: str, kind: str, compartment: Any, states: Sequence[str]) -> int:
    """NONMEM's number of a compartment, given by number or name. **Raises:** OptionError for one that is not there."""
    if compartment in states:
        return states.index(compartment) + 1
    if isinstance(compartment, int) and 1 <= compartment <= len(states):
        return compartment
    numbered = ", ".join(f"{k} {name}" for k, name in enumerate(states, start=1))
    near = f" {near_matches(compartment, states)}" if isinstance(compartment, str) else ""
    raise OptionError(f"{title}: {kind} names the compartment {shown(compartment)}; the model has {numbered}.{near}")
