"""Multistart: fits from many starting points, and the distinct maxima that they reach."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxnlme.arguments import check_choice, check_number, check_progress
from jaxnlme.errors import OptionError, check_whole_number
from jaxnlme.model.params import Params
from jaxnlme.refits.jobs import Outcomes, empty_overlay, failures, outcome_sentences, reached_maximum
from jaxnlme.refits.refits import Refits, check_option_names, natural_se, pack_on_host
from jaxnlme.refits.settings import MULTISTART
from jaxnlme.refits.zero_variances import restart_zero_variances
from jaxnlme.results.display import Printable, Table, number
from jaxnlme.results.record import FitRecord
from jaxnlme.signatures import public

if TYPE_CHECKING:
    import pandas as pd

AROUND = ("start", "estimates")


@check_option_names
@public("fit.multistart")
def multistart(
    fit: FitRecord,
    n: int = 64,
    *,
    spread: float = 1.0,
    around: str = "start",
    seed: int = 0,
    max_iterations: int = 100,
    width: int | None = None,
    progress: bool | None = None,
    refit: Callable[..., FitRecord],
) -> Multistart:
    """Fit a model from `n` starting points, all in one compiled program. The fit itself need not have converged.

    **Arguments:**

    - `around`: "start", the model's starting values (residual scales, where the user gave none, at the fit's), or
      "estimates". The first point is this centre itself.
    - `spread`: standard deviation of the other points on the unconstrained scale, absolute for entries on a log or
      logit scale (1: a factor e up or down), relative to their size for other entries. The points are a Latin hypercube
      of normal quantiles.
    - `seed` of the draws; `max_iterations` of a refit; `width`: the number of refits at a time; `progress` as in `fit`.
    - `refit`: the function `jn.fit`, which `Multistart.best` calls.

    Mode searches start from zero. The refits run on the default device with all groups at once; only `best` uses the
    `devices` and `chunk_groups` of the fit.
    **Returns:** a Multistart, whose `best` is a full Fit.
    **Raises:** OptionError for an unknown `around`, a `spread` that is not positive, numbers that are not whole or too
    small, around="estimates" of a fit without estimates, and the fits that `Refits` refuses.
    **Source:** McKay, Beckman and Conover (1979), Technometrics 21, 239-245 (Latin hypercube sampling).
    """
    check_choice("around", around, AROUND)
    progress = check_progress(progress)
    n = check_whole_number("n", n, 1, "the number of starts")
    spread = check_number("spread", spread, 0.0, above=True)
    seed = check_whole_number("seed", seed, 0)
    refits = Refits(fit, "a multistart", max_iterations, width, require_converged=False)
    if around == "estimates" and not np.isfinite(fit.log_likelihood):
        raise OptionError("the fit has no estimates to start around; use around='start'.")
    starts = _starts(refits, n, spread, around, seed)
    out = refits.run(
        lambda indices: empty_overlay(refits.problem),
        starts,
        modes=np.zeros_like(np.asarray(fit.modes)),
        evaluations=MULTISTART.expected_evaluations,
        progress=progress,
        name="multistart",
    )
    return _record(refits, out, starts, refit)


def _starts(refits: Refits, n: int, spread: float, around: str, seed: int) -> np.ndarray:
    """Starting points (n, packed), the centre first; arguments as of `multistart`."""
    from scipy.special import ndtri

    fit, binding = refits.fit, refits.binding
    centre = pack_on_host(binding.start)
    if np.isfinite(fit.log_likelihood):
        estimates = pack_on_host(fit.params)
        automatic = [entry.automatic for entry in binding.density.error.parameters]
        index = np.arange(refits.dense - len(automatic), refits.dense)[np.array(automatic, bool)]
        centre[index] = estimates[index]
        centre = estimates if around == "estimates" else centre
    centre, _ = restart_zero_variances(binding, centre)
    first = len(binding.density.beta_names)
    unit = np.ones(len(centre))
    for k, transform in enumerate(binding.transforms):
        if transform is None or transform.name == "identity":
            least = MULTISTART.least_coefficient if transform is None else MULTISTART.least_value
            unit[k] = max(abs(centre[k]), least)
    for index, _, others in binding.density.covariance.log_scales:
        for other in others:  # entries of a factor have the unit of their effect
            unit[first + other] = np.exp(centre[first + index]) if np.isfinite(centre[first + index]) else 1.0
    weights = np.maximum(np.abs(centre[refits.dense :]), MULTISTART.least_weight)
    unit[refits.dense :] = MULTISTART.weight_spread * weights
    rng = np.random.default_rng(seed)
    moving = np.flatnonzero(refits.free)
    starts = np.tile(centre, (n, 1))
    for k in moving:
        levels = (rng.permutation(n - 1) + rng.uniform(size=n - 1)) / max(n - 1, 1)
        starts[1:, k] += spread * unit[k] * ndtri(levels)
    return starts


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Multistart(Printable):
    """Maxima reached from many starting points.

    **Fields:** `fit`; `refit`, the function `jn.fit`; `starts`, a row per start: the values at its start ("start of
    NAME") and its end, by name, `log_likelihood`, `status`, `maximum` (its row in `maxima`, -1 where it failed),
    `iterations`, `evaluations`; `maxima`, a row per distinct maximum, the highest first: `log_likelihood` (of all
    groups), `gain` over the log-likelihood plus log prior of the fit, number `starts` and fraction `share` of the
    starts that reached it, `fit`: it is the maximum of the fit, and the values; `sentences`; `x` (maxima, n), packed;
    `interrupted` by Ctrl-C.
    """

    fit: FitRecord
    refit: Callable[..., FitRecord]
    starts: pd.DataFrame
    maxima: pd.DataFrame
    sentences: tuple[str, ...]
    x: np.ndarray
    interrupted: bool = False

    @functools.cached_property
    def best(self) -> FitRecord:
        """Fit from the highest maximum, with convergence checks and standard errors, on as many devices and in chunks
        as the fit; the fit itself where no maximum is higher.

        **Raises:** OptionError where no start reached a maximum."""
        if not len(self.maxima):
            raise OptionError("no start reached a maximum, so there is no best one.")
        if self.fit.converged and not self.maxima["gain"].iloc[0] > MULTISTART.better_by:
            return self.fit
        start = self.params_of_maximum(0)
        # As many devices as the fit used, or as this machine has.
        devices, chunk = (self.fit.options.get(name) for name in ("devices", "chunk_groups"))
        devices = None if devices is None else min(devices, len(jax.local_devices()))
        return self.refit(
            self.fit.model,
            self.fit.data,
            self.fit.estimator,
            start=start,
            progress=False,
            devices=devices,
            chunk_groups=chunk,
        )

    def params_of_maximum(self, row: int) -> Params:
        """The Params at the maximum in a `row` of `maxima`."""
        return Refits(self.fit, "a multistart", 1, require_converged=False).params(self.x[row])

    def _tables(self) -> list[Table]:
        if not len(self.maxima):
            return []
        shown = self.maxima.head(MULTISTART.maxima_shown)
        header = ("", *(f"maximum {k + 1}" for k in range(len(shown))))
        rows = [["log-likelihood", *(f"{v:.4f}" for v in shown["log_likelihood"])]]
        rows.append(["starts", *(f"{v:d}" for v in shown["starts"])])
        rows.append(["the fit's", *("yes" if v else "" for v in shown["fit"])])
        rows += [[name, *(number(v) for v in shown[name])] for name in self.fit.values]
        return [Table("Maxima, the highest first; values on their natural scale", header, rows)]


def _record(refits: Refits, out: Outcomes, starts: np.ndarray, refit: Callable[..., FitRecord]) -> Multistart:
    """The Multistart of the outcomes, with its sentences; `starts` (jobs, n), packed."""
    import pandas as pd

    fit, values, good = refits.fit, refits.values(out), reached_maximum(out)
    best = fit.log_likelihood + fit.log_prior
    maximum = _clusters(refits, out, values, good)
    x, rows = [], []
    for k in range(int(maximum.max(initial=-1)) + 1):
        members = np.flatnonzero(maximum == k)
        top = members[np.argmin(out.value[members])]
        x.append(out.x[top])
        gain = -float(out.value[top]) - best
        same = (
            np.isfinite(best)
            and abs(gain) < MULTISTART.same_objective
            and _near(refits, values.iloc[top].to_numpy(), _value_array(fit))
        )
        row = {
            "log_likelihood": float(out.log_likelihood[top]),
            "gain": gain,
            "starts": len(members),
            "share": len(members) / max(int(out.done.sum()), 1),
            "fit": bool(same),
        }
        rows.append(row | values.iloc[top].to_dict())
    columns = ["log_likelihood", "gain", "starts", "share", "fit", *fit.values]
    maxima = pd.DataFrame(rows, columns=columns).astype({"starts": int, "fit": bool})
    maxima.index = pd.RangeIndex(len(maxima), name="maximum")
    table = pd.DataFrame(
        [{f"start of {name}": v for name, v in refits.binding.values(refits.params(s)).items()} for s in starts]
    )
    table = pd.concat([table, values], axis=1)
    table["log_likelihood"] = np.where(good, out.log_likelihood, np.nan)
    table["status"], table["maximum"], table["iterations"] = outcome_sentences(out), maximum, out.iterations
    table["evaluations"] = out.evaluations
    table.index.name = "start"
    sentences = _sentences(fit, out, maxima, good, table) + refits.device_sentences
    return Multistart(fit, refit, table, maxima, tuple(sentences), np.array(x), out.interrupted)


def _value_array(fit: FitRecord) -> np.ndarray:
    """The values of the fit (values,)."""
    return np.array(list(fit.values.values()), float)


def _near(refits: Refits, a: np.ndarray, b: np.ndarray) -> bool:
    """True if the user-scale values `a` and `b` (values,) are the same but for errors of refits."""
    fit = refits.fit
    se = np.full(len(a), np.nan) if fit.information is None else natural_se(fit)[list(fit.values)].to_numpy(float)
    scale = np.where(np.isfinite(se), se, np.maximum(np.abs(a), np.abs(b)))
    rounding = MULTISTART.same_relative * np.maximum(np.abs(a), np.abs(b))
    return bool(np.all(np.abs(a - b) <= MULTISTART.same_values * scale + rounding + MULTISTART.same_absolute))


def _clusters(refits: Refits, out: Outcomes, values: pd.DataFrame, good: np.ndarray) -> np.ndarray:
    """Number (jobs,) of the maximum that each job reached, 0 for the highest; -1 where it failed.

    **Arguments:** `values`, user-scale, a row per job; `good` (jobs,) bool: the job reached a maximum.
    """
    maximum = np.full(len(good), -1)
    representatives: list[int] = []
    table = values.to_numpy(float)
    for job in sorted(np.flatnonzero(good), key=lambda j: out.value[j]):
        for k, other in enumerate(representatives):
            same_objective = out.value[job] - out.value[other] < MULTISTART.same_objective
            if same_objective and _near(refits, table[job], table[other]):
                maximum[job] = k
                break
        else:
            maximum[job] = len(representatives)
            representatives.append(int(job))
    return maximum


def _sentences(fit: FitRecord, out: Outcomes, maxima: Any, good: np.ndarray, table: Any) -> list[str]:
    """Sentences on the maxima and their comparison with the fit.

    **Arguments:** `good` (jobs,) bool: the job reached a maximum; `maxima`, `table`: as in Multistart (`starts`).
    """
    ran = int(out.done.sum())
    distinct = f"{len(maxima)} distinct {'maximum' if len(maxima) == 1 else 'maxima'}"
    sentences = [f"Multistart of a fit by {fit.method}: {int(good.sum())} of {ran} starts reached {distinct}."]
    sentences += failures(table["status"], "starts")
    if not len(maxima):
        return sentences
    gain = float(maxima["gain"].iloc[0])
    share = f"reached from {maxima['starts'].iloc[0]} of {ran} starts"
    if not np.isfinite(gain):
        sentences.append("The fit has no estimates to compare with.")
    elif gain > MULTISTART.better_by:
        sentences.append(
            f"A BETTER MAXIMUM than the fit's was found, by {gain:.4f} log-likelihood units ({share}): see `.best`."
        )
    elif maxima["fit"].any():
        k = int(np.argmax(maxima["fit"].to_numpy()))
        same = f", and {len(maxima) - 1} lower or equal" if len(maxima) > 1 else ""
        sentences.append(
            f"No better maximum than the fit's was found (it was reached from {maxima['starts'].iloc[k]} of {ran} "
            f"starts{same})."
        )
        ties = int(np.sum((maxima["gain"] > -MULTISTART.same_objective) & ~maxima["fit"]))
        if ties:
            sentences.append(
                f"{ties} other {'maximum is' if ties == 1 else 'maxima are'} as high as the fit's: the data do not "
                "distinguish these parameter values."
            )
    elif gain > -MULTISTART.same_objective:
        sentences.append(
            f"No start reached the fit's maximum, but one that is as high was found ({share}): the data do not "
            "distinguish these parameter values."
        )
    else:
        sentences.append(f"No start reached the fit's maximum, which is higher by {-gain:.4f} than all others found.")
    return sentences
