"""Likelihood ratio tests of one more random effect under the null hypothesis, with the mixture and without it.

    python benchmarks/study_likelihood_ratio.py [--sets 200]

Simulated tables of 40 subjects with 6 rows each, a random intercept and no random slope. Each is fitted by `jn.lme`
(ML) with the intercept only, and with a slope that is independent of it (null distribution 0.5 chi2(0) + 0.5 chi2(1))
or correlated with it (0.5 chi2(1) + 0.5 chi2(2)). Prints and writes the fractions rejected at 5% by
`jn.likelihood_ratio_test` and by the plain chi-square with as many degrees of freedom as parameters are added;
results/likelihood_ratio.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from provenance import about_this_process  # noqa: E402
from results import add_folder  # noqa: E402

import jaxnlme as jn  # noqa: E402

SEED, SUBJECTS, ROWS = 815, 40, 6
LARGER = {"independent": "y ~ x + (x || g)", "correlated": "y ~ x + (x | g)"}


def simulated(number: int) -> pd.DataFrame:
    """Set `number`: columns g, x, y."""
    rng = np.random.default_rng([SEED, number])
    g, x = np.repeat(np.arange(SUBJECTS), ROWS), rng.normal(size=SUBJECTS * ROWS)
    return pd.DataFrame({"g": g, "x": x, "y": 1.0 + 0.5 * x + rng.normal(size=SUBJECTS)[g] + rng.normal(size=len(x))})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=200)
    add_folder(parser)
    options = parser.parse_args()
    rows = []
    for number in range(options.sets):
        frame = simulated(number)
        smaller = jn.lme("y ~ x + (1 | g)", data=frame, method="ML")
        for name, formula in LARGER.items():
            larger = jn.lme(formula, data=frame, method="ML")
            mixture = jn.likelihood_ratio_test(smaller, larger)
            plain = jn.likelihood_ratio_test(smaller, larger, method="chi-square")
            rows.append(
                {"set": number, "slope": name, "statistic": mixture.statistic, "p": mixture.p, "plain": plain.p}
            )
    table = pd.DataFrame(rows)
    out = []
    for name, part in table.groupby("slope"):
        out.append({
            "slope": name, "sets": len(part), "rejected by the mixture": float((part.p < 0.05).mean()),
            "rejected by the chi-square": float((part.plain < 0.05).mean()),
            "statistics of zero": float((part.statistic < 1e-6).mean()),
        })  # fmt: skip
    print(pd.DataFrame(out).to_string(index=False))
    content = {"about": about_this_process() | {"dtype": "float64"}, "rows": out}
    (options.folder / "likelihood_ratio.json").write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
