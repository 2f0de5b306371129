"""Fits of other programs (`pkpd/published/published.json` of the reference) as models and data of this package.

The names of variances on file are cut at their comma, "SIGMA(1", "1)", "OMEGA(1", "1)", ..., each value has gone to
the next name, and later ones have replaced earlier ones. So "SIGMA(1" is the residual variance, and with two effects
"1)" is omega_22 and "OMEGA(1" omega_21; with three "1)" is omega_32, "OMEGA(1" omega_21 and "OMEGA(2" omega_33; with
four "1)" is omega_43, "OMEGA(1" omega_21, "OMEGA(2" omega_33 and "OMEGA(3" omega_44. The others are lost.

Not here: `mox1` (its listing has 74 subjects and 1,022 observations, the data on file 73 and 1,006: another table);
`bauer_ad3tr4_m3_laplace` (NONMEM's search was terminated with gradients in the thousands, where the Hessian of a
subject is nearly singular: not a maximum); the grid of 2019, which nlme fitted: `benchmarks/study_grid.py`. The mixture
of two subpopulations is no model of this package: its likelihood is that of two models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd

import jaxnlme as jn

Values = dict[str, float]


@dataclass(frozen=True)
class Case:
    """A published fit.

    **Fields:** `method`; `build(folder)`: model (with starting values that are not the estimates) and data;
    `objective`; `values`: published estimates by our names; `se`: standard errors of some of them; `constant`: number
    of rows for which log(2 pi) is left out of the objective (None: all observed ones).
    """

    method: str
    build: Callable[[Path], tuple[jn.NLMEModel, jn.GroupedData]]
    objective: float
    values: Values
    se: Values = field(default_factory=dict)
    constant: int | None = None

    def objective_of(self, log_likelihood: float, data: jn.GroupedData) -> float:
        """-2 log L without the constant, as the listing has it."""
        rows = data.n_obs if self.constant is None else self.constant
        return -2.0 * log_likelihood - rows * float(np.log(2.0 * np.pi))


def effects(**starts: float) -> list[jn.Parameter]:
    """Log-normal parameters with random effects."""
    return [jn.Parameter(name, start, "log", random=True) for name, start in starts.items()]


def sds(**variances: float) -> Values:
    return {f"sd({name})": variance**0.5 for name, variance in variances.items()}


def on_log_scale(estimates: Mapping[str, float], se: Mapping[str, float]) -> tuple[Values, Values]:
    """Values and standard errors (delta method) of parameters given with their logarithms."""
    values = {name: float(np.exp(value)) for name, value in estimates.items()}
    return values, {name: values[name] * value for name, value in se.items()}


def read(name: str, **options: Any) -> Callable[[Path], jn.GroupedData]:
    return lambda folder: jn.GroupedData.from_nonmem(folder / "pkpd" / "data" / f"{name}.csv", **options)


# ---- warfarin (Holford; simulated for ferx)


def warfarin(name: str = "ferx_warfarin", **options: Any) -> Callable:
    def build(folder: Path) -> tuple[jn.NLMEModel, jn.GroupedData]:
        model = jn.NLMEModel(
            jn.pkpd.compartments(1, "first-order"), effects(CL=0.2, V=10.0, KA=1.5), error="proportional", **options
        )
        return model, read(name)(folder)

    return build


POINT = {"CL": 0.13, "V": 8.0, "KA": 1.0, **sds(CL=0.09, V=0.04, KA=0.3), "b": 0.1}
# NONMEM's LAPLACIAN without INTERACTION: the residual scale is that at eta = 0, the Hessian exact.
LAPLACE_WITHOUT_INTERACTION = jn.LikelihoodApproximation(
    "Laplace without interaction", True, False, "exact", jn.Laplace().integral, jn.Laplace().search
)
# Objectives at POINT and the digits to which they are printed. ferx's FOCE, 16.475, is not here: neither NONMEM nor a
# second program has it, and the formula with the scale at eta = 0 gives 17.1019 (mode, linearisation and determinant
# computed apart as well), near NONMEM's 17.2049 with the exact Hessian.
OBJECTIVES_AT_POINT: dict[str, tuple[Any, float, float]] = {
    "laplace without interaction": (LAPLACE_WITHOUT_INTERACTION, 17.2049, 1e-4),
    "focei": ("focei", 7.4967, 1e-4),
    "laplace": ("laplace", 7.8994, 1e-4),
    "agq 3": (jn.AGQ(3), 7.697, 1e-3),
    "agq 5": (jn.AGQ(5), 7.501, 1e-3),
    "agq 7": (jn.AGQ(7), 7.483, 1e-3),
    "agq 11": (jn.AGQ(11), 7.480, 1e-3),
}

# ---- absorption


def two_inputs(phi, x, v):
    """A fraction FR1 is absorbed with the rate constant KA1, the rest with KA2."""
    oral = jn.pkpd.compartments(1, "first-order")
    fast = oral({"CL": phi.CL, "V": phi.V, "KA": phi.KA1}, x, v)
    slow = oral({"CL": phi.CL, "V": phi.V, "KA": phi.KA2}, x, v)
    return phi.FR1 * fast + (1.0 - phi.FR1) * slow


def parallel_first_order(folder: Path) -> tuple[jn.NLMEModel, jn.GroupedData]:
    parameters = [
        *effects(CL=4.0, V=40.0),
        jn.Parameter("FR1", 0.6, "logit"),
        jn.Parameter("KA1", 3.0, "log"),
        jn.Parameter("KA2", 0.2, "log"),
    ]
    return jn.NLMEModel(two_inputs, parameters, error="proportional"), read("ferx_parallel_oral")(folder)


def first_order_lag(folder: Path) -> tuple[jn.NLMEModel, jn.GroupedData]:
    parameters = [
        jn.Parameter("CL", 4.0, "log", random=True),
        jn.Parameter("V", 40.0, "log"),
        jn.Parameter("KA", 0.8, "log", random=True),
        jn.Parameter("ALAG", 0.4, "log"),
    ]
    model = jn.NLMEModel(jn.pkpd.compartments(1, "first-order"), parameters, error="proportional")
    return model, read("ferx_first_order_alag")(folder)


def with_depot(t, y, phi):
    """First-order absorption from a depot, one compartment."""
    absorbed = phi.KA * y.depot
    return {"depot": -absorbed, "central": absorbed - phi.CL / phi.V * y.central}


def savic_transit(folder: Path) -> tuple[jn.NLMEModel, jn.GroupedData]:
    structure = jn.pkpd.ode(
        with_depot, ["depot", "central"], "central / V", inputs={"depot": jn.pkpd.inputs.savic("N", "MTT")}
    )
    parameters = [
        *effects(CL=4.0, V=40.0),
        *(jn.Parameter(name, start, "log") for name, start in (("KA", 1.5), ("MTT", 1.4), ("N", 2.0))),
    ]
    return jn.NLMEModel(structure, parameters, error=jn.error.proportional(0.2)), read("ferx_transit_oral")(folder)


def elimination(t, y, phi):
    return -phi.CL / phi.V * y.central


def weibull_absorption(folder: Path) -> tuple[jn.NLMEModel, jn.GroupedData]:
    inputs = {"central": jn.pkpd.inputs.weibull("TD", "BETA")}
    structure = jn.pkpd.ode(elimination, ["central"], "central / V", inputs=inputs)
    parameters = [*effects(CL=4.0, V=45.0), jn.Parameter("TD", 1.3, "log"), jn.Parameter("BETA", 2.5, "log")]
    return jn.NLMEModel(structure, parameters, error=jn.error.proportional(0.3)), read("ferx_igd_oral")(folder)


# ---- times to events


def hazard(phi, x, v):
    """The constant hazard of a subject, at each of its rows."""
    return phi.LAM + 0.0 * x.TIME


def events_at_constant_hazard(y, f, p, x, v):
    """Rows with y = 1 are events; the hazard acts from row to row, from 0 to the end of follow-up (y = 0)."""
    before = jnp.concatenate([jnp.zeros(1), x.TIME[:-1]])
    return y * jnp.log(f) - f * (x.TIME - before)


def constant_hazard(name: str, start: float) -> Callable:
    def build(folder: Path) -> tuple[jn.NLMEModel, jn.GroupedData]:
        error = jn.GroupLogLikelihood(events_at_constant_hazard, name="events at constant hazard")
        return jn.NLMEModel(hazard, effects(LAM=start), error=error), read(name)(folder)

    return build


def gompertz_hazard(phi, x, v):
    """log h and H at the time of each row, of the hazard alpha exp(gamma t) exp(log_hr TRT)."""
    log_alpha = phi.log_alpha + phi.log_hr * v.TRT
    gamma = jnp.exp(phi.log_gamma)
    return log_alpha + gamma * x.TIME, jnp.exp(log_alpha) * jnp.expm1(gamma * x.TIME) / gamma


def event_or_end(y, f, p, x, v):
    log_hazard, cumulative = f
    return y * log_hazard - cumulative


# ---- phenobarbital (Grasela and Donn 1985)


def per_weight(phi, x, v):
    """Clearance and volume proportional to weight; the volume differs where the Apgar score is below 5."""
    parameters = {"CL": phi.CL * v.WGT, "V": phi.V * v.WGT * (1.0 + phi.low_apgar * (v.APGR < 5))}
    return jn.pkpd.compartments(1)(parameters, x, v)


def pheno_real(folder: Path) -> tuple[jn.NLMEModel, jn.GroupedData]:
    model = jn.NLMEModel(
        per_weight, [*effects(CL=0.007, V=1.5), jn.Parameter("low_apgar", 0.1)], error=jn.error.proportional(0.2)
    )
    return model, read("pharmpy_pheno", covariates=["WGT", "APGR"])(folder)


def pheno(name: str) -> Callable:
    def build(folder: Path) -> tuple[jn.NLMEModel, jn.GroupedData]:
        model = jn.NLMEModel(jn.pkpd.compartments(1), effects(CL=0.008, V=1.0), error=jn.error.proportional(0.2))
        return model, read(name, covariates=[])(folder)

    return build


# ---- Bauer (2019), two tutorials in CPT: PSP


def bauer_402(folder: Path) -> tuple[jn.NLMEModel, jn.GroupedData]:
    parameters = effects(V1=15.0, CL=6.0, V2=20.0, Q=14.0)
    model = jn.NLMEModel(jn.pkpd.compartments(2), parameters, error="proportional")
    return model, read("bauer_402", skip="C")(folder)


COVARIATES = {"WT": "log(WT / 70)", "AGE": "log(AGE / 50)", "SEX": "SEX"}


def bauer_504(folder: Path) -> tuple[jn.NLMEModel, jn.GroupedData]:
    parameters = [
        jn.Parameter(name, start, "log", random=True, covariates=[*COVARIATES.values()])
        for name, start in (("CL", 4.0), ("V", 20.0))
    ]
    model = jn.NLMEModel(jn.pkpd.compartments(1, "infusion"), parameters, covariance="full", error="proportional")
    return model, read("bauer_501", skip="C")(folder)


# A mixture of two subpopulations: estimates of the listing (pmixture_foce.ext; the file of the reference lacks omega_11
# and omega_22), by class: logarithms of k and V, and their covariance in the order V, k.
MIXTURE_SHARE, MIXTURE_OBJECTIVE = 0.666679, -9961.746179
MIXTURE = (
    ({"k": -2.29643, "V": 4.2415}, [[0.0461817, -0.00857633], [-0.00857633, 0.0272419]]),
    ({"k": -0.675756, "V": 4.26186}, [[0.0493103, -0.0110284], [-0.0110284, 0.0599658]]),
)
MIXTURE_SD = 0.0102343**0.5


def mixture(folder: Path) -> tuple[jn.NLMEModel, jn.GroupedData]:
    """The model of one class, and the data of all."""
    pk = jn.pkpd.compartments(1, parameters="k V")
    model = jn.NLMEModel(pk, effects(V=70.0, k=0.3), covariance="full", error=jn.error.proportional(0.1))
    return model, read("bauer_pmixture", skip="C", covariates=[])(folder)


# ---- warfarin, concentration and prothrombin complex activity (O'Reilly and Aggeler 1968)


def effect_compartment(phi, x, v):
    """Concentration, and the activity that an effect compartment inhibits: a peripheral one that takes up next to
    nothing, from which KE0 leads back."""
    pk = jn.pkpd.compartments(2, "first-order", "k k12 k21 V")
    rates = {"k": phi.CL / phi.V, "V": phi.V, "KA": phi.KA, "TLAG": phi.TLAG, "k12": 1e-7, "k21": phi.KE0}
    at = pk.concentrations(rates, x, v)
    return jnp.where(x.endpoints == 0, at.central, phi.E0 * phi.C50 / (phi.C50 + at.peripheral1))


def warfarin_with_effect(folder: Path) -> tuple[jn.NLMEModel, jn.GroupedData]:
    """Concentration and effect of warfarin. Four concentrations of exactly zero half an hour after the dose are left
    out: with a lag longer than that their likelihood grows without bound as the constant part of the scale goes to
    zero."""
    parameters = [*effects(CL=0.2, V=10.0, KA=0.8, KE0=0.04, E0=80.0, C50=2.0), jn.Parameter("TLAG", 0.6, "log")]
    error = {"cp": "combined", "pca": "constant"}
    model = jn.NLMEModel(effect_compartment, parameters, error=error)
    table = pd.read_csv(folder / "pkpd" / "data" / "warfarin.csv")
    zero = (table["dvid"] == "cp") & (table["dv"] == 0) & (table["evid"] == 0)
    return model, jn.GroupedData.from_nonmem(table[~zero], endpoint="dvid", covariates=[])


# ---- the cases

FOCEI_WARFARIN = {"CL": 0.132695, "V": 7.73771, "KA": 0.810796, "b": 0.000111621**0.5, "sd(KA)": 0.33588**0.5}
LAPLACE_WARFARIN = {
    "CL": 0.132687, "V": 7.73746, "KA": 0.810924, "b": 0.0105646,
    **sds(CL=0.0285916, V=0.00959221, KA=0.336006),
}  # fmt: skip
M3_WARFARIN = {
    "CL": 0.132801, "V": 7.73139, "KA": 0.809824, "b": 0.01076, **sds(CL=0.028849, V=0.009544, KA=0.335772),
}  # fmt: skip
BAUER_504 = on_log_scale({"CL": 1.10899, "V": 3.4777}, {"CL": 0.0383166, "V": 0.048748})
CL_504 = {"WT": (0.659764, 0.160148), "AGE": (-0.534045, 0.103164), "SEX": (-0.101058, 0.0568296)}
V_504 = {"WT": (1.32154, 0.201692), "AGE": (0.0522912, 0.12946), "SEX": (-0.0547756, 0.0713081)}
COEFFICIENTS_504 = {
    f"{name} ~ {COVARIATES[covariate]}": pair
    for name, table in (("CL", CL_504), ("V", V_504))
    for covariate, pair in table.items()
}


def gompertz(folder: Path) -> tuple[jn.NLMEModel, jn.GroupedData]:
    parameters = {"log_alpha": -5.0, "log_gamma": -6.0, "log_hr": 0.0}
    error = jn.GroupLogLikelihood(event_or_end, name="event or end of follow-up")
    return jn.NLMEModel(gompertz_hazard, parameters, error=error), read("ferx_tte_gompertz")(folder)


CASES = {
    "ferx_warfarin_laplace_optimum": Case("laplace", warfarin(), -285.9703, LAPLACE_WARFARIN),
    "ferx_warfarin_focei": Case("focei", warfarin(), -286.004219, FOCEI_WARFARIN),
    "ferx_warfarin_m3": Case(
        "laplace", warfarin("ferx_warfarin_bloq", censoring="M3"), -216.787544, M3_WARFARIN, constant=100
    ),
    "ferx_savic_transit": Case(
        "focei", savic_transit, -1077.125624,
        {
            "CL": 5.38557, "V": 56.1691, "KA": 0.952374, "MTT": 0.965116, "N": 3.13318,
            "b": 0.025459**0.5, "sd(V)": 0.0430691**0.5,
        },
        {"CL": 0.272858, "V": 2.84931, "KA": 0.0765916, "MTT": 0.0439121, "N": 0.11891},
    ),
    "ferx_weibull_absorption": Case(
        "focei", weibull_absorption, -943.832624,
        {
            "CL": 5.39758, "V": 63.0166, "TD": 1.65572, "BETA": 3.47905,
            "b": 0.0479645**0.5, "sd(V)": 0.0420421**0.5,
        },
        {"CL": 0.314569, "V": 3.09021, "TD": 0.0292716, "BETA": 0.0415842},
    ),
    "ferx_parallel_first_order": Case(
        "focei", parallel_first_order, -688.019377,
        {
            "CL": 5.39863, "V": 55.3038, "FR1": 0.639398, "KA1": 1.36719, "KA2": 0.255311,
            "b": 0.0252118**0.5, "sd(V)": 0.0430249**0.5,
        },
        {"CL": 0.275541, "V": 4.25262, "FR1": 0.0538004, "KA1": 0.0976349, "KA2": 0.0336509},
    ),
    "ferx_first_order_alag": Case(
        "focei", first_order_lag, -1046.685339,
        {
            "CL": 5.17325, "V": 49.7196, "KA": 1.02497, "ALAG": 0.49929,
            "b": 0.00976151**0.5, "sd(KA)": 0.0243573**0.5,
        },
        {"CL": 0.246587, "V": 0.655663, "KA": 0.0360116, "ALAG": 0.00229199},
    ),
    "tte_exponential_frailty": Case(
        "laplace", constant_hazard("ferx_tte_exponential", 0.1), 588.931121,
        {"LAM": float(np.exp(-2.56222)), "sd(LAM)": 0.28604**0.5}, {"LAM": 0.126005 * float(np.exp(-2.56222))}, 0,
    ),
    "tte_gompertz": Case(
        "laplace", gompertz, 3011.121174, {"log_alpha": -6.00647, "log_gamma": -5.3972, "log_hr": -0.797413},
        {"log_alpha": 0.137597, "log_gamma": 0.146226, "log_hr": 0.136325}, 0,
    ),
    "rtte_exponential": Case(
        "laplace", constant_hazard("ferx_rtte_exponential", 0.3), 1748.492675,
        {"LAM": 0.140618, "sd(LAM)": 0.164496**0.5}, {"LAM": 0.0127353}, 0,
    ),
    "pheno_real": Case(
        "focei", pheno_real, 586.276056,
        {"CL": 0.00469555, "V": 0.984258, "low_apgar": 0.15892, "b": 0.013241**0.5, "sd(V)": 0.027906**0.5},
        {"CL": 0.000210036, "V": 0.0268952, "low_apgar": 0.0837623},
    ),
    "pheno_no_covariates": Case(
        "focei", pheno("pharmpy_pheno"), 730.894727,
        {"CL": 0.00581756, "V": 1.44555, "b": 0.0164177**0.5, "sd(V)": 0.201526**0.5},
    ),
    "pheno5": Case(
        "focei", pheno("pharmpy_pheno5"), 51.789039,
        {"CL": 0.00538513, "V": 1.42507, "b": 0.00829096**0.5, "sd(V)": 0.0608711**0.5},
        {"CL": 0.00130964, "V": 0.15193},
    ),
    "bauer_402": Case(
        "focei", bauer_402, 196.008342,
        {
            "V1": 9.760346, "CL": 3.876825, "V2": 30.81783, "Q": 8.773851, "b": 0.008841256**0.5,
            **sds(V2=0.02918796, Q=0.02318324),
        },
        {"V1": 0.243066, "CL": 0.107002, "V2": 1.283077, "Q": 0.2729691},
    ),
    "bauer_504_focei": Case(
        "focei", bauer_504, 1058.303712,
        {
            **BAUER_504[0], **{name: pair[0] for name, pair in COEFFICIENTS_504.items()},
            "b": 0.0502578**0.5, "sd(V)": 0.0466096**0.5,
        },
        BAUER_504[1] | {name: pair[1] for name, pair in COEFFICIENTS_504.items()},
    ),
}  # fmt: skip
