"""`jn.pkpd`: pharmacokinetic models of dose records, as model functions f(phi, x, v)."""

import importlib
from typing import TYPE_CHECKING, Any

from jaxnlme.errors import near_matches

if TYPE_CHECKING:
    from jaxnlme.pkpd import inputs as inputs
    from jaxnlme.pkpd.compartment_model import CompartmentModel as CompartmentModel
    from jaxnlme.pkpd.compartment_model import compartments as compartments
    from jaxnlme.pkpd.michaelis_menten import michaelis_menten as michaelis_menten
    from jaxnlme.pkpd.ode_model import ODEModel as ODEModel
    from jaxnlme.pkpd.ode_model import ode as ode

# The names above again, each with its module (empty: it is one): imported when first used.
_PUBLIC = {
    "CompartmentModel": "compartment_model",
    "compartments": "compartment_model",
    "ODEModel": "ode_model",
    "inputs": "",
    "michaelis_menten": "michaelis_menten",
    "ode": "ode_model",
}

__all__ = [*_PUBLIC]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """A public name, imported now. **Raises:** AttributeError for others."""
    if name in _PUBLIC:
        module = importlib.import_module(f"jaxnlme.pkpd.{_PUBLIC[name] or name}")
        value = getattr(module, name) if _PUBLIC[name] else module
        globals()[name] = value
        return value
    raise AttributeError(f"jn.pkpd has no {name!r}; {near_matches(name, list(_PUBLIC))}")


def __dir__() -> list[str]:
    return sorted({*_PUBLIC, *(name for name in globals() if name.startswith("__"))})
