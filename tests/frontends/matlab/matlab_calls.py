"""Helpers of the tests of nlmefit and nlmefitsa: one small table, model functions at module level (so that programs are
compiled once), and short calls."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxnlme as jn

GROUPS = 10
SIZES = (6, 5, 6, 4, 6, 6, 5, 6, 6, 3)
GROUP = np.repeat(np.arange(GROUPS), SIZES)
_RNG = np.random.default_rng(3)
TIME = np.concatenate([np.sort(_RNG.uniform(0.0, 3.0, n)) for n in SIZES])
_B = _RNG.normal(size=(GROUPS, 2)) @ np.linalg.cholesky([[0.25, 0.03], [0.03, 0.04]]).T
Y = (5.0 + _B[GROUP, 0]) * np.exp(-(1.0 + _B[GROUP, 1]) * TIME) + 0.15 * _RNG.normal(size=len(GROUP))
COVARIATE = _RNG.normal(size=GROUPS)
LATE = (TIME > 1.0).astype(float)
START = np.array([4.0, 0.8])
N = len(Y)


def decay(phi, xfun):
    """Rows by themselves; phi (P,) or (n, P)."""
    return phi[..., 0] * jnp.exp(-phi[..., 1] * xfun[:, 0])


def decay_with_size(phi, xfun, vfun):
    """`decay` with a group-level factor, the sum of vfun, whatever its shape."""
    return (1.0 + 0.05 * jnp.sum(vfun)) * decay(phi, xfun)


def native_decay(phi, x):
    """`decay` for `jn.fit`."""
    return phi.size * jnp.exp(-phi.rate * x.t)


def call(**options: Any) -> Any:
    """`jn.nlmefit` on the table; positional arguments by their names, ApproximationType 'FOCE' by default."""
    arguments = {"X": TIME, "y": Y, "group": GROUP, "V": None, "modelfun": decay, "beta0": START}
    return jn.nlmefit(**(arguments | {"ApproximationType": "FOCE"} | options))


def call_sa(**options: Any) -> Any:
    """`jn.nlmefitsa` on the table, without its plot unless Options are given."""
    arguments = {"X": TIME, "y": Y, "group": GROUP, "V": None, "modelfun": decay, "beta0": START}
    return jn.nlmefitsa(**(arguments | {"Options": {"OutputFcn": None}} | options))


def native(designs: dict[str, Any], **more: Any) -> jn.Fit:
    """The same table fitted by `jn.fit` with explicit designs in its own layout."""
    data = jn.GroupedData.from_arrays(Y, GROUP, {"t": TIME})
    parameters = [jn.Parameter("size", 4.0), jn.Parameter("rate", 0.8)]
    model = jn.NLMEModel(native_decay, parameters, **({"random_design": np.eye(2)} | designs))
    return jn.fit(model, data, "foce", **more)


def observation_designs() -> tuple[np.ndarray, np.ndarray]:
    """A (2, 3, N) and B (2, 2, N) that vary by observation, with a random slope."""
    A, B = np.zeros((2, 3, N)), np.zeros((2, 2, N))
    A[0, 0] = A[1, 1] = B[0, 0] = 1.0
    A[1, 2], B[1, 1] = LATE, 1.0 + LATE
    return A, B


def group_designs() -> tuple[np.ndarray, np.ndarray]:
    """A (2, 3, GROUPS) with a covariate, and B (2, 2, GROUPS) that varies with it."""
    A = np.zeros((2, 3, GROUPS))
    A[0, 0] = A[1, 1] = 1.0
    A[1, 2] = COVARIATE
    return A, A[:, :2] * (1.0 + 0.1 * COVARIATE)


class Recorder:
    """An output function that records its calls, and stops the fit at an iteration."""

    def __init__(self, stop_at: float = np.inf):
        self.calls: list[tuple[np.ndarray, Any, str]] = []
        self.stop_at = stop_at

    def __call__(self, beta: np.ndarray, status: Any, state: str) -> bool:
        self.calls.append((beta, status, state))
        return status.inner.procedure == "none" and status.iteration >= self.stop_at


def by_cell(pages: np.ndarray) -> np.ndarray:
    """A design (P, k, N) as (groups, obs, P, k), the last row repeated in padding."""
    out = np.empty((GROUPS, max(SIZES), *pages.shape[:2]))
    ends = np.cumsum(SIZES)
    for i, (end, n) in enumerate(zip(ends, SIZES, strict=True)):
        for j in range(max(SIZES)):
            out[i, j] = pages[:, :, end - n + min(j, n - 1)]
    return out
