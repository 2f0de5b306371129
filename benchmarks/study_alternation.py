"""Models that R's nlme fails to fit, or whose psi is singular: our fixed points, and how the likelihood falls along the
directions in which psi is singular there.

    JAXNLME_REFERENCE=... python benchmarks/study_alternation.py

Writes results/alternation.csv, one row a point: a fixed point of the alternation (`held` empty), with the residual of a
further alternation in standard errors and the evaluations used; or the fixed point of all other entries where one
(conditional) standard deviation is held at `held`, with the log-likelihood there below the fixed point's (`below`) and
the score of the logarithm of that standard deviation, the linearisation held. (The score decides; the values belong to
different linearisations, and need not have it as their slope.) Prints the table by model.
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
jax.config.update("jax_enable_x64", True)

import jaxnlme as jn  # noqa: E402
from tests.estimators.lindstrom_bates import nlme_fits as fits  # noqa: E402

REFERENCE = Path(os.environ.get("JAXNLME_REFERENCE") or HERE.parent.parent / "shared" / "reference")
COLUMNS = (
    "model",
    "method",
    "nlme",
    "direction",
    "held",
    "log_likelihood",
    "below",
    "score",
    "residual",
    "evaluations",
)
# Fits that nlme failed, and those with a singular psi that it finished.
MODELS = [
    "CO2_asympOff_full3_REML",
    "ChickWeight_logis_full3_ML",
    "ChickWeight_logis_full3_REML",
    "DNase_logis_diag3_ML",
    "DNase_logis_full3_REML",
    "Indometh_biexp_blocked_A1lrc1_A2_ML",
    "Indometh_biexp_full4_ML",
    "Indometh_biexp_full4_REML",
    "Indometh_biexp_full_A1_lrc1_A2_ML",
    "Indometh_biexp_full_A1_lrc1_A2_REML",
    "Orange_logis_diag3_REML",
    "Orange_logis_full3_ML",
    "Orange_logis_full3_REML",
    "Phenobarb_pheno_diag_Wt_ML",
    "Phenobarb_pheno_diag_Wt_REML",
    "Phenobarb_pheno_diag_Wt_Apgar_ML",
    "Phenobarb_pheno_diag_Wt_Apgar_REML",
    "Phenobarb_pheno_diag_Wt_varPower_ML",
    "Phenobarb_pheno_diag_Wt_varPower_REML",
    "Phenobarb_pheno_full_REML",
    "Theoph_ssfol_diag_lKa_lCl_varConstProp_ML",
    "Theoph_ssfol_diag_lKa_lCl_varConstProp_REML",
    "Theoph_ssfol_full3_ML",
    "Theoph_ssfol_full3_REML",
    "Theoph_ssfol_lKa_only_ML",
]
# Held SDs, as shares of the typical value; of the effect's own SD where it is only the conditional one that is zero.
FRACTIONS = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1)


def rows(name: str) -> Iterator[dict[str, object]]:
    """The fixed point of one model, and points around it in the directions in which psi is zero there."""
    status = fits.catalogue.record(REFERENCE, name)["status"]
    restricted = name.endswith("_REML")
    problem = fits.problem(fits.model_name(name))
    fit = jn.fit(problem.model, problem.data, "relme" if restricted else "lme", start=fits.nlme_start(REFERENCE, name))
    common = {"model": fits.model_name(name), "method": fit.options["method"], "nlme": status}
    yield common | {
        "direction": "converged" if fit.converged else "NOT CONVERGED",
        "log_likelihood": f"{fit.log_likelihood:.6f}",
        "residual": f"{fits.fixed_point_residual(problem, fit.params, restricted, fit.modes).residual:.1e}",
        "evaluations": fit.timings["evaluations"],
    }
    for place in fits.zero_places(fit):
        label = fit.binding.packed_names[place].removeprefix("log ")
        effect = label.removeprefix("sd(").removesuffix(")")
        effect_sd = float(np.sqrt(fit.psi.loc[effect, effect]))
        conditional = effect_sd > 0.0
        for fraction in FRACTIONS:
            sd = fraction * (effect_sd if conditional else abs(fit.beta[effect]))
            value, score, found = fits.profile_at(problem, fit, place, sd, restricted)
            if not found:
                continue
            yield common | {
                "direction": f"{'conditional ' if conditional else ''}{label}",
                "held": f"{sd:.4g}",
                "log_likelihood": f"{value:.6f}",
                "below": f"{fit.log_likelihood - value:.2e}",
                "score": f"{score:.2e}",
            }


def main() -> None:
    target = HERE / "results" / "alternation.csv"
    with target.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        for name in MODELS:
            for row in rows(name):
                writer.writerow(row)
                file.flush()
                print("  ".join(str(row.get(column, "")) for column in COLUMNS))


if __name__ == "__main__":
    main()
