"""One fit shared by the tests of this folder: theophylline, rows shuffled, three responses missing."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn


def one_compartment(phi, x, v):
    """First-order absorption and elimination; x.Dose in mg."""
    ke = phi.cl / phi.vol
    return x.Dose * phi.ka / (phi.vol * (phi.ka - ke)) * (jnp.exp(-ke * x.Time) - jnp.exp(-phi.ka * x.Time))


MODEL = jn.NLMEModel(
    one_compartment,
    [
        jn.Parameter("ka", 1.5, "log", random=True),
        jn.Parameter("cl", 2.8, "log", random=True, covariates=["center(log(Wt))"]),
        jn.Parameter("vol", 32.0, "log", random=True),
    ],
    error="combined",
)


@pytest.fixture(scope="session")
def frame() -> pd.DataFrame:
    """Theophylline with doses in mg (R's table has mg/kg), rows in random order, three responses missing."""
    table = jn.datasets.theophylline()
    table["Dose"] = table.Dose * table.Wt
    table = table.sample(frac=1.0, random_state=4).reset_index(drop=True)
    table.loc[[5, 17, 100], "conc"] = np.nan
    return table


@pytest.fixture(scope="session")
def data(frame: pd.DataFrame) -> jn.GroupedData:
    return jn.GroupedData.from_frame(frame, "Subject", "conc", ["Time", "Dose"], "Wt")


@pytest.fixture(scope="session")
def fit(data: jn.GroupedData) -> jn.Fit:
    return jn.fit(MODEL, data, "focei").throw()
