"""`fit`, from model and data to a `Fit`; and `Fit`, the record of an estimation with its methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxnlme.arguments import check_callables, check_checkpoint, check_choice, check_flag, check_progress, require_host
from jaxnlme.binding.explanations import explained_errors
from jaxnlme.binding.model import NLMEModel
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import OptionError
from jaxnlme.estimators.core.callbacks import Callback
from jaxnlme.estimators.core.plan import Plan
from jaxnlme.estimators.core.settings import RUN_SETTINGS
from jaxnlme.estimators.marginal.method import restrict
from jaxnlme.estimators.pipeline import Method, as_estimator, run_in_sequence
from jaxnlme.estimators.setup import STARTS
from jaxnlme.fitting.best_of_starts import best_of_starts, with_start_sentence
from jaxnlme.fitting.inference_methods import InferenceMethods
from jaxnlme.model.params import Params
from jaxnlme.numerics.devices import Devices, mesh_of
from jaxnlme.results.record import FitRecord
from jaxnlme.signatures import documented_by, public

if TYPE_CHECKING:
    from jaxnlme.files import Archive
    from jaxnlme.fitting.replicates import Replicates
    from jaxnlme.refits.bootstrap import Bootstrap
    from jaxnlme.refits.jackknife import Jackknife
    from jaxnlme.refits.multistart import Multistart
    from jaxnlme.refits.profile import Profile
    from jaxnlme.results.derived_record import Derived


@public("jn.fit")
def fit(
    model: NLMEModel,
    data: GroupedData,
    method: Method | Sequence[Method] = "focei",
    *,
    restricted: bool = False,
    start: Params | Mapping[str, float] | Fit | None = None,
    starts: str | None = None,
    max_iterations: int = RUN_SETTINGS.max_iterations,
    tolerance: float = RUN_SETTINGS.tolerance,
    standard_errors: bool = True,
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
    on_bad_group: str = "stop",
    throw: bool = False,
    devices: Devices = None,
    chunk_groups: int | None = None,
    checkpoint: str | Path | None = None,
) -> Fit:
    """Maximum likelihood (or REML) by a likelihood approximation, the alternation of Lindstrom and Bates, or SAEM; with
    priors, maximum a posteriori. Computed in float64.

    **Arguments:**

    - `model`, `data`: the NLMEModel and the GroupedData.
    - `method`: "fo", "foce", "focei", "laplace", "agq", "is", or an approximation such as `jn.AGQ(7)`; "lme" or
      "relme", the linearised mixed model (`jn.LME(...)`, `jn.RELME(...)`); "saem" or "imp", which simulate the random
      effects (`jn.SAEM(...)`, `jn.IMP(...)`); or a list of them, each starting from the estimates of the one before.
    - `restricted`: maximise the restricted likelihood (REML): the unfixed beta are integrated out under a flat prior on
      their transformed scale, by Laplace's method, which is exact for linear models. For "fo", "foce", "focei" and
      "laplace"; in a list, the last method is restricted, and those before give its start.
    - `start`: Params, values by name on the user's scale, or an earlier Fit of the same model; None: the model's own.
    - `starts`: "pooled" first fits the model without random effects to all data; "groups" fits each group by itself
      and starts from the averages, spread and residual scale of these fits (see `fit_groups`); "multi" fits from many
      starts around the given one in one compiled program and starts from the best (see `multistart`). A start that
      these find is not used where the likelihood is higher at the given one.
    - `max_iterations`, `tolerance`: of the quasi-Newton minimiser; it ends when a further step is predicted to gain
      less than `tolerance` log-likelihood units (for "lme" and "relme": to move no parameter by more of its standard
      errors, 1e-5 at most).
    - `standard_errors`: False omits the information matrix and what is computed from it.
    - `callbacks`: functions of an `Iteration`, called after each one; one that returns True stops the fit. A function
      with a true attribute `every_stage` is also called for the inner minimisers and at the end.
    - `progress`: a line while the fit runs; None shows it in a terminal or notebook after two seconds.
    - `on_bad_group`: for groups whose likelihood is not finite at the start: "stop" (a Fit without estimates that names
      them), or "leave out" (fit the others; the Fit records which were left out).
    - `throw`: raise FitError if the fit did not converge.
    - `devices`: None, the default device; a number, "all", jax devices, or a mesh with the one axis "groups": the
      groups are divided among them. With several processes (`jax.distributed`), each passes its own groups and "all";
      estimates are those of all groups, modes and status those of its own.
    - `chunk_groups`: largest number of groups on a device at a time, for data larger than its memory: the data stay on
      the host and pass through the devices at every evaluation, which needs the memory of two chunks there.
    - `checkpoint`: a file in which the running fit is kept (replaced whole, about every second). If it exists, the fit
      resumes from it, and `start` and `starts` are not used (except for values that stay fixed): a fit that was
      interrupted repeats no iteration, one that ended goes straight to the checks at its end. Options may differ (more
      iterations, other devices); data, model, fixed values and method may not. A list of methods keeps "PATH.1",
      "PATH.2", ...

    **Returns:** a Fit; read `fit.converged` and `fit.status` first.
    **Raises:** DataError, ModelError, OptionError for errors found before iterating; FitError with `throw`.

    **Example:**

    ```python
    fit = jn.fit(model, data, "focei")
    print(fit.converged, fit.status)
    ```
    """
    require_host("jn.fit", start, data, max_iterations, tolerance, getattr(model, "structure", None))
    check_choice("on_bad_group", on_bad_group, ("stop", "leave out"))
    check_choice("starts", starts, (None, *STARTS, "multi"))
    for name, value in {"restricted": restricted, "standard_errors": standard_errors, "throw": throw}.items():
        check_flag(name, value)
    callbacks, progress = check_callables("callbacks", callbacks), check_progress(progress)
    methods: list[Any] = list(method) if isinstance(method, (list, tuple)) else [method]
    if not methods:
        raise OptionError("method is an empty list; name at least one.")
    path = check_checkpoint(checkpoint)
    mesh = mesh_of(devices)
    estimators = [as_estimator(each, max_iterations, tolerance) for each in methods]
    if restricted:
        estimators[-1] = restrict(estimators[-1])
    search = starts == "multi"
    preliminary = None if search else starts
    plan = Plan(start, preliminary, standard_errors, callbacks, progress, on_bad_group, mesh, chunk_groups, path)
    found = ""
    if search and not (path is not None and path.exists()):
        best = best_of_starts(model, data, estimators[0], plan, fit)
        if best.interrupted is not None:
            return best.interrupted.throw() if throw else best.interrupted
        found = best.sentence
        plan = dataclasses.replace(plan, start=start if best.params is None else best.params)
    with explained_errors():
        record = run_in_sequence(model, data, estimators, plan)
    result = Fit.from_record(with_start_sentence(record, found) if search else record)
    return result.throw() if throw else result


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Fit(InferenceMethods):
    """An estimation's outcome, with residuals, pictures, refits and files: see `FitRecord` for fields and tables.

    **Example:**

    ```python
    print(fit.status)
    print(fit.estimates)
    ```
    """

    @classmethod
    def from_record(cls, record: FitRecord) -> Fit:
        """The Fit with the fields of `record`, of the class that its structural model names as `fit_class`."""
        kind = fit_class(record.model)
        return kind(**{field.name: getattr(record, field.name) for field in dataclasses.fields(FitRecord)})

    @property
    def unknown_sections(self) -> Archive | None:
        """Sections of the file of a loaded fit that this version does not know; `save` writes them again."""
        return self.__dict__.get("_unknown_sections")

    def with_unknown_sections(self, unknown: Archive | None) -> Fit:
        """This fit with `unknown`, the sections of its file that this version does not know."""
        self.__dict__["_unknown_sections"] = unknown
        return self

    @documented_by("results.derived.derive")
    @public("fit.derive")
    def derive(self, fn: Any, at: Any = None, **options: Any) -> Derived:
        """Functions of the parameters with standard errors, as in `fit.derive(lambda p: jnp.log(2) * p.vol / p.cl)`;
        see `jaxnlme.results.derived.derive`.

        **Example:**

        ```python
        fit.derive({"half-life": lambda p: jnp.log(2.0) * p.vol / p.cl})
        ```
        """
        from jaxnlme.results.derived import derive

        return derive(self, fn, at, **options)

    @documented_by("fitting.update.update")
    def update(self, **changes: Any) -> Fit:
        """The model with `changes`, fitted again from the estimates, as in `fit.update(drop="vol")`; see
        `jaxnlme.fitting.update.update`.

        **Example:**

        ```python
        fit.update(drop="vol")
        ```
        """
        from jaxnlme.fitting.update import update

        return update(self, **changes)

    @documented_by("refits.bootstrap.bootstrap")
    def bootstrap(self, n: int = 500, **options: Any) -> Bootstrap:
        """Refits of resampled groups, or of responses drawn from the fit; see `jaxnlme.refits.bootstrap.bootstrap`.

        **Example:**

        ```python
        print(fit.bootstrap(20, seed=1).intervals(0.9))
        ```
        """
        from jaxnlme.refits.bootstrap import bootstrap

        return bootstrap(self, n, **options)

    @documented_by("refits.jackknife.jackknife")
    def jackknife(self, **options: Any) -> Jackknife:
        """Refits without each group: bias, standard errors, influence; see `jaxnlme.refits.jackknife.jackknife`.

        **Example:**

        ```python
        print(fit.jackknife().influence)
        ```
        """
        from jaxnlme.refits.jackknife import jackknife

        return jackknife(self, **options)

    @documented_by("refits.multistart.multistart")
    def multistart(self, n: int = 64, **options: Any) -> Multistart:
        """Fits from many starts and the maxima they lead to; see `jaxnlme.refits.multistart.multistart`.

        **Example:**

        ```python
        print(fit.multistart(4, spread=0.2))
        ```
        """
        from jaxnlme.refits.multistart import multistart

        return multistart(self, n, refit=fit, **options)

    @documented_by("fitting.replicates.replicates")
    def replicates(self, n: int | None = None, **options: Any) -> Replicates:
        """The same fit from several starts and seeds, and how far the results differ; see
        `jaxnlme.fitting.replicates.replicates`.

        **Example:**

        ```python
        print(fit.replicates(2))
        ```
        """
        from jaxnlme.fitting.replicates import replicates

        return replicates(self, n, refit=fit, **options)

    @documented_by("refits.profile.profile")
    def profile(self, names: str | Sequence[str] | None = None, **options: Any) -> Profile:
        """Profile likelihood intervals; see `jaxnlme.refits.profile.profile`.

        **Example:**

        ```python
        print(fit.profile("cl"))
        ```
        """
        from jaxnlme.refits.profile import profile

        return profile(self, names, **options)

    @property
    def plot(self) -> Any:
        """Pictures: `fit.plot()` is the standard page, `fit.plot.individual_fits()`, `fit.plot.gof()`, ... single ones
        (docs/pictures.md). They need matplotlib.

        **Example:**

        ```python
        fit.plot.individual_fits()
        ```
        """
        from jaxnlme.diagnostics.pictures.plots import Plots

        return Plots(self)

    @documented_by("report.write.report")
    @public("fit.report")
    def report(self, path: str | Path, compare: Any = (), **options: Any) -> Path:
        """Writes the fit as one HTML page; needs jinja2 and great-tables; see `jaxnlme.report.write.report`.

        **Example:**

        ```python
        fit.report("theophylline.html")
        ```
        """
        from jaxnlme.report.write import report

        return report(self, path, compare, **options)

    @documented_by("fitting.storage.save")
    def save(self, path: str | Path) -> Path:
        """Writes the fit to a file that `jaxnlme.load` reads in a new process; see `jaxnlme.fitting.storage.save`.

        **Example:**

        ```python
        fit.save("theophylline.jaxnlme")
        ```
        """
        from jaxnlme.fitting.storage import save

        return save(self, path)


def fit_class(model: NLMEModel) -> type[Fit]:
    """The class of the fits of a model: Fit, or the subclass that a structural model made from a formula names as
    `fit_class`."""
    kind = getattr(model.structure, "fit_class", Fit)
    return kind if isinstance(kind, type) and issubclass(kind, Fit) else Fit
