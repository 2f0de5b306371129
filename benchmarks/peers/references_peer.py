"""pynlme on a reference case: reads what references_worker.py reads, prints what common.py prints.

ML follows R's nlme (`compat="r"`), or its own default, nlmefit's iteration, for the program "pynlme-matlab"; REML
follows nlmefit's: pynlme documents that as the restricted likelihood, and its copy of R's as none. nlmefit's gets a
Cholesky factor of psi: with its default, the matrix logarithm, it is slower and ends in an error on CO2. Every function
brings its analytic derivatives and is called once for all groups.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from typing import Any

import numpy as np
from common import clocked
from pynlme import fit_nlme, lindstrom_bates, with_jacobian


def columns(phi: Any) -> list[Any]:
    return [phi[..., k] for k in range(phi.shape[-1])]


def ssfol(phi, x):
    """Prediction and its derivatives (rows, 3) in lKe, lKa, lCl; x holds Dose and Time."""
    lke, lka, lcl = columns(phi)
    ke, ka, time = np.exp(lke), np.exp(lka), x[:, 1]
    slow, fast = np.exp(-ke * time), np.exp(-ka * time)
    factor = x[:, 0] * np.exp(lke + lka - lcl) / (ka - ke)
    curve = factor * (slow - fast)
    by_ke = curve * (1 + ke / (ka - ke)) - factor * ke * time * slow
    by_ka = curve * (1 - ka / (ka - ke)) + factor * ka * time * fast
    return curve, np.stack([by_ke, by_ka, -curve], axis=-1)


def biexp(phi, x):
    """Prediction and its derivatives (rows, 4) in A1, lrc1, A2, lrc2; x holds time."""
    a1, lrc1, a2, lrc2 = columns(phi)
    time = x[:, 0]
    first, second = np.exp(-np.exp(lrc1) * time), np.exp(-np.exp(lrc2) * time)
    slopes = [first, -a1 * first * np.exp(lrc1) * time, second, -a2 * second * np.exp(lrc2) * time]
    return a1 * first + a2 * second, np.stack(slopes, axis=-1)


def logis(phi, x):
    """Prediction and its derivatives (rows, 3) in Asym, xmid, scal; x holds t."""
    asym, xmid, scal = columns(phi)
    z = (x[:, 0] - xmid) / scal
    share = 1 / (1 + np.exp(-z))
    bent = asym * share * (1 - share) / scal
    return asym * share, np.stack([share, -bent, -bent * z], axis=-1)


def asymp_off(phi, x):
    """Prediction and its derivatives (rows, 3) in Asym, lrc, c0; x holds conc."""
    asym, lrc, c0 = columns(phi)
    rate, past = np.exp(lrc), x[:, 0] - c0
    left = np.exp(-rate * past)
    return asym * (1 - left), np.stack([1 - left, asym * left * rate * past, -asym * left * rate], axis=-1)


FUNCTIONS = {"ssfol": ssfol, "biexp": biexp, "logis": logis, "asympOff": asymp_off}
OPTIONS = {
    ("pynlme", "lme"): {"compat": "r"},
    ("pynlme-matlab", "lme"): {"cov_parametrization": "chol"},
    ("pynlme", "relme"): {"cov_parametrization": "chol", "approximation_type": "RELME"},
}


def main() -> None:
    asked = json.loads(sys.argv[1])
    function, names, effects = FUNCTIONS[asked["function"]], list(asked["starts"]), len(asked["random"])
    modelfun = with_jacobian(lambda phi, x: function(phi, x)[0], lambda phi, x: function(phi, x)[1])
    pattern = np.eye(effects) if asked["psi"] == "diagonal" else np.ones((effects, effects))

    def read(path):
        labels = np.loadtxt(path, delimiter=",", skiprows=1, usecols=0, dtype=str)
        y, *x = np.loadtxt(path, delimiter=",", skiprows=1, usecols=range(1, 2 + len(asked["x"])), unpack=True)
        return np.column_stack(x), y, np.unique(labels, return_inverse=True)[1]

    def fit(table):
        beta, psi, stats, _ = fit_nlme(
            *table,
            None,
            modelfun,
            np.array(list(asked["starts"].values())),
            re_params_select=np.array([name in asked["random"] for name in names]),
            vectorization="full",
            cov_pattern=pattern,
            **OPTIONS[asked["program"], asked["method"]],
        )
        reached = {"log_likelihood": float(stats.logl), "beta": beta.tolist(), "psi": psi.tolist()}
        return reached | {"sigma": float(stats.errorparam[0]), "se_beta": stats.sebeta.tolist()}

    tables = [read(path) for path in asked["tables"]]
    said = {"program": "pynlme", "version": version("pynlme"), "kernels": lindstrom_bates._kernels is not None}
    said |= clocked(fit, tables[0])
    if len(tables) > 1:
        said["second"] = clocked(fit, tables[1])
    print(json.dumps(said))


if __name__ == "__main__":
    main()
