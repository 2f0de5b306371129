"""One log-likelihood for every program: FOCEI (Laplace with Gauss-Newton curvature) at given estimates, or the integral
itself by adaptive Gauss-Hermite quadrature, for the programs that maximise that.

nlme reports the likelihood of its linearised model and nlmer its own Laplace approximation, so their reported numbers
cannot be compared with ours. This referee shares no code with any of them: plain numpy, the modes by damped
Gauss-Newton from z = 0, derivatives of f by the complex step.

    log L = sum_i  - n/2 log(2 pi sigma^2) - |y - f(L z)|^2 / (2 sigma^2) - z'z/2 - 1/2 log det(I + J'J / sigma^2)

with Psi = L L', b = L z, J = df/dz at the mode. With NODES nodes a dimension the Gaussian integral, of curvature
H = I + J'J / sigma^2, gives way to quadrature with nodes around the mode, spread by H^-1; one node is FOCEI again. The
last line of the output is one JSON object; a list of estimates gives a list of log-likelihoods.

    python benchmarks/referee.py DATA.csv '{"beta": [..3], "psi": [[..]], "sigma": 0.7}' [NODES]
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable

import numpy as np
from simulate import concentration

STEP = 1e-30  # of the complex step: exact to rounding at any size this small
DECREMENT = 1e-13  # of every group's Newton decrement, in units of log-likelihood: modes are found below it


def read_balanced(path: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times, doses and concentrations, each (groups, obs), of a table with the same number of rows in every group."""
    table = np.genfromtxt(path, delimiter=",", names=True)
    _, counts = np.unique(table["Subject"], return_counts=True)
    if np.any(counts != counts[0]):
        raise SystemExit("the referee takes balanced tables only")
    order = np.argsort(table["Subject"], kind="stable")
    return tuple(table[name][order].reshape(len(counts), -1) for name in ("Time", "Dose", "conc"))


def square_root(psi: np.ndarray) -> np.ndarray:
    """A factor L of a covariance that may be singular: psi = L L'."""
    values, vectors = np.linalg.eigh(psi)
    return vectors * np.sqrt(np.maximum(values, 0.0))


def log_integral(
    joint: Callable[[np.ndarray], np.ndarray], z: np.ndarray, hessian: np.ndarray, nodes: int
) -> np.ndarray:
    """log of the integral of (2 pi)^(-q/2) exp(-joint(z)) over z (groups, q), around the modes `z` with curvature
    `hessian` (groups, q, q): a product rule of `nodes` a dimension. A value for every group."""
    places, weights = np.polynomial.hermite.hermgauss(nodes)
    spread = np.sqrt(2) * np.swapaxes(np.linalg.inv(np.linalg.cholesky(hessian)), 1, 2)
    total = np.full(len(z), -np.inf)
    for chosen in itertools.product(range(nodes), repeat=z.shape[1]):
        x, weight = places[list(chosen)], weights[list(chosen)]
        total = np.logaddexp(total, np.log(weight).sum() + x @ x - joint(z + spread @ x))
    return total + np.linalg.slogdet(spread)[1] - 0.5 * z.shape[1] * np.log(2 * np.pi)


def log_likelihood(path: str, beta: np.ndarray, psi: np.ndarray, sigma: float, nodes: int = 1) -> tuple[float, float]:
    """The log-likelihood above and the largest score of any group at its mode (a check that the modes were found)."""
    time, dose, conc = read_balanced(path)
    factor = square_root(psi)

    def predict(z: np.ndarray, at: slice | np.ndarray = slice(None)) -> np.ndarray:
        return concentration(beta + z @ factor.T, time[at], dose[at])

    def joint(z: np.ndarray, at: slice | np.ndarray = slice(None)) -> np.ndarray:
        return 0.5 * np.sum((conc[at] - predict(z, at)) ** 2, axis=1) / sigma**2 + 0.5 * np.sum(z**2, axis=1)

    def expansion(z: np.ndarray, at: slice | np.ndarray = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """The score and the Gauss-Newton curvature of minus the joint."""
        jac = np.stack([np.imag(predict(z + 1j * STEP * unit, at)) / STEP for unit in identity], axis=-1)
        score = np.einsum("gok,go->gk", jac, conc[at] - predict(z, at)) / sigma**2 - z
        return score, identity + np.einsum("gok,gol->gkl", jac, jac) / sigma**2

    identity = np.eye(len(beta))
    z, damping = np.zeros((len(conc), len(beta))), np.full(len(conc), 1e-6)
    value, searching = joint(z), np.arange(len(conc))
    for _ in range(500):
        score, hessian = expansion(z[searching], searching)
        damped = hessian + damping[searching, None, None] * identity
        step = np.linalg.solve(damped, score[:, :, None])[:, :, 0]
        converged = np.sum(score * step, axis=1) < DECREMENT  # and takes this last step
        trial = z[searching] + step
        with np.errstate(all="ignore"):
            proposed = joint(trial, searching)
        better = converged | (proposed <= value[searching])
        z[searching[better]], value[searching[better]] = trial[better], proposed[better]
        damping[searching] = np.maximum(damping[searching] * np.where(better, 0.1, 10.0), 1e-12)
        searching = searching[~converged]
        if not len(searching):
            break
    score, hessian = expansion(z)
    constant = 0.5 * conc.size * np.log(2 * np.pi * sigma**2)
    return float(np.sum(log_integral(joint, z, hessian, nodes)) - constant), float(np.abs(score).max())


def main() -> None:
    """Print the log-likelihood at the estimates given as JSON."""
    estimates, nodes = json.loads(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 1
    several = isinstance(estimates, list)
    evaluated = [
        log_likelihood(sys.argv[1], np.array(entry["beta"]), np.array(entry["psi"]), float(entry["sigma"]), nodes)
        for entry in (estimates if several else [estimates])
    ]
    values, scores = map(list, zip(*evaluated, strict=True))
    print(json.dumps({"log_likelihood": values if several else values[0], "largest_score": max(scores)}))


if __name__ == "__main__":
    main()
