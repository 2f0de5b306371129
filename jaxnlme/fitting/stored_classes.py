"""Classes of the user's own in the pickle of a saved fit: made anew when it is loaded.

cloudpickle makes an empty class and fills it afterwards. Two things differ here. An equinox module is a pytree from the
moment its class is made, so its fields are there from the beginning. And no class is looked up among those of the
session, which loading would otherwise overwrite.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import warnings
from typing import Any

import equinox as eqx


def reduce_class(kind: type, reduction: Any) -> Any:
    """cloudpickle's `reduction` of a class, so that loading makes a new class, complete with its fields.

    **Arguments:** `kind`, the class; `reduction`, what `cloudpickle.Pickler.reducer_override` returns for it.
    **Returns:** the reduction; unchanged for a class that is stored by its name.
    """
    if not isinstance(reduction, tuple) or reduction[0].__name__ not in ("_make_skeleton_class", "_make_skeleton_enum"):
        return reduction
    function, arguments, *state = reduction
    if issubclass(kind, eqx.Module):
        return module_class, (*arguments[:4], _own_fields(kind)), *state
    *description, _, extra = arguments  # without the number by which cloudpickle finds a class of the session
    return function, (*description, None, extra), *state


def module_class(
    metaclass: type, name: str, bases: tuple[type, ...], namespace: dict[str, Any], fields: dict[str, bool]
) -> type:
    """A class of equinox modules with its fields, to be filled with its methods; called when a pickle is read.

    **Arguments:** `metaclass`, `name`, `bases`; `namespace`: entries of the class such as `__module__`; `fields`: of
    the class itself, by name; True for those that are static.
    """
    members = {
        "__annotations__": dict.fromkeys(fields, Any),
        "__init__": _no_init,  # so that no dataclass of defaults in some order is made; the class's own follows
        **{field: dataclasses.field(metadata={"static": True}) for field, static in fields.items() if static},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about an __init__ beside an inherited __post_init__
        kind = types.new_class(name, bases, {"metaclass": metaclass}, lambda body: body.update(namespace | members))
    del kind.__init__
    return kind


def _no_init(self: Any) -> None:
    """Stands for the __init__ of a class until that is there."""


def _own_fields(kind: type) -> dict[str, bool]:
    """Fields that a class of equinox modules itself declares, by name; True for static ones."""
    own = inspect.get_annotations(kind)
    fields: Any = dataclasses.fields(kind)  # pyright: ignore[reportArgumentType]
    return {field.name: bool(field.metadata.get("static", False)) for field in fields if field.name in own}
