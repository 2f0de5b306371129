"""pynlme (PyPI), which reimplements R's nlme and MATLAB's nlmefit: arguments and output as in common.py.

The option is "r" (the iteration of R's nlme), "matlab" (that of nlmefit, approximation LME) or "foce". The model is
called once for all subjects and brings its analytic derivatives, which is how the package asks to be used for speed;
its compiled kernels are used where the installed wheel has them, and said.
"""

from __future__ import annotations

import numpy as np
from common import Arguments, report
from pynlme import fit_nlme, lindstrom_bates, with_jacobian

OPTIONS = {"r": {"compat": "r"}, "matlab": {}, "foce": {"approximation_type": "FOCE"}}


def parts(phi, x):
    """ka, cl, vol, ke, time, the factor before the exponentials, and both of them."""
    ka, cl, vol = phi[..., 0], phi[..., 1], phi[..., 2]
    ke, time = cl / vol, x[:, 0]
    return ka, cl, vol, ke, time, x[:, 1] * ka / (vol * (ka - ke)), np.exp(-ke * time), np.exp(-ka * time)


def concentration(phi, x):
    *_, factor, slow, fast = parts(phi, x)
    return factor * (slow - fast)


def jacobian(phi, x):
    """(rows, 3): derivatives by ka, cl and vol."""
    ka, _, vol, ke, time, factor, slow, fast = parts(phi, x)
    curve, gap = factor * (slow - fast), ka - ke
    by_ke = curve / gap - factor * time * slow
    by_ka = curve * (1 / ka - 1 / gap) + factor * time * fast
    return np.stack([by_ka, by_ke / vol, -by_ke * ke / vol - curve / vol], axis=-1)


def main() -> None:
    arguments = Arguments()
    pattern = {"diagonal": np.eye(3), "full": np.ones((3, 3))}[arguments.psi]

    def fit(table):
        beta, psi, stats, _ = fit_nlme(
            np.column_stack([table.time, table.dose]),
            table.conc,
            table.group,
            None,
            with_jacobian(concentration, jacobian),
            arguments.starts,
            param_transform=[1, 1, 1],
            vectorization="full",
            cov_pattern=pattern,
            **OPTIONS[arguments.option],
        )
        return {
            "kernels": lindstrom_bates._kernels is not None,
            "log_likelihood": float(stats.logl),
            "beta": beta.tolist(),
            "se_beta": stats.sebeta.tolist(),
            "psi": psi.tolist(),
            "sigma": float(stats.errorparam[0]),
        }

    report("pynlme", arguments, fit)


if __name__ == "__main__":
    main()
