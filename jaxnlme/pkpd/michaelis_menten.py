"""`jn.pkpd.michaelis_menten`: compartments with saturable elimination, by the path of differential equations."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jaxnlme.errors import ModelError, OptionError, near_matches, shown
from jaxnlme.pkpd.ode_model import ODEModel, ode
from jaxnlme.pkpd.phi_names import first_of, missing_parameters, values_by_name
from jaxnlme.records import Record
from jaxnlme.signatures import public

ROUTES = ("bolus", "infusion", "first-order", "zero-order", "zero then first")
_NAMES = {
    "V": ("V", "VC", "V1"),
    "Q": ("Q", "Q2"),
    "V2": ("V2", "VP"),
    "VM": ("VM", "VMAX"),
    "KM": ("KM",),
    "KA": ("KA",),
}


@public("jn.pkpd.michaelis_menten")
def michaelis_menten(
    number: int,
    route: str = "bolus",
    *,
    lag: str | Mapping[Any, str] | None = None,
    bioavailability: str | Mapping[Any, str] | None = None,
    duration: str | Mapping[Any, str] | None = None,
    rate: str | Mapping[Any, str] | None = None,
    **options: Any,
) -> ODEModel:
    """One or two compartments with Michaelis-Menten elimination, a model function for data with dose records.

    With C = central / V, elimination from the central compartment is VM C / (KM + C), and CL C besides where phi has a
    parameter CL. Parameters, in any case: V (VC, V1), VM (VMAX, amount per time), KM (concentration), KA with a depot,
    Q and V2 with two compartments. The prediction is C.

    **Arguments:** `number`: 1 or 2 compartments; `route`: "bolus" and "infusion" (doses enter the central compartment),
    "first-order" (a depot, from which KA carries them), "zero-order" (into the central compartment, for the duration
    D1 where RATE is 0 or -2), "zero then first" (into the depot for the duration D1, then KA); `lag`,
    `bioavailability`, `duration`, `rate`, and further `options` such as `solver`, `rtol` and `atol`: as for
    `jn.pkpd.ode`.
    **Returns:** an ODEModel.
    **Raises:** OptionError for unknown routes and options; ModelError, when it is used, for a parameter that phi lacks.

    **Example:**

    ```python
    jn.pkpd.michaelis_menten(1, "first-order")
    ```
    """
    title = f"jn.pkpd.michaelis_menten({number}, {route!r})"
    if number not in (1, 2) or isinstance(number, bool):
        raise OptionError(f"jn.pkpd.michaelis_menten: the number of compartments is 1 or 2; received {shown(number)}.")
    if route not in ROUTES:
        raise OptionError(f"{title}: this route is unknown; {near_matches(str(route), ROUTES)}")
    depot = route in ("first-order", "zero then first")
    states = (("depot",) if depot else ()) + ("central",) + (("peripheral1",) if number == 2 else ())
    needed = ("V", "VM", "KM") + (("KA",) if depot else ()) + (("Q", "V2") if number == 2 else ())
    read = _Reader(title, needed)

    def michaelis_menten_rates(t: Any, y: Record, phi: Record) -> dict[str, Any]:
        p = read(phi)
        concentration = y.central / p["V"]
        # A numerical solution may be below zero by its tolerance; the rate drives it back there, without a pole at -KM.
        loss = p["VM"] * concentration / (p["KM"] + jnp.where(concentration < 0, -concentration, concentration))
        if "CL" in p:
            loss = loss + p["CL"] * concentration
        rates = {"central": -loss}
        if depot:
            absorbed = p["KA"] * y.depot
            rates["depot"] = -absorbed
            rates["central"] = rates["central"] + absorbed
        if number == 2:
            flow = p["Q"] * (concentration - y.peripheral1 / p["V2"])
            rates["peripheral1"] = flow
            rates["central"] = rates["central"] - flow
        return rates

    def concentration(y: Record, phi: Record, x: Any) -> Any:
        return y.central / read(phi)["V"]

    model = ode(
        michaelis_menten_rates,
        states,
        concentration,
        lag=lag,
        bioavailability=bioavailability,
        duration=duration,
        rate=rate,
        **options,
    )
    spread = (1,) if route in ("zero-order", "zero then first") else ()
    return dataclasses.replace(model, spread=spread, label=f"michaelis_menten({number}, {route!r})")


class _Reader:
    """The parameters of phi by their first names. **Arguments:** `title` of the model; `needed`: their first names."""

    def __init__(self, title: str, needed: tuple[str, ...]):
        self.title, self.needed = title, needed

    def __call__(self, phi: Any) -> dict[str, Any]:
        """**Raises:** ModelError where a parameter is lacking."""
        values = values_by_name(phi)
        found = {name: first_of(_NAMES[name], values) for name in self.needed}
        if None in found.values():
            needed = [_NAMES[name] for name in self.needed]
            raise ModelError(missing_parameters(self.title, needed, values, "A linear clearance CL may be added."))
        return {name: values[own or ""] for name, own in found.items()} | {k: values[k] for k in ("CL",) if k in values}
