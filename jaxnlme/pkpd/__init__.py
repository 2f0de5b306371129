"""`jn.pkpd`: pharmacokinetic models of dose records, regimens, simulation of new subjects, exposure and forecasts.

**Example:**

```python
doses = jn.GroupedData.from_nonmem(jn.datasets.theophylline_records())
v = jn.Parameter("v", 32.0, "log", random=True)
pk = jn.NLMEModel(jn.pkpd.compartments(1, "first-order", "CL V"), [ka, cl, v])
```
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxnlme.errors import near_matches

if TYPE_CHECKING:
    from jaxnlme.forecasting.attainment import attainment as attainment
    from jaxnlme.forecasting.dose_search import find_dose as find_dose
    from jaxnlme.forecasting.exposure import exposure as exposure
    from jaxnlme.forecasting.forecast import forecast as forecast
    from jaxnlme.forecasting.regimen import regimen as regimen
    from jaxnlme.forecasting.simulate import simulate as simulate
    from jaxnlme.pkpd import inputs as inputs
    from jaxnlme.pkpd.compartment_model import CompartmentModel as CompartmentModel
    from jaxnlme.pkpd.compartment_model import compartments as compartments
    from jaxnlme.pkpd.michaelis_menten import michaelis_menten as michaelis_menten
    from jaxnlme.pkpd.ode_model import ODEModel as ODEModel
    from jaxnlme.pkpd.ode_model import ode as ode

# The names above again, each with its module (empty: it is one): imported when first used.
_PUBLIC = {
    "CompartmentModel": "pkpd.compartment_model",
    "ODEModel": "pkpd.ode_model",
    "attainment": "forecasting.attainment",
    "compartments": "pkpd.compartment_model",
    "exposure": "forecasting.exposure",
    "find_dose": "forecasting.dose_search",
    "forecast": "forecasting.forecast",
    "inputs": "",
    "michaelis_menten": "pkpd.michaelis_menten",
    "ode": "pkpd.ode_model",
    "regimen": "forecasting.regimen",
    "simulate": "forecasting.simulate",
}

__all__ = [*_PUBLIC]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """A public name, imported now. **Raises:** AttributeError for others."""
    if name in _PUBLIC:
        module = importlib.import_module(f"jaxnlme.{_PUBLIC[name] or f'pkpd.{name}'}")
        value = getattr(module, name) if _PUBLIC[name] else module
        globals()[name] = value
        return value
    raise AttributeError(f"jn.pkpd has no {name!r}; {near_matches(name, list(_PUBLIC))}")


def __dir__() -> list[str]:
    return sorted({*_PUBLIC, *(name for name in globals() if name.startswith("__"))})
