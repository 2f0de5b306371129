"""Fits of R's lme, gls, lmer and gnls in the reference folder, each with the call of ours that makes the same fit."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd

import jaxnlme as jn
from jaxnlme.linear.record import LinearFit
from jaxnlme.model.covariance.structures import Blocks, MultipleOfIdentity

# Factors with numbers or with an order of their own as levels, which a CSV file does not tell.
FACTORS = {
    "Orthodont": {"Sex": ["Male", "Female"]},
    "BodyWeight": {"Diet": ["1", "2", "3"]},
    "ChickWeight": {"Diet": ["1", "2", "3", "4"]},
    "Assay": {"sample": list("abcdef"), "dilut": list("12345")},
}
SEX_AGE = "distance ~ Sex * I(age - 11)"
WAFER = "~ voltage + I(voltage^2)"
COSINE = "current ~ voltage + I(voltage^2) + cos(4.5679 * voltage) + sin(4.5679 * voltage)"
AGE, DIET = "~ age | Subject", "weight ~ Time * Diet"


@dataclasses.dataclass(frozen=True)
class Call:
    """A call of `jn.lme`, or of `jn.gls` where `function` is that. **Fields:** `formula`; `random`; `options`."""

    formula: str
    random: Any = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    function: Callable[..., LinearFit] = jn.lme

    def fit(self, frame: Any, method: str) -> LinearFit:
        """The fit of a table by "REML" or "ML"."""
        given = {} if self.function is jn.gls else {"random": self.random}
        return self.function(self.formula, data=frame, method=method, **given, **self.options)


def _call(formula: str, random: Any = None, **options: Any) -> Call:
    return Call(formula, random, options)


def _gls(formula: str, **options: Any) -> Call:
    return Call(formula, None, options, jn.gls)


SERIES = jn.correlation
POWER = jn.variance.power()
# By data set and model: the call; fits of other R functions with a spelling of their own are in `LMER`.
CALLS = {
    "Assay_crossed_blocked": _call("logDens ~ sample * dilut + (1 | Block) + (1 | Block:sample) + (1 | Block:dilut)"),
    "BodyWeight_gls_corCAR1_varPower": _gls(DIET, correlation=SERIES.CAR1("Time", within="Rat"), weights=POWER),
    "BodyWeight_intslope_diet": _call(DIET, "~ Time | Rat"),
    "BodyWeight_intslope_diet_varPower": _call(DIET, "~ Time | Rat", weights=POWER),
    "BodyWeight_intslope_diet_varPower_corExp": _call(
        DIET, "~ Time | Rat", weights=POWER, correlation=SERIES.Exponential("Time")
    ),
    "ChickWeight_lme_intslope_diet": _call(DIET, "~ Time | Chick"),
    "Dyestuff2_oneway": _call("Yield ~ 1", "~ 1 | Batch"),
    "Dyestuff_oneway": _call("Yield ~ 1", "~ 1 | Batch"),
    "Fatigue_quad": _call(
        "log(relLength) ~ cycles + I(cycles^2) - 1", "~ cycles + I(cycles^2) - 1 | Path", covariance="diagonal"
    ),
    "Glucose_subject_meal": _call("conc ~ factor(Time)", "~ 1 | Subject/Meal"),
    "IGF_intslope_diag": _call("conc ~ age", "~ age | Lot", covariance="diagonal"),
    "IGF_intslope_full": _call("conc ~ age", "~ age | Lot"),
    "IGF_intslope_full_ctl": _call("conc ~ age", "~ age | Lot"),
    "Machines_machine_full": _call("score ~ Machine", "~ Machine - 1 | Worker"),
    "Machines_worker": _call("score ~ Machine", "~ 1 | Worker"),
    "Machines_worker_machine": _call("score ~ Machine", "~ 1 | Worker/Machine"),
    "Milk_int_corCAR1": _call("protein ~ Diet * Time", "~ 1 | Cow", correlation=SERIES.CAR1("Time")),
    "Oats_splitplot_nitro": _call("yield ~ nitro", "~ 1 | Block/Variety"),
    "Oats_splitplot_nitro_variety": _call("yield ~ factor(nitro) * Variety", "~ 1 | Block/Variety"),
    "Orthodont_diag_sex": _call(SEX_AGE, "~ I(age - 11) | Subject", covariance="diagonal"),
    "Orthodont_gls_corCompSymm": _gls(SEX_AGE, correlation=SERIES.CompoundSymmetry(within="Subject")),
    "Orthodont_gls_corSymm_varIdent": _gls(
        SEX_AGE, correlation=SERIES.Unstructured("age", within="Subject"), weights=jn.variance.strata("age")
    ),
    "Orthodont_int": _call("distance ~ age", "~ 1 | Subject"),
    "Orthodont_intslope": _call("distance ~ age", AGE),
    "Orthodont_intslope_sex": _call(SEX_AGE, "~ I(age - 11) | Subject"),
    "Orthodont_intslope_sex_varIdent": _call(SEX_AGE, "~ I(age - 11) | Subject", weights=jn.variance.strata("Sex")),
    "Oxboys_intslope": _call("height ~ age", AGE),
    "Oxboys_quartic_quad": _call("height ~ age + I(age^2) + I(age^3) + I(age^4)", "~ age + I(age^2) | Subject"),
    "Pastes_batch_cask": _call("strength ~ 1", "~ 1 | batch/cask"),
    "Penicillin_crossed": _call("diameter ~ 1 + (1 | plate) + (1 | sample)"),
    "Rail_oneway": _call("travel ~ 1", "~ 1 | Rail"),
    "Spruce_plot_tree": _call("logSize ~ days + I(days^2)", {"plot": "~ 1", "Tree": "~ 1"}),
    "Wafer_lme_quad_cos_full_nested": _call(
        COSINE,
        {"Wafer": WAFER, "Site": WAFER},
        covariance={"Site": [["(Intercept)"], ["voltage", "I(voltage ** 2)"]]},
    ),
    "Wafer_lme_quad_cos_full_nested_ctl": _call(
        COSINE,
        {"Wafer": WAFER, "Site": WAFER},
        covariance={"Site": [["(Intercept)"], ["voltage", "I(voltage ** 2)"]]},
    ),
    "Wafer_lme_quad_cos_nested_diag": _call(COSINE, {"Wafer": WAFER, "Site": WAFER}, covariance="diagonal"),
    "Wafer_lme_quad_nested_diag": _call(
        "current ~ voltage + I(voltage^2)", {"Wafer": WAFER, "Site": WAFER}, covariance="diagonal"
    ),
    "ergoStool_block": _call("effort ~ Type", "~ 1 | Subject"),
    "sleepstudy_intslope": _call("Reaction ~ Days", "~ Days | Subject"),
    "sleepstudy_intslope_corAR1": _call("Reaction ~ Days", "~ Days | Subject", correlation=SERIES.AR1("Days")),
    "sleepstudy_intslope_corAR1_ctl": _call("Reaction ~ Days", "~ Days | Subject", correlation=SERIES.AR1("Days")),
    "sleepstudy_intslope_diag": _call("Reaction ~ Days", "~ Days | Subject", covariance="diagonal"),
}
# The same models in the spelling of lme4.
LMER = {
    "Dyestuff2_oneway": _call("Yield ~ 1 + (1 | Batch)"),
    "Dyestuff_oneway": _call("Yield ~ 1 + (1 | Batch)"),
    "Machines_machine_full": _call("score ~ Machine + (Machine - 1 | Worker)"),
    "Machines_worker_machine": _call("score ~ Machine + (1 | Worker) + (1 | Worker:Machine)"),
    "Oats_splitplot_nitro": _call("yield ~ nitro + (1 | Block) + (1 | Block:Variety)"),
    "Orthodont_intslope": _call("distance ~ age + (age | Subject)"),
    "Orthodont_intslope_sex": _call(f"{SEX_AGE} + (I(age - 11) | Subject)"),
    "Pastes_batch_cask": _call("strength ~ 1 + (1 | batch) + (1 | batch:cask)"),
    "Rail_oneway": _call("travel ~ 1 + (1 | Rail)"),
    "Wafer_lme_quad_nested_diag": _call(
        "current ~ voltage + I(voltage^2) + (voltage + I(voltage^2) || Wafer) + (voltage + I(voltage^2) || Wafer:Site)"
    ),
    "sleepstudy_intslope": _call("Reaction ~ Days + (Days | Subject)"),
    "sleepstudy_intslope_diag": _call("Reaction ~ Days + (Days || Subject)"),
}
# nlme's pdBlocked of multiples of the identity, as random effects of one grouping factor.
ASSAY_BLOCKED = _call(
    "logDens ~ sample * dilut + (1 | Block) + (sample - 1 | Block) + (dilut - 1 | Block)",
    covariance=Blocks(
        12,
        (
            ((0,), MultipleOfIdentity(1)),
            (tuple(range(1, 7)), MultipleOfIdentity(6)),
            (tuple(range(7, 12)), MultipleOfIdentity(5)),
        ),
    ),
)


def call_of(record: dict[str, Any]) -> Call | None:
    """Our call of a reference fit; None for a nonlinear one."""
    model = f"{record['dataset']}_{record['model']}"
    if record["method"].startswith("lmer") and model in LMER:
        return LMER[model]
    if model == "Assay_crossed_blocked" and not record["method"].startswith("lmer"):
        return ASSAY_BLOCKED
    return CALLS.get(model)


def program_of(record: dict[str, Any]) -> str:
    """The R function of a reference fit, also of one that failed."""
    return " ".join(record["r_code"] or [""]).partition("(")[0]


def method_of(record: dict[str, Any]) -> str:
    """ "REML" or "ML"."""
    return "REML" if record["method"].endswith("REML") else "ML"


@lru_cache(maxsize=2)
def records(folder: Path) -> dict[str, dict[str, Any]]:
    """The reference fits of R's lme, gls, lmer and gnls by name."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted((folder / "r").glob("*.json"))}
    programs = ("lme", "gls", "lmer", "gnls")
    return {name: record for name, record in found.items() if isinstance(record, dict) and _is(record, programs)}


def _is(record: dict[str, Any], programs: tuple[str, ...]) -> bool:
    return "r_code" in record and program_of(record) in programs


def table_of(folder: Path, name: str) -> pd.DataFrame:
    """A data set of R as R has it."""
    frame = pd.read_csv(folder.parent / "data" / f"{name}.csv")
    for column, levels in FACTORS.get(name, {}).items():
        frame[column] = pd.Categorical(frame[column].astype(str), levels)
    return frame


def fit_of(folder: Path, record: dict[str, Any]) -> LinearFit:
    """Our fit of the model of a reference fit."""
    call = call_of(record)
    assert call is not None
    return call.fit(table_of(folder, record["dataset"]), method_of(record))


def logistic_model() -> jn.NLMEModel:
    """SSlogis(age, Asym, xmid, scal) without random effects, from the reference's starting values."""

    def logistic(phi: Any, x: Any, v: Any) -> Any:
        return phi.Asym / (1.0 + jnp.exp((phi.xmid - x.age) / phi.scal))

    start = {"Asym": 192.0, "xmid": 728.0, "scal": 356.0}
    return jn.NLMEModel(logistic, [jn.Parameter(name, value) for name, value in start.items()])


def in_r_spelling(name: str) -> str:
    """The name of a column as R writes it, without spaces: Sex[T.Female] is SexFemale, ** is ^."""
    return re.sub(r"\[(?:T\.)?([^\]]*)\]", r"\1", name).replace("**", "^").replace(" ", "")


def by_r_names(values: Any) -> dict[str, float]:
    """A series or a dictionary with names as R writes them."""
    return {in_r_spelling(str(name)): float(value) for name, value in values.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class RandomEffects:
    """Covariance (effects, effects) and random effects (units, effects) of the reference at one of our levels."""

    psi: np.ndarray
    values: np.ndarray


def random_effects_of(fit: LinearFit, record: dict[str, Any]) -> list[RandomEffects]:
    """The random effects of a reference fit, in our order of levels, effects and units."""
    out = []
    for grouping in fit.model.groupings:
        names = [in_r_spelling(name) for name in grouping.effects]
        labels = {":".join(grouping.group), grouping.group[-1]}
        parts = [key for key in record["random"] if _factor(key) in labels]
        psi, values = np.zeros((len(names), len(names))), np.zeros((grouping.units.count, len(names)))
        seen = []
        for key in parts:
            theirs = record["random"][key]
            at = [names.index(in_r_spelling(name)) for name in theirs["names"]]
            seen += at
            psi[np.ix_(at, at)] = np.asarray(theirs["covariance"], float)
            effects = record["ranef"].get(_factor(key)) or record["ranef"][key]
            rows = {str(label).replace(":", "/"): k for k, label in enumerate(effects["groups"])}
            order = [rows[_unit(label)] for label in grouping.units.labels]
            for name, column in zip(theirs["names"], at, strict=True):
                values[:, column] = np.asarray(effects[name], float)[order]
        assert sorted(seen) == list(range(len(names))), (grouping.label, names, list(record["random"]))
        out.append(RandomEffects(psi, values))
    return out


def _factor(key: str) -> str:
    """The grouping factor of a key: lmer has g, g.1, g.2 for the terms of (x || g), and a.b for a:b there."""
    return re.sub(r"\.\d+$", "", key).replace(".", ":")


def _unit(label: Any) -> str:
    return "/".join(map(str, label)) if isinstance(label, tuple) else str(label)


def residual_parameters_of(record: dict[str, Any]) -> list[float]:
    """Parameters of variance function and correlation of a reference fit, the reference stratum of varIdent left out,
    in the order of ours."""
    out: list[float] = []
    variance, correlation = record.get("variance_function"), record.get("correlation")
    if variance:
        values = list(variance["parameters"].values())
        out += values[1:] if variance["class"] == "varIdent" else values
    if correlation:
        values = correlation["parameters"]
        out += list(values.values()) if isinstance(values, dict) else list(values)
    return [float(value) for value in out]
