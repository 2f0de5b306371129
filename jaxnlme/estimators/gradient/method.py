"""`jn.Gradient`: training by stochastic gradients, as a method."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, final

import equinox as eqx
import numpy as np

from jaxnlme.arguments import check_choice, check_number
from jaxnlme.binding.bind import Binding
from jaxnlme.errors import OptionError, check_whole_number, shown
from jaxnlme.estimators.core.base import AbstractEstimator
from jaxnlme.estimators.core.settings import RUN_SETTINGS
from jaxnlme.estimators.gradient.settings import POLISH, TRAINING
from jaxnlme.likelihood.approximations import LikelihoodApproximation
from jaxnlme.likelihood.approximations import approximation as approximation_of
from jaxnlme.numerics.arrays import number_to_array

if TYPE_CHECKING:
    from jaxnlme.binding.model import NLMEModel
    from jaxnlme.data.grouped import GroupedData
    from jaxnlme.estimators.core.plan import Plan
    from jaxnlme.results.record import FitRecord

POLISHES = ("all", "dense", "none")


@final
class Gradient(AbstractEstimator):
    """Training by stochastic gradients: mini-batches of groups and an optimiser of optax, then a polish over all
    groups. It is for models with Equinox modules inside, whose weights are many, and for very many groups.

    Each step takes `batch_groups` groups at random (every group once in a pass over the data) and the gradient of
    (m / batch_groups) sum w_i l_i + log prior - penalty, an unbiased estimate of that of the objective over all m
    groups, divided by m. Modes of the random effects are kept between the visits of a group. Steps of the optimiser are
    in logarithms for parameters with a log transform, standard deviations and residual parameters, and in units of a
    group's information for other fixed effects; weights are taken as they are. The polish is the quasi-Newton search
    of the approximation; a fit counts as converged by the same checks of beta, psi and error parameters as
    `jn.fit(model, data, approximation)`, at the weights reached, and a sentence says how well these are determined.
    `fit.training` has the loss and the held-out log-likelihood by step.

    **Arguments:**

    - `optimiser`: an optax optimiser, such as `optax.adam(1e-2)`; None: Adam with a learning rate that falls from 1e-2
      to zero over the steps.
    - `approximation`: of the log-likelihood, a name or an object: "focei", "laplace", `jn.AGQ(5)`,
      `jn.ImportanceSampling(200)`, ...
    - `steps`: of the optimiser; None: until the held-out log-likelihood has stopped rising (needs `held_out`).
    - `batch_groups`: groups of a step; None: all.
    - `objective`: "marginal", the approximation; "complete": the score is that of the complete data at draws of the
      random effects (Fisher's identity), by a Markov chain for each group, as in SAEM.
    - `held_out`: a fraction of the groups, chosen by their labels and the seed, or a list of labels: they get weight
      zero in the fit, and their log-likelihood is followed; the parameters at its highest value are kept.
    - `patience`: the training ends after so many checks of the held-out groups without a gain.
    - `check_every`: steps between these checks; None: 20 checks in all (or, without `steps`, one a pass).
    - `regularisation`: a number r, for the penalty r / 2 times the sum of squares of the weights that are trained (a
      Gaussian prior with variance 1 / r); or a function of the module (of `jn.Networks`, if there are several).
    - `freeze`: weights that keep their value: a function of an array that returns True for those, or a pytree of True
      and False that matches the module (`jn.Networks`, if there are several).
    - `precision`: "float64", or "float32": training in single precision, without standard errors and without a polish.
    - `polish`: "all", quasi-Newton steps in all parameters over all groups, then in beta, psi and error parameters at
      these weights; "dense", only the latter; "none": the fit does not count as converged. None: "dense" with
      `held_out` (where a polish of the weights would undo the early stop), "none" in float32, "all" otherwise.
    - `max_iterations`: of each phase of the polish; `tolerance`: as of `jn.fit`; `seed`: of batches and draws.

    **Raises:** OptionError for options out of range, and for those that exclude each other.
    **Source:** Robbins and Monro (1951), Annals of Mathematical Statistics 22, 400-407; Fisher's identity: Louis
    (1982), JRSS B 44, 226-233; Gu and Kong (1998), PNAS 95, 7270-7274.

    **Example:**

    ```python
    jn.fit(model, data, jn.Gradient(approximation="focei", steps=20, batch_groups=6))
    ```
    """

    optimiser: Any = eqx.field(static=True)
    method: LikelihoodApproximation
    steps: int | None = eqx.field(static=True)
    batch_groups: int | None = eqx.field(static=True)
    objective: str = eqx.field(static=True)
    held_out: Any = eqx.field(static=True)
    patience: int = eqx.field(static=True)
    check_every: int | None = eqx.field(static=True)
    regularisation: Any = eqx.field(static=True)
    freeze: Any = eqx.field(static=True)
    precision: str = eqx.field(static=True)
    polish: str | None = eqx.field(static=True)
    max_iterations: Any
    tolerance: Any
    seed: int = eqx.field(static=True)

    def __init__(
        self,
        optimiser: Any = None,
        *,
        approximation: str | LikelihoodApproximation = "focei",
        steps: int | None = 1000,
        batch_groups: int | None = None,
        objective: str = "marginal",
        held_out: float | Iterable[Any] | None = None,
        patience: int = 10,
        check_every: int | None = None,
        regularisation: float | Callable[[Any], Any] = 0.0,
        freeze: Any = None,
        precision: str = "float64",
        polish: str | None = None,
        max_iterations: int = POLISH.max_iterations,
        tolerance: float = RUN_SETTINGS.tolerance,
        seed: int = 0,
    ):
        self.optimiser = _optimiser(optimiser)
        self.method = approximation_of(approximation)
        self.steps = None if steps is None else check_whole_number("Gradient: steps", steps, 1)
        self.batch_groups = batch_groups
        if batch_groups is not None:
            self.batch_groups = check_whole_number("Gradient: batch_groups", batch_groups, 1)
        self.objective = check_choice("Gradient: objective", objective, ("marginal", "complete"))
        self.held_out = _held_out(held_out)
        self.patience = check_whole_number("Gradient: patience", patience, 1)
        self.check_every = None if check_every is None else check_whole_number("Gradient: check_every", check_every, 1)
        self.regularisation = _regularisation(regularisation)
        self.freeze = freeze
        self.precision = check_choice("Gradient: precision", precision, ("float64", "float32"))
        self.polish = check_choice("Gradient: polish", polish, (None, *POLISHES))
        self.max_iterations, self.tolerance = number_to_array(max_iterations), number_to_array(tolerance)
        self.seed = check_whole_number("Gradient: seed", seed, 0)
        if self.steps is None and self.held_out is None:
            raise OptionError(
                "Gradient: steps=None trains until the held-out log-likelihood has stopped rising, and there are no "
                "held-out groups; give steps (an optax schedule has no end of its own), or held_out=0.1."
            )
        if self.check_every is not None and self.held_out is None:
            raise OptionError("Gradient: check_every is for held-out groups; give held_out=0.1, or leave it out.")

    @property
    def name(self) -> str:
        return f"gradient training, {self.method.name}"

    @property
    def identity(self) -> list[Any]:
        options = [self.batch_groups, self.objective, repr(self.held_out), self.seed, self.precision]
        return [self.method, "gradient", *options]

    def transformation(self) -> Any:
        """The optax optimiser."""
        if self.optimiser is not None:
            return self.optimiser
        import optax

        if self.steps is None:
            return optax.adam(TRAINING.learning_rate)
        return optax.adam(optax.cosine_decay_schedule(TRAINING.learning_rate, self.steps))

    def with_seed(self, seed: int) -> Gradient:
        """Copy of the method with another `seed`."""
        copy = object.__new__(type(self))
        for field in dataclasses.fields(self):
            object.__setattr__(copy, field.name, seed if field.name == "seed" else getattr(self, field.name))
        return copy

    def polish_of(self, n_weights: int) -> str:
        """The polish that is made.

        **Arguments:** `n_weights`: number of trained weights.
        **Returns:** "all", "dense" or "none".
        """
        if self.polish is not None:
            return self.polish
        if self.precision == "float32" or n_weights > POLISH.most_weights:
            return "none"
        return "dense" if self.held_out is not None and n_weights else "all"

    def run(self, model: NLMEModel, data: GroupedData, plan: Plan) -> FitRecord:
        from jaxnlme.estimators.gradient.pipeline import run

        return run(model, data, self, plan)

    def check(self, binding: Binding) -> None:
        """Check that the method applies to the model and the data.

        **Raises:** ModelError, OptionError where it does not.
        """
        super().check(binding)
        trained = int(np.sum(binding.data.weights != 0))
        if self.batch_groups is not None and self.batch_groups > trained:
            raise OptionError(
                f"Gradient: batch_groups={self.batch_groups}, and {trained} groups are trained on (those held out or "
                "of weight zero are not); give a smaller number, or None for all of them at every step."
            )
        if self.objective == "complete" and not binding.density.n_effects:
            raise OptionError(
                "Gradient: objective='complete' draws random effects, and this model has none; leave it out."
            )
        if self.objective == "complete" and binding.density.levels is not None:
            raise OptionError(
                "Gradient: objective='complete' has no sampler for random effects at nested levels; leave it out, or "
                "fit by jn.SAEM()."
            )


def _optimiser(optimiser: Any) -> Any:
    """**Raises:** OptionError for what is no optax optimiser."""
    parts = (getattr(optimiser, name, None) for name in ("init", "update"))
    if optimiser is None or all(map(callable, parts)):
        return optimiser
    hint = " A schedule goes inside one: optax.adam(schedule)." if callable(optimiser) else ""
    raise OptionError(
        f"Gradient: optimiser must be an optax optimiser, such as optax.adam(1e-2), or None; "
        f"received {shown(optimiser)}.{hint}"
    )


def _held_out(value: Any) -> Any:
    """The fraction, or a tuple of labels. **Raises:** OptionError for anything else."""
    if value is None:
        return None
    if isinstance(value, (float, np.floating)):
        return float(check_number("Gradient: held_out", value, 0.0, 0.9, above=True))
    if isinstance(value, (str, bool, int)) or not isinstance(value, Iterable):
        raise OptionError(
            f"Gradient: held_out must be a fraction of the groups, such as 0.1, or a list of their labels; "
            f"received {shown(value)}."
        )
    labels = tuple(value.tolist() if isinstance(value, np.ndarray) else value)
    if not labels:
        raise OptionError("Gradient: held_out is an empty list; name groups, or give a fraction such as 0.1.")
    return labels


def _regularisation(value: Any) -> Any:
    """**Raises:** OptionError for what is neither a number >= 0 nor a function."""
    if callable(value):
        return value
    return float(check_number("Gradient: regularisation", value, 0.0))
