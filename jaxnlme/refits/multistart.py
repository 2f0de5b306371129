"""Multistart: fits from many starting points, and the distinct maxima they lead to."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxnlme.errors import OptionError, near_matches
from jaxnlme.refits.jobs import Outcomes, failures, nothing, outcome_sentences, reached_maximum
from jaxnlme.refits.refits import Refits, named_options, natural_se, opened_variances, packed, whole_number
from jaxnlme.results.display import Printable, Table, number
from jaxnlme.results.record import Fit

if TYPE_CHECKING:
    import pandas as pd

AROUND = ("start", "estimates")
# Ends whose objectives and values differ by less are one maximum: log-likelihood units; a share of a standard error, or
# of a value where there is none.
SAME_VALUE, SAME_PLACE = 1e-3, 0.05
# A better maximum than the fit's is reported from here on, in log-likelihood units.
BETTER = 1e-4


@named_options
def multistart(
    fit: Fit,
    n: int = 64,
    *,
    spread: float = 1.0,
    around: str = "start",
    seed: int = 0,
    max_iterations: int = 100,
    width: int | None = None,
    progress: bool | None = None,
) -> Multistart:
    """Fits from `n` starting points, all in one compiled program. The fit itself need not have converged.

    **Arguments:**

    - `around`: "start", the model's starting values (residual scales, where the user gave none, at the fit's), or
      "estimates". The first point is this centre itself.
    - `spread`: standard deviation of the others on the unconstrained scale: of entries on a log or logit scale as it
      stands (1: a factor e up or down), of others times their own size. Drawn as a Latin hypercube of normal
      quantiles.
    - `seed` of the draws; `max_iterations` of a refit; `width`: how many run side by side; `progress` as in `fit`.

    Conditional modes are searched from zero. The refits run on the default device with all groups at once: the fit's
    `devices` and `chunk_groups` are those of `best` alone.
    **Returns:** a Multistart, whose `best` is a full Fit.
    **Errors:** OptionError.
    **Source:** McKay, Beckman and Conover (1979), Technometrics 21, 239-245 (Latin hypercube sampling).
    """
    if around not in AROUND:
        raise OptionError(f"around={around!r} is not known; {near_matches(around, AROUND)}")
    n = whole_number("n", n, 1, "the number of starts")
    if not 0.0 < spread < np.inf:
        raise OptionError(f"spread must be a positive number; received {spread!r}.")
    seed = whole_number("seed", seed, 0)
    refits = Refits(fit, "a multistart", max_iterations, width, converged=False)
    if around == "estimates" and not np.isfinite(fit.log_likelihood):
        raise OptionError("the fit has no estimates to start around; use around='start'.")
    starts = _starts(refits, n, float(spread), around, seed)
    out = refits.run(
        lambda indices: nothing(refits.problem),
        starts,
        modes=np.zeros_like(np.asarray(fit.modes)),
        evaluations=80,
        progress=progress,
        name="multistart",
    )
    return _record(refits, out, starts)


def _starts(refits: Refits, n: int, spread: float, around: str, seed: int) -> np.ndarray:
    """Starting points (n, packed), the centre first."""
    from scipy.special import ndtri

    fit, binding = refits.fit, refits.binding
    centre = packed(binding.start)
    if np.isfinite(fit.log_likelihood):
        own = packed(fit.params)
        automatic = [entry.automatic for entry in binding.density.error.parameters]
        places = np.arange(refits.dense - len(automatic), refits.dense)[np.array(automatic, bool)]
        centre[places] = own[places]
        centre = own if around == "estimates" else centre
    centre, _ = opened_variances(binding, centre)
    first = len(binding.density.beta_names)
    unit = np.ones(len(centre))
    for k, transform in enumerate(binding.transforms):
        if transform is None or transform.name == "identity":
            unit[k] = max(abs(centre[k]), 1e-3) if transform is not None else max(abs(centre[k]), 0.5)
    for index, _, others in binding.density.covariance.log_scales:
        for other in others:  # entries of a factor, in the unit of their effects
            unit[first + other] = np.exp(centre[first + index]) if np.isfinite(centre[first + index]) else 1.0
    unit[refits.dense :] = 0.1 * np.maximum(np.abs(centre[refits.dense :]), 0.1)
    rng = np.random.default_rng(seed)
    moving = np.flatnonzero(refits.free)
    starts = np.tile(centre, (n, 1))
    for k in moving:
        levels = (rng.permutation(n - 1) + rng.uniform(size=n - 1)) / max(n - 1, 1)
        starts[1:, k] += spread * unit[k] * ndtri(levels)
    return starts


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Multistart(Printable):
    """Where fits from many starts ended.

    **Fields:** `fit`; `starts`, a row a start: the values it began from ("start of NAME") and ended at, by name,
    `log_likelihood`, `status`, `maximum` (its row in `maxima`, -1 where it failed), `iterations`; `maxima`, a row a
    distinct maximum, the highest first: `log_likelihood` (of all groups), `gain` over the fit's own objective
    (log-likelihood units), `starts` and `share` of the starts that led there, `fit`, whether the fit is this one, and
    the values; `sentences`; `x` (maxima, n), packed.
    """

    fit: Fit
    starts: pd.DataFrame
    maxima: pd.DataFrame
    sentences: tuple[str, ...]
    x: np.ndarray

    @functools.cached_property
    def best(self) -> Fit:
        """A full fit from the highest maximum: convergence checked, standard errors and all, on as many devices and in
        such chunks as the fit; the fit at hand where none is higher.

        **Errors:** OptionError where no start led to a maximum."""
        if not len(self.maxima):
            raise OptionError("no start led to a maximum: there is no best one.")
        if self.fit.converged and not self.maxima["gain"].iloc[0] > BETTER:
            return self.fit
        from jaxnlme.fitting.fit import fit as fit_again

        start = Refits(self.fit, "a multistart", 1, converged=False).params(self.x[0])
        # As many devices as the fit had, where this machine has them.
        devices, chunk = (self.fit.options.get(name) for name in ("devices", "chunk_groups"))
        devices = None if devices is None else min(devices, len(jax.local_devices()))
        return fit_again(
            self.fit.model,
            self.fit.data,
            self.fit.estimator,
            start=start,
            progress=False,
            devices=devices,
            chunk_groups=chunk,
        )

    def _tables(self) -> list[Table]:
        if not len(self.maxima):
            return []
        shown = self.maxima.head(5)
        header = ("", *(f"maximum {k + 1}" for k in range(len(shown))))
        rows = [["log-likelihood", *(f"{v:.4f}" for v in shown["log_likelihood"])]]
        rows.append(["starts", *(f"{v:d}" for v in shown["starts"])])
        rows.append(["the fit's", *("yes" if v else "" for v in shown["fit"])])
        rows += [[name, *(number(v) for v in shown[name])] for name in self.fit.values]
        return [Table("Maxima, the highest first; values on their natural scale", header, rows)]


def _record(refits: Refits, out: Outcomes, starts: np.ndarray) -> Multistart:
    import pandas as pd

    fit, values, good = refits.fit, refits.values(out), reached_maximum(out)
    own = fit.log_likelihood + fit.log_prior
    place = _clusters(refits, out, values, good)
    x, rows = [], []
    for k in range(int(place.max(initial=-1)) + 1):
        members = np.flatnonzero(place == k)
        top = members[np.argmin(out.value[members])]
        x.append(out.x[top])
        gain = -float(out.value[top]) - own
        same = np.isfinite(own) and abs(gain) < SAME_VALUE and _near(refits, values.iloc[top].to_numpy(), _own(fit))
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
    table["status"], table["maximum"], table["iterations"] = outcome_sentences(out), place, out.iterations
    table["evaluations"] = out.evaluations
    table.index.name = "start"
    sentences = _sentences(fit, out, maxima, good, table) + refits.placement
    return Multistart(fit, table, maxima, tuple(sentences), np.array(x))


def _own(fit: Fit) -> np.ndarray:
    return np.array(list(fit.values.values()), float)


def _near(refits: Refits, a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two ends, as user-scale values (values,), are one place."""
    fit = refits.fit
    se = np.full(len(a), np.nan) if fit.information is None else natural_se(fit)[list(fit.values)].to_numpy(float)
    scale = np.where(np.isfinite(se), se, np.maximum(np.abs(a), np.abs(b)))
    return bool(np.all(np.abs(a - b) <= SAME_PLACE * scale + 1e-3 * np.maximum(np.abs(a), np.abs(b)) + 1e-8))


def _clusters(refits: Refits, out: Outcomes, values: pd.DataFrame, good: np.ndarray) -> np.ndarray:
    """The maximum (jobs,) that each job came to, numbered from the highest; -1 where it failed."""
    place = np.full(len(good), -1)
    heads: list[int] = []
    table = values.to_numpy(float)
    for job in sorted(np.flatnonzero(good), key=lambda j: out.value[j]):
        for k, head in enumerate(heads):
            if out.value[job] - out.value[head] < SAME_VALUE and _near(refits, table[job], table[head]):
                place[job] = k
                break
        else:
            place[job] = len(heads)
            heads.append(int(job))
    return place


def _sentences(fit: Fit, out: Outcomes, maxima: Any, good: np.ndarray, table: Any) -> list[str]:
    ran = int(out.done.sum())
    distinct = f"{len(maxima)} distinct {'maximum' if len(maxima) == 1 else 'maxima'}"
    said = [f"Multistart of a fit by {fit.method}: {int(good.sum())} of {ran} starts came to {distinct}."]
    said += failures(table["status"], "starts")
    if not len(maxima):
        return said
    gain = float(maxima["gain"].iloc[0])
    share = f"reached from {maxima['starts'].iloc[0]} of {ran} starts"
    if not np.isfinite(gain):
        said.append("The fit has no estimates to compare with.")
    elif gain > BETTER:
        said.append(
            f"A BETTER MAXIMUM than the fit's was found, by {gain:.4f} log-likelihood units ({share}): see `.best`."
        )
    elif maxima["fit"].any():
        k = int(np.argmax(maxima["fit"].to_numpy()))
        same = f", and {len(maxima) - 1} lower or equal" if len(maxima) > 1 else ""
        said.append(
            f"No better maximum than the fit's was found (it was reached from {maxima['starts'].iloc[k]} of {ran} "
            f"starts{same})."
        )
        ties = int(np.sum((maxima["gain"] > -SAME_VALUE) & ~maxima["fit"]))
        if ties:
            said.append(
                f"{ties} other {'maximum is' if ties == 1 else 'maxima are'} as high as the fit's: the data do not "
                "tell these parameter values apart."
            )
    elif gain > -SAME_VALUE:
        said.append(
            f"No start came to the fit's own maximum, but to one that is as high ({share}): the data do not tell these "
            "parameter values apart."
        )
    else:
        said.append(f"No start came to the fit's own maximum, which is higher by {-gain:.4f} than all that were found.")
    return said
