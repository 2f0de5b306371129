"""Population pharmacokinetics: `jn.pkpd`. Its names are imported when they are first used."""

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

_PUBLIC = {
    "attainment": ("forecasting.attainment", "attainment"),
    "exposure": ("forecasting.exposure", "exposure"),
    "find_dose": ("forecasting.dose_search", "find_dose"),
    "forecast": ("forecasting.forecast", "forecast"),
    "regimen": ("forecasting.regimen", "regimen"),
    "simulate": ("forecasting.simulate", "simulate"),
}

__all__ = [*_PUBLIC]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """A public name, imported now. **Raises:** AttributeError for others."""
    if name not in _PUBLIC:
        raise AttributeError(f"jn.pkpd has no {name!r}; {near_matches(name, _PUBLIC)}")
    module, attribute = _PUBLIC[name]
    value = getattr(importlib.import_module(f"jaxnlme.{module}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*_PUBLIC, *(name for name in globals() if name.startswith("__"))})
