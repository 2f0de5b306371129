"""How refits ended, in words."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxnlme.estimators.jobs import Outcomes
from jaxnlme.estimators.verdict import CONVERGED

# How a refit ended whose groups leave some parameter anywhere (see `informed`).
NOTHING_SAID = "without information on some parameter"


def ended(out: Outcomes) -> np.ndarray:
    """Which jobs (jobs,) came to a maximum: finite, a predicted gain below 1e-6, every group's mode found, data that
    tell every parameter."""
    return out.informed & out.done & np.isfinite(out.value) & (out.decrement < CONVERGED) & (out.lost == 0)


def words(out: Outcomes) -> np.ndarray:
    """How each job (jobs,) ended, in words."""
    finite = np.isfinite(out.value)
    near = finite & (out.decrement < CONVERGED)
    return np.select(
        [~out.done, ~finite, ~out.informed, near & (out.lost > 0), near],
        ["not run", "not finite", NOTHING_SAID, "a mode not found", "converged"],
        "not converged",
    ).astype(object)


def failures(status: Any, what: str) -> list[str]:
    """Sentences on jobs that did not end, none where all did; `status` (jobs,) as `words` gives them."""
    status = np.asarray(status)
    bad = [word for word in ("not converged", "not finite", NOTHING_SAID, "a mode not found") if (status == word).any()]
    out = []
    missing = int(np.sum(status == "not run"))
    if missing:
        out.append(f"Interrupted: {len(status) - missing} of {len(status)} {what} were run.")
    if bad:
        parts = ", ".join(f"{int(np.sum(status == word))} {word}" for word in bad)
        count = sum(int(np.sum(status == word)) for word in bad)
        out.append(
            f"{count} of {len(status) - missing} {what} failed ({parts}); their values are NaN and count in no number."
        )
    return out
