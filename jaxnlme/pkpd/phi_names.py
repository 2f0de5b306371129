"""Parameters of a pharmacokinetic model, found in phi by name whatever their case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxnlme.errors import ModelError
from jaxnlme.records import Record


def values_by_name(phi: Any) -> dict[str, Any]:
    """The entries of `phi`, a record or a dictionary, by name in upper case.

    **Raises:** ModelError for others, and for names that differ by case only.
    """
    if not isinstance(phi, (Record, Mapping)):
        raise ModelError(
            "jn.pkpd models take phi as the model function receives it, or a dictionary of values by name; received "
            f"{type(phi).__name__}."
        )
    names = [*phi.keys()]
    upper = {name.upper(): name for name in names}
    if len(upper) < len(names):
        twice = next(name for name in names if upper[name.upper()] != name)
        raise ModelError(
            f"the parameters {twice!r} and {upper[twice.upper()]!r} differ by case only; models of jn.pkpd read names "
            "without regard to case: rename one of them."
        )
    return {name: phi[own] for name, own in upper.items()}


def first_of(names: Sequence[str], values: Mapping[str, Any]) -> str | None:
    """The first of `names` that is in `values`, None without one."""
    return next((name for name in names if name in values), None)


def missing_parameters(title: str, needed: Sequence[Sequence[str]], values: Mapping[str, Any], others: str) -> str:
    """Sentence on parameters that phi lacks.

    **Arguments:** `title` of the model; `needed`: for each parameter its names; `values`: those of phi, by name;
    `others`: what else the sentence proposes.
    """
    lacking = [" or ".join(names) for names in needed if first_of(names, values) is None]
    listed = " ".join(names[0] for names in needed)
    return (
        f"{title} needs the parameters {listed} (in any case); phi has {', '.join(values) or 'none'} and lacks "
        f"{', '.join(lacking)}. {others}"
    )
