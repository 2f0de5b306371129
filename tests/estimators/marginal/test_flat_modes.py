"""Laplace's approximation has no maximum where the mode of a group becomes flat, and the status says so."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

import jaxnlme as jn


def sigmoid(phi, x):
    return 5.0 + phi.Emax / (1.0 + jnp.exp(3.0 * (jnp.log(phi.ED50) - x.log_dose)))


def simulated() -> jn.GroupedData:
    """Two doses of 40 subjects; at the estimates the curvature of subject 17 at its mode goes to zero."""
    rng = np.random.default_rng(6)
    log_dose = np.log(np.tile([300.0, 1000.0], (40, 1)))
    log_ed50 = np.log(500.0) + 0.7 * rng.standard_normal((40, 1))
    emax = 30.0 * np.exp(0.7 * rng.standard_normal((40, 1)))
    f = 5.0 + emax / (1.0 + np.exp(3.0 * (log_ed50 - log_dose)))
    y = f * (1.0 + 0.1 * rng.standard_normal(f.shape))
    return jn.GroupedData.from_arrays(y.ravel(), np.repeat(np.arange(40), 2), {"log_dose": log_dose.ravel()})


def test_a_flat_mode_is_named_where_laplace_has_no_maximum() -> None:
    parameters = [jn.Parameter(name, value, "log", random=True) for name, value in (("Emax", 30.0), ("ED50", 500.0))]
    model = jn.NLMEModel(sigmoid, parameters, covariance="diagonal", error="proportional")
    data = simulated()
    fit = jn.fit(model, data, "laplace", progress=False)
    assert not fit.converged
    sentence = next(s for s in fit.status.sentences if "flat along a direction" in s)
    assert sentence.startswith("Group 17:") and "no upper bound" in sentence and "use 'focei'" in sentence

    # The Hessian of subject 17's joint density at the mode, in whitened units, by differences.
    values = fit.values
    sd = np.array([values["sd(Emax)"], values["sd(ED50)"]])
    y, log_dose = data.y[17], data.x["log_dose"][17]

    def minus_joint(z: np.ndarray) -> float:
        emax, ed50 = values["Emax"] * np.exp(sd[0] * z[0]), values["ED50"] * np.exp(sd[1] * z[1])
        f = 5.0 + emax / (1.0 + np.exp(3.0 * (np.log(ed50) - log_dose)))
        return float(np.sum(0.5 * ((y / f - 1.0) / values["b"]) ** 2 + np.log(f)) + 0.5 * z @ z)

    z = fit.random_effects.to_numpy()[17, :2] / sd
    step = 1e-4 * np.eye(2)
    hessian = np.array([
        [
            sum(s * t * minus_joint(z + s * step[j] + t * step[k]) for s in (1, -1) for t in (1, -1)) / 4e-8
            for k in range(2)
        ]
        for j in range(2)
    ])  # fmt: skip
    assert np.linalg.eigvalsh(hessian)[0] < 0.02
