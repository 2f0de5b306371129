"""NUTS and Pathfinder as methods of `jn.fit`: their options, and the models they apply to."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx

from jaxnlme.arguments import check_choice, check_flag, check_number, plain_number
from jaxnlme.binding.bind import Binding
from jaxnlme.errors import OptionError, check_whole_number, some
from jaxnlme.estimators.bayes.settings import CRITERIA
from jaxnlme.estimators.core.base import AbstractEstimator
from jaxnlme.estimators.em.saem import StochasticMethod
from jaxnlme.likelihood.approximations import LikelihoodApproximation, approximation
from jaxnlme.likelihood.integrals import ImportanceIntegral
from jaxnlme.results.inference import estimates_table

EFFECTS = ("joint", "collapsed")


class AbstractBayes(AbstractEstimator):
    """Method that draws from the posterior distribution.

    **Fields:** `draws` kept (of each chain); `seed`; `effects`: "joint" or "collapsed"; `approximation`: of the
    likelihood; `flat_priors`: True accepts a model without any prior.
    """

    draws: eqx.AbstractVar[int]
    seed: eqx.AbstractVar[int]
    effects: eqx.AbstractVar[str]
    approximation: eqx.AbstractVar[LikelihoodApproximation]
    flat_priors: eqx.AbstractVar[bool]

    @property
    def identity(self) -> list[Any]:
        return [self.method.name, self.draws, self.effects]

    @property
    def begins_with_information(self) -> bool:
        """True: the information of the fit before scales the coordinates."""
        return True

    def with_seed(self, seed: int) -> AbstractBayes:
        """Copy of the method with another `seed`."""
        copy = object.__new__(type(self))
        for field in dataclasses.fields(self):
            object.__setattr__(copy, field.name, seed if field.name == "seed" else getattr(self, field.name))
        return copy

    @property
    def own_limits(self) -> str:
        """Sentence on the options that limit the run, for calls that give max_iterations or tolerance."""
        return f"has no max_iterations and tolerance; its length is steps=, as in jn.{self.name}(steps=50)."

    def thread_rows(self, groups: int) -> int | None:
        # One program holds all groups.
        return 2**62

    def run(self, model, data, plan):
        """Draws from the posterior of `model` given `data`, as `plan` directs.

        **Returns:** a FitRecord.  **Raises:** as `fit`.
        """
        from jaxnlme.estimators.bayes import pipeline

        return pipeline.run(model, data, self, plan)

    def check(self, binding: Binding) -> None:
        """**Raises:** OptionError for a model without priors (unless `flat_priors`), with a free block of weights,
        without a free parameter, for group weights that the joint density does not have, and for a flat prior whose
        posterior is improper; ModelError where the approximation does not suit the outcome."""
        density, name = binding.density, f"jn.{self.name}"
        if binding.start.free is not None:
            raise OptionError(
                f"{name} does not sample the free block of weights inside the model, and would keep their starting "
                "values; fit it by 'focei' or 'laplace', or declare them as parameters with priors."
            )
        if binding.fixed.all():
            raise OptionError(f"{name} has nothing to sample: every parameter of the model is fixed.")
        if not density.priors and not self.flat_priors:
            raise OptionError(
                f"{name} needs priors, and this model has none: declare them, as in jn.NLMEModel(..., "
                f"priors={{{density.reported_names[0]!r}: jn.priors.Normal(0.0, 1.0)}}); or accept flat ones on every "
                f"reported value, whose posterior may be improper, by {name}(flat_priors=True)."
            )
        weights = binding.data.weights
        if self.effects == "joint" and ((weights != 0) & (weights != 1)).any():
            raise OptionError(
                f"{name}(effects='joint') has no density for groups whose weight is neither zero nor one; use "
                "effects='collapsed', which weights the log-likelihoods of groups."
            )
        self.approximation.check(density)
        self._check_proper(binding)

    def _check_proper(self, binding: Binding) -> None:
        groups = int((binding.data.weights[binding.data.observed.any(axis=1)] != 0).sum())
        without = [n for n in flat_names(binding) if n.startswith("sd(")] if binding.density.levels is None else []
        if groups < CRITERIA.least_groups and without:
            raise OptionError(
                f"{some(without)} would have a flat prior, and the data have {groups} group"
                f"{'' if groups == 1 else 's'}: from fewer than {CRITERIA.least_groups} the posterior is improper. "
                "Give it a prior, or fix it."
            )


def flat_names(binding: Binding) -> list[str]:
    """Names of the reported values that are estimated and have no prior."""
    density = binding.density
    fixed = estimates_table(binding, binding.start, None, 0.95)["fixed"].to_numpy()
    names = zip(density.reported_names, fixed, strict=True)
    return [name for name, is_fixed in names if not is_fixed and name not in density.prior_names]


def flat_sentence(names: list[str]) -> str:
    """Sentence on the values `names` whose prior is flat; empty for none."""
    if not names:
        return ""
    return f"Flat prior, on the scale of the table of estimates: {some(names)}."


class NUTS(AbstractBayes):
    """Posterior distribution by the No-U-Turn sampler (Hamiltonian Monte Carlo, blackjax).

    Priors are those of the model (`jn.Parameter(prior=...)`, `jn.NLMEModel(priors=...)`), densities of the values that
    a fit reports under their names; values without one have a flat prior on that scale, and the summary names them. The
    density of the draws is likelihood times prior over the reported values: its maximum is the estimate that the other
    methods find for a model with priors.

    Begin at a fit, `["focei", jn.NUTS()]`, or with `start=fit`: chains then start dispersed around the estimates, in
    coordinates made of its information matrix and the conditional modes and curvatures of its random effects, and need
    few steps to adapt. Chains run side by side in one compiled program. Ctrl-C keeps the draws so far.

    **Arguments:**

    - `draws` and `warmup`: steps of each chain that are kept, and before them, in which step size and mass matrix
      adapt.
    - `chains`: their number; R-hat needs at least two.
    - `seed` of the random numbers.
    - `effects`: "joint" samples parameters and random effects together, from the exact posterior; "collapsed" samples
      the parameters, the effects integrated out by `approximation`: fewer dimensions, each step dearer.
    - `approximation`: of the likelihood: "laplace", "focei", "agq", or an object such as `jn.AGQ(7)`; of "collapsed",
      and of the log-likelihoods that the record reports.
    - `target_acceptance`: mean acceptance that the step size adapts to; closer to 1 after divergences.
    - `max_tree_depth`: a trajectory has at most 2 ** max_tree_depth - 1 steps.
    - `mass_matrix`: "diagonal", "dense", or "auto": dense for "collapsed".
    - `flat_priors`: True accepts a model without any prior.

    **Raises:** OptionError for values out of range, and where blackjax or arviz is not installed.
    **Source:** Hoffman and Gelman (2014), Journal of Machine Learning Research 15, 1593-1623; Betancourt (2017),
    arXiv:1701.02434.

    **Example:**

    ```python
    posterior = jn.fit(model, data, ["focei", jn.NUTS(flat_priors=True)])  # flat: this model has no priors
    print(posterior.posterior)
    ```
    """

    method: StochasticMethod = eqx.field(static=True)
    draws: int = eqx.field(static=True)
    warmup: int = eqx.field(static=True)
    chains: int = eqx.field(static=True)
    seed: int = eqx.field(static=True)
    effects: str = eqx.field(static=True)
    approximation: LikelihoodApproximation
    target_acceptance: float = eqx.field(static=True)
    max_tree_depth: int = eqx.field(static=True)
    mass_matrix: str = eqx.field(static=True)
    flat_priors: bool = eqx.field(static=True)
    max_iterations: int = eqx.field(static=True)
    tolerance: float = eqx.field(static=True)

    def __init__(
        self,
        *,
        draws: int = 1000,
        warmup: int = 1000,
        chains: int = 4,
        seed: int = 0,
        effects: str = "joint",
        approximation: str | LikelihoodApproximation = "laplace",
        target_acceptance: float = 0.8,
        max_tree_depth: int = 10,
        mass_matrix: str = "auto",
        flat_priors: bool = False,
    ):
        self.method = StochasticMethod("NUTS")
        self.draws = check_whole_number("NUTS: draws", plain_number(draws), 4)
        self.warmup = check_whole_number("NUTS: warmup", plain_number(warmup), 0)
        self.chains = check_whole_number("NUTS: chains", plain_number(chains), 1)
        self.seed = check_whole_number("NUTS: seed", plain_number(seed), 0)
        self.effects, self.approximation = check_density_options("NUTS", effects, approximation)
        self.target_acceptance = check_number("NUTS: target_acceptance", target_acceptance, 0.0, above=True)
        if self.target_acceptance >= 1.0:
            raise OptionError(
                f"NUTS: target_acceptance must lie between 0 and 1, both excluded; received {target_acceptance!r}."
            )
        self.max_tree_depth = check_whole_number("NUTS: max_tree_depth", plain_number(max_tree_depth), 1)
        check_choice("NUTS: mass_matrix", mass_matrix, ("auto", "diagonal", "dense"))
        self.mass_matrix = mass_matrix
        check_flag("NUTS: flat_priors", flat_priors)
        self.flat_priors = flat_priors
        self.max_iterations = self.draws + self.warmup
        self.tolerance = CRITERIA.largest_rhat - 1.0

    @property
    def own_limits(self) -> str:
        return "has no max_iterations and tolerance; its length is that of the chains, as in jn.NUTS(draws=2000)."

    @property
    def diagonal(self) -> bool:
        """True for a diagonal mass matrix."""
        return self.mass_matrix == "diagonal" or (self.mass_matrix == "auto" and self.effects == "joint")


class Pathfinder(AbstractBayes):
    """Posterior distribution approximated by Pathfinder: normal distributions along the paths of a quasi-Newton
    maximisation, the best by its evidence lower bound, and importance resampling of their draws (blackjax).

    Fast, and approximate: the record has Pareto's k of the importance ratios, and says where it is above 0.7, so that
    the draws do not represent the posterior. `[jn.Pathfinder(), jn.NUTS()]` starts chains from it.

    **Arguments:**

    - `draws` that are kept.
    - `paths`: maximisations from dispersed starts, whose draws are pooled.
    - `steps`: most iterations of each.
    - `seed`, `effects` ("collapsed" unless asked otherwise), `approximation`, `flat_priors`: as of `jn.NUTS`.

    **Raises:** OptionError for values out of range, and where blackjax or arviz is not installed.
    **Source:** Zhang, Carpenter, Gelman and Vehtari (2022), Journal of Machine Learning Research 23, 306; Vehtari et
    al. (2024), Journal of Machine Learning Research 25, 72, for Pareto's k.

    **Example:**

    ```python
    quick = jn.fit(model, data, ["focei", jn.Pathfinder(flat_priors=True)])
    print(quick.posterior.pareto_k)
    ```
    """

    method: StochasticMethod = eqx.field(static=True)
    draws: int = eqx.field(static=True)
    paths: int = eqx.field(static=True)
    steps: int = eqx.field(static=True)
    seed: int = eqx.field(static=True)
    effects: str = eqx.field(static=True)
    approximation: LikelihoodApproximation
    flat_priors: bool = eqx.field(static=True)
    max_iterations: int = eqx.field(static=True)
    tolerance: float = eqx.field(static=True)

    def __init__(
        self,
        *,
        draws: int = 1000,
        paths: int = 4,
        steps: int = 30,
        seed: int = 0,
        effects: str = "collapsed",
        approximation: str | LikelihoodApproximation = "laplace",
        flat_priors: bool = False,
    ):
        self.method = StochasticMethod("Pathfinder")
        self.draws = check_whole_number("Pathfinder: draws", plain_number(draws), 100)
        self.paths = check_whole_number("Pathfinder: paths", plain_number(paths), 1)
        self.steps = check_whole_number("Pathfinder: steps", plain_number(steps), 2)
        self.seed = check_whole_number("Pathfinder: seed", plain_number(seed), 0)
        self.effects, self.approximation = check_density_options("Pathfinder", effects, approximation)
        check_flag("Pathfinder: flat_priors", flat_priors)
        self.flat_priors = flat_priors
        self.max_iterations = self.steps
        self.tolerance = CRITERIA.largest_pareto_k


def check_density_options(name: str, effects: Any, method: Any) -> tuple[str, LikelihoodApproximation]:
    """The options `effects` and `approximation` of the sampler `name`, checked.

    **Raises:** OptionError for unknown ones, and for importance sampling, whose value is noisy; ModelError for what is
    no approximation.
    """
    check_choice(f"{name}: effects", effects, EFFECTS)
    chosen = approximation(method)
    if isinstance(chosen.integral, ImportanceIntegral):
        raise OptionError(
            f"{name}: approximation {chosen.name} draws at every evaluation; use 'laplace', 'focei' or jn.AGQ(...), or "
            "effects='joint', which needs no integral."
        )
    return effects, chosen


def require_packages(name: str) -> None:
    """**Raises:** OptionError where blackjax or arviz is not installed; `name` of the method."""
    from importlib.util import find_spec

    missing = [package for package in ("blackjax", "arviz") if find_spec(package) is None]
    if missing:
        raise OptionError(f"jn.{name} needs {' and '.join(missing)}: pip install 'jaxnlme[bayes]'")
