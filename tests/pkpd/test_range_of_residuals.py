"""Rows with doses, and responses, that an error model cannot have: each is named."""

import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.errors import ModelError

PARAMETERS = [jn.Parameter("CL", 3.0, "log", random=True), jn.Parameter("V", 30.0, "log")]


def records(before_dose: float | None = None) -> jn.GroupedData:
    """Three subjects; the first with a sample before the dose."""
    frame = pd.DataFrame(
        {
            "ID": np.repeat([1, 2, 3], 4),
            "TIME": [0.0, 1, 4, 8] * 3,
            "AMT": [100, 0, 0, 0] * 3,
            "DV": [np.nan, 2.9, 2.2, 1.4, np.nan, 3.1, 1.9, 1.1, np.nan, 2.4, 1.8, 1.3],
        }
    )
    if before_dose is not None:
        frame = pd.concat([pd.DataFrame({"ID": [1], "TIME": 0.0, "AMT": 0, "DV": before_dose}), frame])
    return jn.GroupedData.from_nonmem(frame.reset_index(drop=True))


@pytest.mark.parametrize("response", [0.0, 0.1])
@pytest.mark.parametrize("error", ["exponential", jn.error.transform_both_sides("log")])
def test_samples_before_the_first_dose_under_a_logarithm(error, response):
    model = jn.NLMEModel(jn.pkpd.compartments(1), PARAMETERS, error=error)
    fit = jn.fit(model, records(response), "focei", standard_errors=False)
    assert not fit.converged
    assert "In row 1 (TIME = 0) the prediction or the response is outside the range" in " ".join(
        str(fit.status).split()
    )


def test_data_that_are_censored_throughout():
    data = records()
    frame = data.to_nonmem().assign(LLOQ=100.0)
    model = jn.NLMEModel(jn.pkpd.compartments(1), PARAMETERS, error="proportional", censoring="M3")
    with pytest.raises(ModelError, match=r"every response of the data is censored.*limits of quantification"):
        jn.fit(model, jn.GroupedData.from_nonmem(frame), "laplace", standard_errors=False)
