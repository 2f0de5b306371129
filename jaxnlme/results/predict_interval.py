"""Intervals of predictions: percentiles over draws of parameters, random effects and residuals."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.arguments import check_names
from jaxnlme.binding.bind import Binding
from jaxnlme.errors import OptionError, check_level, check_whole_number, near_matches, some
from jaxnlme.model.density import Density
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import compiled
from jaxnlme.precision import x64
from jaxnlme.results.by_level import modes_of_known_units, up_to_depth
from jaxnlme.results.effect_draws import chunks, draws_at, effect_draws
from jaxnlme.results.evaluate import find_modes
from jaxnlme.results.parameter_draws import parameter_draws
from jaxnlme.results.settings import DRAWS
from jaxnlme.results.simulate import check_sampler, draw, draw_effects

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.results.record import FitRecord

SOURCES = ("parameters", "effects", "residual")


def check_interval(
    interval: Any, uncertainty: Any, draws: Any, seed: Any
) -> tuple[tuple[str, ...], int, int]:  # fmt: skip
    """The sources of uncertainty, the number of draws and the seed of an interval.

    **Raises:** OptionError for values that do not fit, and for options of an interval without `interval`.
    """
    sources = check_sources(interval, uncertainty, draws=draws, seed=seed)
    if interval is None:
        return (), 0, 0
    n = DRAWS.draws if draws is None else check_whole_number("draws", draws, 100)
    return sources, n, 0 if seed is None else check_whole_number("seed", seed, 0)


def check_sources(interval: Any, uncertainty: Any, **others: Any) -> tuple[str, ...]:
    """The sources of uncertainty of an interval, none where `interval` is None.

    **Arguments:** `others`: options by name that belong to intervals too.
    **Raises:** OptionError for values that do not fit, and for options of an interval without `interval`.
    """
    if interval is None:
        options = {"uncertainty": uncertainty, **others}
        passed = [f"{name}=" for name, value in options.items() if value is not None]
        if passed:
            belongs = "belongs to intervals" if len(passed) == 1 else "belong to intervals"
            raise OptionError(f"{some(passed)} {belongs}: give interval=0.95 beside it, or leave it out.")
        return ()
    if isinstance(interval, bool) or not isinstance(interval, (float, np.floating)):
        raise OptionError(f"interval must be the probability of the intervals, such as 0.95; received {interval!r}.")
    check_level(float(interval))
    sources = SOURCES if uncertainty is None else tuple(check_names("uncertainty", uncertainty, "sources"))
    for name in sources:
        if name not in SOURCES:
            raise OptionError(f"uncertainty {name!r} is not known; {near_matches(name, SOURCES)}")
    if not sources:
        raise OptionError(f"uncertainty is an empty list; name at least one of {', '.join(map(repr, SOURCES))}.")
    return sources


def prediction_intervals(
    fit: FitRecord, binding: Binding, depth: int, interval: float, sources: Sequence[str], n: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper limits (rows,) of the rows of a `binding`, in the order of its table; see `predict`.

    **Arguments:** `depth`: from `level_depth`.
    """
    if "residual" in sources:
        check_sampler(binding.density)
    packed, _ = parameter_draws(fit, n if "parameters" in sources else 0, seed, "fit.predict(interval=...)")
    z, known = _draws_of_groups(fit, binding, depth, packed, sources, n, seed)
    lower, upper = (np.full(binding.data.rows.shape, np.nan) for _ in range(2))
    # Percentiles of continuous responses at k / (n + 1), whose expected coverage is exact; those of counts are counts.
    method = "weibull" if binding.density.error.has_location_and_scale else "inverted_cdf"
    tails = np.array([0.5 * (1.0 - interval), 0.5 * (1.0 + interval)])
    not_finite = np.zeros(binding.data.rows.shape, bool)
    with x64():
        params, draws, key = on_device(fit.params), on_device(packed), jax.random.fold_in(jax.random.key(seed), 2)
        flags = "effects" in sources, "residual" in sources
        for count, groups, stack in chunks(binding, n):
            program = compiled(_responses, stack.y.size * n, once=True)
            at = on_device((z[groups], known[groups]))
            values = np.asarray(program(binding.density, params, draws, stack, *at, key, n, *flags))[:count]
            obs = values.shape[2]
            finite: np.ndarray = np.asarray(np.isfinite(values).all(axis=1))
            found = np.quantile(np.where(finite[:, None, :], values, 0.0), tails, axis=1, method=method)
            low, high = np.where(finite, found, np.nan)
            lower[groups[:count], :obs], upper[groups[:count], :obs] = low, high
            not_finite[groups[:count], :obs] = ~finite
    bad = int(np.sum(not_finite & binding.data.rows))
    if bad:
        warnings.warn(
            f"{bad} of {binding.data.n_rows} rows have draws that are not finite, and no interval: their prediction is "
            "not finite, or a transformed response is outside the range of its transform.",
            stacklevel=4,
        )
    lower, upper = (binding.data.rows_to_column(limit) for limit in (lower, upper))
    return lower, upper


def with_limits(binding: Binding, prediction: pd.Series, lower: np.ndarray, upper: np.ndarray) -> pd.DataFrame:
    """The table of a prediction with its limits (rows,), and the limits of quantification of rows that have any."""
    import pandas as pd

    point = prediction.to_numpy()
    # Rows of no endpoint have no prediction, and responses drawn for them are placeholders.
    lower, upper = (np.where(np.isnan(point), np.nan, limit) for limit in (lower, upper))
    table = {"prediction": point, "lower": lower, "upper": upper}
    table = {name: np.where(np.isnan(table["prediction"]), np.nan, values) for name, values in table.items()}
    limits = binding.data.limits
    for name in ("lloq", "uloq") if limits is not None else ():
        values = getattr(limits, name)
        if np.isfinite(values).any():
            table[name] = binding.data.rows_to_column(np.where(np.isfinite(values), values, np.nan))
    return pd.DataFrame(table, index=prediction.index)


def _draws_of_groups(
    fit: FitRecord, binding: Binding, depth: int, packed: np.ndarray, sources: Sequence[str], n: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Whitened effects (groups, draws, random) given the data, those of levels up to `depth`, and true (groups, random)
    for those; the others are zero, and are drawn from the population where effects are uncertain. One draw stands for
    all where none differs from another."""
    m, q = binding.data.n_groups, binding.density.n_effects
    if depth == 0 or q == 0:
        return np.zeros((m, 1, q)), np.zeros((m, q), bool)
    own, fitted = fit.binding, fit.conditional
    position = {label: k for k, label in enumerate(fit.data.labels.tolist())}
    index = np.array([position.get(label, -1) for label in binding.data.labels.tolist()], int)
    used = np.zeros(fit.data.n_groups, bool)
    used[index[index >= 0]] = True
    values = _given_data(fit, own, fitted, used, packed, sources, n, seed)
    if binding is own:
        known = np.ones((m, q), bool)
    else:
        # Numbers of the entries of the fit, from 1 on, find their places in the layout of the new rows.
        numbers = np.arange(1.0, fitted[0].size + 1).reshape(fitted[0].shape)
        entry = np.where(index[:, None] >= 0, modes_of_known_units(own, binding, numbers, index), 0.0).astype(int)
        known = entry > 0
        flat = np.moveaxis(values, 1, 0).reshape(values.shape[1], -1)
        values = np.moveaxis(np.where(known[None], flat[:, np.maximum(entry - 1, 0)], 0.0), 0, 1)
        new = (index < 0) & binding.data.observed.any(axis=1)
        if new.any():
            drawn = _given_data(fit, binding, find_modes(fit, binding, new), new, packed, sources, n, seed)
            values[new], known[new] = drawn[new], True
    known &= up_to_depth(binding, np.ones((m, q)), depth) > 0
    return values, known


def _given_data(
    fit: FitRecord, binding: Binding, modes: tuple[np.ndarray, np.ndarray], which: np.ndarray, packed: np.ndarray,
    sources: Sequence[str], n: int, seed: int,
) -> np.ndarray:  # fmt: skip
    """Whitened effects (groups, draws, random) of the groups `which` given their data, (groups, 1, random) where
    neither parameters nor effects are uncertain."""
    if fit.posterior is not None and binding is fit.binding and {"parameters", "effects"} <= {*sources}:
        drawn = fit.posterior.effects_at(fit.posterior.choose(n, seed))
        if drawn is not None:  # those that belong to the drawn parameters
            return np.moveaxis(drawn, 0, 1)
    mode = modes[0][:, None, :]
    effects = effect_draws(fit, binding, modes, n, seed, which=which).z if "effects" in sources else None
    if "parameters" not in sources:
        return mode if effects is None else effects
    return draws_at(fit, binding, modes, packed, None if effects is None else effects - mode, which)


def _responses(
    density: Density, params: Params, packed: Any, groups: Any, z: Any, known: Any, key: Any, n: int, effects: bool,
    residual: bool,
) -> Any:  # fmt: skip
    """Responses, or predictions, (groups, draws, obs) of stacked groups.

    **Arguments:** `packed` (draws or 1, packed); `z` (groups, draws or 1, random), whitened effects, `known` (groups,
    random) those that the data inform; `effects`: the others are drawn.
    """
    number = jnp.arange(n)

    def per_group(group: Any, z: Any, known: Any) -> Any:
        own = jax.random.fold_in(key, group.key)

        def one(k: Any) -> Any:
            at = params.unpack(packed[k if packed.shape[0] > 1 else 0])
            population, noise = jax.random.split(jax.random.fold_in(own, k))
            drawn = z[k if z.shape[0] > 1 else 0]
            others = draw_effects(density, population, drawn.dtype) if effects else jnp.zeros_like(drawn)
            f = density.predict(at, jnp.where(known, drawn, others), group)
            return draw(density, at, noise, f, group) if residual else density.error.row_prediction(f, group)

        return jax.vmap(one)(number)

    return jax.vmap(per_group)(groups, z, known)
