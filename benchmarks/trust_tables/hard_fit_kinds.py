"""Hard fits of each kind (`hard_fits.py` lists those that are run): tables simulated from a seed, or published."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from trust_tables.exact_likelihood import HardFitLikelihood
from trust_tables.maxima import maximum
from trust_tables.problem import Estimates, HardFit
from trust_tables.tables import DESIGNS, Design, published

OPTIMUM, FAR, SINGULAR, ZERO = "start at the optimum", "far start", "singular psi", "zero variance"
UNIDENTIFIED, NAN = "parameters hardly or not identified", "group of NaN"
MODES, FLIP = "two modes in a group", "flip-flop"
SHORT, UNITS, OUTLIER, NESTED = "too short a stochastic run", "units", "outliers", "nested, small variances"
EXTREME = "extreme groups"
KINDS = (
    OPTIMUM, FAR, SINGULAR, ZERO, UNIDENTIFIED, NAN, MODES, FLIP, SHORT, UNITS, OUTLIER, NESTED, EXTREME,
)  # fmt: skip
NO_MAXIMUM = (
    r"identif|singular|separat|not positive definite|no effect|collinear|rank|unbounded|infinite|diverg|no finite|"
    r"degenerate|ill-condition|not estimable|perfect|boundary|number of observations|dropp|alias|flat|dependent|"
    r"nearly the same|no maximum|without bound|no information|left out|not determined|cannot be estimated"
)

Columns = dict[str, np.ndarray]
Made = Callable[[], HardFit | None]


def made(
    design: Design,
    name: str,
    hardness: str,
    seed: int,
    truth: Estimates | None = None,
    change: Callable[[Columns], None] | None = None,
    beta: tuple[float, ...] | None = None,
    sd_factor: float = 1.5,
    **fields: Any,
) -> HardFit:
    """A fit of a simulated table. By default programs start a little off the truth: fixed effects by 20 % of
    their size (0.2 on the log or logit scale), standard deviations by `sd_factor`."""
    truth = truth or design.truth()
    table = design.simulate(seed, truth)
    if change is not None:
        change(table)
    fit = HardFit(
        name, hardness, design.curve, table, tuple(design.sds), (), (), None, truth, design.family, design.psi,
        categories=len(design.cuts) + 1 if design.cuts else 0,
    )  # fmt: skip
    logs = [p in fit.shape.log or design.family != "gaussian" for p in fit.shape.parameters]
    near = [b + 0.2 if log else 1.2 * b for b, log in zip(truth["beta"], logs, strict=False)]
    if design.cuts:
        near = [0.0, near[1], *(1.2 * cut for cut in design.cuts)]
    sds = [sd_factor * (sd or design.sds[n]) for n, sd in zip(design.sds, np.sqrt(np.diag(truth["psi"])), strict=True)]
    sigma = None if truth["sigma"] is None else sd_factor * truth["sigma"]
    start = {"beta": tuple(near if beta is None else beta), "sds": tuple(map(float, sds)), "sigma": sigma}
    return dataclasses.replace(fit, **(start | fields))


def at_optimum(key: str, seed: int) -> HardFit:
    """The start is the referee's maximum of the exact likelihood."""
    fit = made(DESIGNS[key], f"{key}: start at the optimum", OPTIMUM, seed)
    best, _ = maximum(HardFitLikelihood(fit), "exact", [fit.truth])
    sds = tuple(np.sqrt(np.diag(best["psi"])).tolist())
    return dataclasses.replace(fit, beta=tuple(best["beta"]), sds=sds, sigma=best["sigma"], truth=best)


def far(key: str, name: str, seed: int, beta: tuple[float, ...], sd_factor: float = 3.0) -> HardFit:
    """Starts far from the truth."""
    return made(DESIGNS[key], f"{key}: {name}", FAR, seed, beta=beta, sd_factor=sd_factor)


def scaled(key: str, name: str, seed: int, y: float = 1.0, t: float = 1.0) -> HardFit:
    """The table in other units; the start and the truth are the same in these units."""
    design = DESIGNS[key]
    fit = made(design, f"{key}: {name}", UNITS, seed)
    columns = dict(fit.columns)
    columns["y"] = columns["y"] * y
    columns["t"] = columns["t"] * t
    shift = {
        "oral": lambda b: [b[0] - np.log(t), b[1] - np.log(y) - np.log(t), b[2] - np.log(y)],
        "logistic": lambda b: [b[0] * y, b[1] * t, b[2] * t],
        "emax": lambda b: [b[0] * y, b[1] + np.log(y), b[2] + np.log(t)],
        "biexponential": lambda b: [b[0] + np.log(y), b[1] - np.log(t), b[2] + np.log(y), b[3] - np.log(t)],
        "line": lambda b: [b[0] * y, b[1] * y / t],
    }[design.curve]
    sizes = {"asym": y, "mid": t, "base": y, "slope": y / t}
    factors = np.array([sizes.get(name, 1.0) for name in fit.random])
    truth = dict(fit.truth) | {
        "beta": list(map(float, shift(fit.truth["beta"]))),
        "psi": (np.asarray(fit.truth["psi"]) * np.outer(factors, factors)).tolist(),
        "sigma": fit.truth["sigma"] * y,
    }
    sds = tuple((np.asarray(fit.sds) * factors).tolist())
    return dataclasses.replace(
        fit, columns=columns, truth=truth, beta=tuple(map(float, shift(fit.beta))), sds=sds, sigma=fit.sigma * y
    )


def short(key: str, seed: int) -> HardFit:
    """A stochastic run of 18 iterations from a poor start."""
    far_off = {"oral": tuple(np.log([4.0, 8.0, 12.0])), "logistic": (120.0, 500.0, 200.0), "poisson": (2.5, 0.3)}
    fit = made(DESIGNS[key], f"{key}: a stochastic run of 18 iterations", SHORT, seed, beta=far_off[key])
    return dataclasses.replace(fit, short=(8, 5, 5))


def no_maximum(fit: HardFit) -> HardFit:
    """The same fit, expected to be said to have no single or no finite maximum."""
    return dataclasses.replace(fit, hardness=UNIDENTIFIED, expects="none", words=NO_MAXIMUM)


def bioavailability(seed: int) -> HardFit:
    """Clearance, volume and a bioavailability from one route."""
    base = made(DESIGNS["oral"], "oral: with a bioavailability", UNIDENTIFIED, seed)
    truth = dict(base.truth) | {"beta": [*base.truth["beta"], 0.0]}
    return no_maximum(dataclasses.replace(base, curve="oral_fraction", beta=(*base.beta, -0.2), truth=truth))


def low_doses(seed: int, saturating: bool) -> HardFit:
    """Doses far below the half-maximal one: little more than top / half is determined. Without saturation (a response
    that curves upwards) the likelihood rises for ever as both grow; with it this table's maximum is finite."""
    design = Design(
        "emax", (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0), 20, (5.0, np.log(3000.0), np.log(2000.0)),
        {"top": 0.3, "half": 0.4}, 0.5,
    )  # fmt: skip
    beta = (6.0, float(np.log(30.0)), float(np.log(20.0)))
    if saturating:
        return made(design, "emax: doses far below ED50", UNIDENTIFIED, seed, beta=beta)

    def upwards(table: Columns) -> None:
        table["y"] = table["y"] + 3.0 * table["t"] ** 2

    return no_maximum(made(design, "emax: no saturation", UNIDENTIFIED, seed, change=upwards, beta=beta))


def duplicate_column(seed: int) -> HardFit:
    """A column that is twice another."""
    base = made(DESIGNS["intercepts"], "line: a column twice another", UNIDENTIFIED, seed)
    columns = dict(base.columns) | {"u": 2.0 * base.columns["t"]}
    truth = dict(base.truth) | {"beta": [*base.truth["beta"], 0.0]}
    return no_maximum(
        dataclasses.replace(base, curve="two_lines", columns=columns, beta=(*base.beta, 0.1), truth=truth)
    )


def single_rows(seed: int) -> HardFit:
    """One row a group: only the sum of the two variances is determined."""
    design = Design("line", (0.0,), 40, (10.0, 2.0), {"base": 2.0}, 1.0)

    def spread(table: Columns) -> None:
        table["t"] = np.arange(40.0) % 5.0
        table["y"] = table["y"] + 2.0 * table["t"]

    return no_maximum(made(design, "line: one row a group", UNIDENTIFIED, seed, change=spread))


def separation(seed: int) -> HardFit:
    """t tells zeros and ones apart."""

    def apart(table: Columns) -> None:
        table["y"] = (table["t"] > 2.5).astype(float)

    return no_maximum(made(DESIGNS["bernoulli"], "bernoulli: complete separation", UNIDENTIFIED, seed, change=apart))


def nan_group(key: str, column: str, seed: int) -> HardFit:
    """One group whose column is NaN."""

    def spoil(table: Columns) -> None:
        table[column] = np.where(table["g"] == 3, np.nan, table[column])

    what = "responses" if column == "y" else f"values of {column}"
    return made(DESIGNS[key], f"{key}: {what} of a group are NaN", NAN, seed, change=spoil)


def late_samples(seed: int) -> HardFit:
    """Four subjects sampled only late, whose absorption and elimination may change places."""

    def late(table: Columns) -> None:
        table["y"] = np.where((table["g"] < 4) & (table["t"] < 3.0), np.nan, table["y"])

    fit = made(DESIGNS["oral"], "oral: four subjects sampled only late", MODES, seed, change=late)
    keep = np.isfinite(fit.columns["y"])
    return dataclasses.replace(fit, columns={name: values[keep] for name, values in fit.columns.items()})


def circadian(seed: int, name: str, beta: tuple[float, ...]) -> HardFit:
    """A random peak hour from four samples: peaks half a day apart are modes of a group."""
    return made(DESIGNS["circadian"], f"circadian: {name}", MODES, seed, beta=beta, several_modes=True)


def flip_flop(seed: int, name: str, true: tuple[float, ...], beta: tuple[float, ...]) -> HardFit:
    """ka and cl / vol may change places at the same height."""
    design = DESIGNS["oral"]
    truth = design.truth(beta=tuple(np.log(true)))
    return made(design, f"oral: {name}", FLIP, seed, truth, beta=tuple(map(float, np.log(beta))))


def spoiled(key: str, name: str, seed: int, change: Callable[[Columns], None]) -> HardFit:
    """Outlying rows or groups."""
    return made(DESIGNS[key], f"{key}: {name}", OUTLIER, seed, change=change)


def one_row(table: Columns) -> None:
    """Row 10 ten times as high."""
    table["y"][10] = 10.0 * table["y"][10]


def one_group(table: Columns) -> None:
    """The responses of group 2 three times as high."""
    table["y"] = np.where(table["g"] == 2, 3.0 * table["y"], table["y"])


def shifted_group(table: Columns) -> None:
    """60 added to the responses of group 2."""
    table["y"] = np.where(table["g"] == 2, table["y"] + 60.0, table["y"])


def huge_count(table: Columns) -> None:
    """A count of 200 in row 17."""
    table["y"][17] = 200.0


def nested(name: str, seed: int, outer: float, inner: float, groups: int = 12) -> HardFit:
    """Three units in a group, two rows a unit."""
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), 6)
    h = np.repeat(np.arange(3 * groups), 2)
    t = np.tile(np.arange(6.0), groups) / 5.0
    y = 10.0 + 2.0 * t + outer * rng.standard_normal(groups)[g] + inner * rng.standard_normal(3 * groups)[h]
    y = y + rng.standard_normal(len(g))
    truth: Estimates = {"beta": [10.0, 2.0], "psi": [[outer**2]], "sigma": 1.0, "inner": inner}
    columns = {"g": g, "h": h, "t": t, "y": y}
    start = {"beta": (9.0, 1.5), "sds": (0.5,), "sigma": 1.5, "nested": 0.5}
    return HardFit(f"nested: {name}", NESTED, "line", columns, ("base",), truth=truth, **start)


def published_nested(name: str, g: str, h: str, y: str, t: str | None, truth: tuple[float, ...]) -> HardFit | None:
    """A published nested table, `truth`: level, slope, outer and inner standard deviation, sigma."""
    table = published(name)
    if table is None:
        return None
    columns = {"g": table[g], "h": np.char.add(np.char.add(table[g].astype(str), "/"), table[h].astype(str))}
    columns |= {"y": table[y], "t": table[t] if t else np.arange(len(table[y])) % 2.0}
    level, slope, outer, inner, sigma = truth
    estimates: Estimates = {"beta": [level, slope], "psi": [[outer**2]], "sigma": sigma, "inner": inner}
    return HardFit(
        f"nested: {name}", NESTED, "line", columns, ("base",), (1.1 * level, slope), (outer,), sigma, estimates,
        nested=inner,
    )  # fmt: skip


def dyestuff2() -> HardFit | None:
    """Box and Tiao's table, whose variance between batches is estimated as zero; t alternates."""
    table = published("Dyestuff2")
    if table is None:
        return None
    columns = {"g": table["Batch"], "y": table["Yield"], "t": np.arange(len(table["Yield"])) % 2.0}
    truth: Estimates = {"beta": [5.7, 0.0], "psi": [[1.0]], "sigma": 3.7, "inner": None}
    return HardFit("line: Dyestuff2", ZERO, "line", columns, ("base",), (5.0, 0.1), (1.0,), 3.0, truth)


def igf() -> HardFit | None:
    """IGF of nlme, whose correlation is at its bound."""
    table = published("IGF")
    if table is None:
        return None
    columns = {"g": table["Lot"], "y": table["conc"], "t": table["age"]}
    psi = [[0.007, -0.0006], [-0.0006, 0.00006]]
    truth: Estimates = {"beta": [5.37, -0.0026], "psi": psi, "sigma": 0.82, "inner": None}
    return HardFit(
        "line: IGF", SINGULAR, "line", columns, ("base", "slope"), (5.0, 0.01), (0.1, 0.01), 1.0, truth, psi="full"
    )


def changed(key: str, name: str, hardness: str, seed: int, **truth: Any) -> HardFit:
    """A table simulated at another truth."""
    design = DESIGNS[key]
    return made(design, f"{key}: {name}", hardness, seed, design.truth(**truth))


def extreme(key: str, name: str, seed: int, sd: float, constant: bool = False) -> HardFit:
    """Groups all of whose responses are in the lowest or in the highest category."""
    design = DESIGNS[key]
    top = float(len(design.cuts)) if design.cuts else 1.0

    def ends(table: Columns) -> None:
        if constant:
            table["y"] = np.where(table["g"] % 3 == 0, 0.0, np.where(table["g"] % 3 == 1, top, table["y"]))

    return made(design, f"{key}: {name}", EXTREME, seed, design.truth(sds={"base": sd}), change=ends)
