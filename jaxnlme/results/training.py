"""The record of a training by gradients: losses by step, and the likelihood of held-out groups."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.results.display import Printable, Table, number

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TrainingRecord(Printable):
    """A training by `jn.Gradient`, as `fit.training`. It prints as sentences and a short table.

    **Fields:** arrays (steps,): `log_likelihood`, of all groups trained on, as estimated from the batch of the step;
    `objective`, the same with log prior and penalty; `gradient_norm`, of minus the objective over the number of
    groups, in the units of the optimiser; `taken`: the step was finite; `failed_groups`: groups of the batch without a
    finite likelihood; `seconds` since the start. Arrays (checks,): `check_step`, `held_out`: log-likelihood of the
    held-out groups, summed. Numbers: `steps_per_pass`, `batch_groups`, `groups` trained on, `held_out_groups`,
    `best_step` whose parameters were kept (that of the highest held-out log-likelihood, or the last), `weights`
    trained, `frozen` ones. `labels` of the held-out groups; `ending`: a sentence; `weights_criterion`: a sentence on
    the gradient in the weights at the end.
    """

    log_likelihood: np.ndarray
    objective: np.ndarray
    gradient_norm: np.ndarray
    taken: np.ndarray
    failed_groups: np.ndarray
    seconds: np.ndarray
    check_step: np.ndarray
    held_out: np.ndarray
    steps_per_pass: int
    batch_groups: int
    groups: int
    held_out_groups: int
    best_step: int
    weights: int
    frozen: int
    labels: tuple[Any, ...]
    precision: str
    ending: str
    weights_criterion: str

    @property
    def table(self) -> pd.DataFrame:
        """A row for each step: `pass` over the data, `loss` (minus the objective for each group), `log_likelihood`,
        `held_out` log-likelihood where it was computed after the step, `gradient_norm`, `taken`, `failed_groups`,
        `seconds`."""
        import pandas as pd

        n = len(self.objective)
        held = np.full(n + 1, np.nan)
        held[self.check_step] = self.held_out
        columns = {
            "pass": np.arange(n) // self.steps_per_pass,
            "loss": -self.objective / self.groups,
            "log_likelihood": self.log_likelihood,
            "held_out": held[1:],
            "gradient_norm": self.gradient_norm,
            "taken": self.taken.astype(bool),
            "failed_groups": self.failed_groups.astype(int),
            "seconds": self.seconds,
        }
        return pd.DataFrame(columns, index=pd.RangeIndex(1, n + 1, name="step"))

    @property
    def sentences(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Size of the training, its end, and the gradient in the weights."""
        n = len(self.objective)
        batch = "all of them" if self.batch_groups == self.groups else f"{self.batch_groups} at a time"
        first = f"Training: {n} steps over {self.groups} groups, {batch}, in {self.precision}."
        frozen = f", {self.frozen} held" if self.frozen else ""
        out = [first, f"{self.weights} weights were trained{frozen}. {self.ending}".strip()]
        if self.weights_criterion:
            out.append(self.weights_criterion)
        return tuple(out)

    def _tables(self) -> list[Table]:
        n = len(self.objective)
        if not n:
            return []
        marks = sorted({*np.linspace(0, n - 1, min(n, 6)).astype(int).tolist()})
        held = dict(zip(self.check_step.tolist(), self.held_out.tolist(), strict=True))
        rows = []
        for k in marks:
            known = [step for step in held if step <= k + 1]
            value = number(held[max(known)]) if known else ""
            rows.append(
                [
                    str(k + 1),
                    number(float(-self.objective[k]) / self.groups),
                    number(float(self.gradient_norm[k]), 3),
                    value,
                ]
            )
        return [Table("", ("step", "loss", "gradient", "held-out log-likelihood"), rows)]
