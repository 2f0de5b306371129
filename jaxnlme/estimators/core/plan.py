"""The options of a fit other than model, data and estimator."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from jaxnlme.estimators.core.base import AbstractEstimator
from jaxnlme.estimators.core.callbacks import Callback


@dataclasses.dataclass(frozen=True)
class Plan:
    """The checked options of `fit` other than model, data and estimator."""

    start: Any
    starts: str | None
    standard_errors: bool
    callbacks: Sequence[Callback]
    progress: bool | None
    on_bad_group: str
    mesh: Mesh | None
    chunk_groups: int | None
    checkpoint: Path | None

    def options(self, estimator: AbstractEstimator) -> dict[str, Any]:
        """The options that a FitRecord stores, by name."""
        return {
            "method": estimator.method.name,
            "max_iterations": int(estimator.max_iterations),
            "tolerance": float(estimator.tolerance),
            "starts": self.starts,
            "standard_errors": self.standard_errors,
            "on_bad_group": self.on_bad_group,
            "devices": None if self.mesh is None else self.mesh.devices.size,
            "chunk_groups": self.chunk_groups,
            "checkpoint": None if self.checkpoint is None else str(self.checkpoint),
            "restricted": estimator.restricted,
        }
