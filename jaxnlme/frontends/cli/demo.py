"""The demonstration: theophylline in twelve subjects, one compartment, first-order absorption."""

from __future__ import annotations

import jax.numpy as jnp

from jaxnlme.binding.model import NLMEModel
from jaxnlme.data import datasets
from jaxnlme.data.grouped import GroupedData
from jaxnlme.model.parameters import Parameter


def one_compartment(phi, x, v):
    """Concentration (mg/L) after one oral dose; `Dose` in mg, `Time` in h, `ka` in 1/h, `cl` in L/h, `vol` in L."""
    ke = phi.cl / phi.vol
    return x.Dose * phi.ka / (phi.vol * (phi.ka - ke)) * (jnp.exp(-ke * x.Time) - jnp.exp(-phi.ka * x.Time))


def theophylline() -> tuple[NLMEModel, GroupedData]:
    """Model and data of the demonstration: log-normal ka, cl and vol, independent; constant residual error.

    **Source:** Boeckmann, Sheiner and Beal (1994); see `datasets.theophylline`. The table's dose is per kg of body
    weight, so it is multiplied by `Wt`."""
    frame = datasets.theophylline()
    frame["Dose"] = frame["Dose"] * frame["Wt"]
    data = GroupedData.from_frame(frame, group="Subject", y="conc", x=["Time", "Dose"], v=["Wt"])
    parameters = [
        Parameter("ka", 1.5, transform="log", random=True),
        Parameter("cl", 2.8, transform="log", random=True),
        Parameter("vol", 32.0, transform="log", random=True),
    ]
    return NLMEModel(one_compartment, parameters, covariance="diagonal", error="constant"), data
