"""The processes of linear.py: our side, and the peers in Python. Each fits the tables of one problem in turn.

    python benchmarks/linear_worker.py PROGRAM FOLDER CALLS

A call begins at the data frame (of the kind that the program reads) and ends with standard errors. A program whose
first call takes more than `SLOW` CPU seconds makes no other, since it compiles nothing. Prints one line of JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

STARTED = time.process_time()
SLOW = 20.0  # CPU seconds
Fitted = dict[str, Any]


def ours() -> tuple[Callable, Callable]:
    """The frame of a table, and a fit, of jaxnlme."""
    import pandas as pd

    import jaxnlme as jn

    lme = jn.lme

    def fit(frame: Any, model: dict[str, Any]) -> Fitted:
        correlation = {"correlation": jn.correlation.AR1()} if model["ar1"] else {}
        found = lme(model["formula"], data=frame, **correlation)
        table = found.estimates
        return {"log_likelihood": found.log_likelihood, "converged": found.converged, "se": float(table["se"].iloc[0])}

    return pd.DataFrame, fit


def glmm() -> tuple[Callable, Callable]:
    """The same of glmm."""
    import glmm as package
    import pandas as pd

    def fit(frame: Any, model: dict[str, Any]) -> Fitted:
        found = package.fit(frame, model["formula"])
        return {"log_likelihood": float(found.loglik), "converged": bool(found.converged), "se": float(found.se[0])}

    return pd.DataFrame, fit


def mixedlm() -> tuple[Callable, Callable]:
    """The same of mixedlm."""
    import mixedlm as package
    import numpy as np
    import pandas as pd

    def fit(frame: Any, model: dict[str, Any]) -> Fitted:
        found = package.lmer(model["formula"], frame)
        se = float(np.sqrt(np.asarray(found.vcov())[0, 0]))
        return {"log_likelihood": float(found.logLik().value), "converged": bool(found.converged), "se": se}

    return pd.DataFrame, fit


def statsmodels_like(package: str) -> tuple[Callable, Callable]:
    """The same of statsmodels, and of mixedlm-rs, which has its interface."""
    import numpy as np
    import pandas as pd

    if package == "statsmodels":
        from statsmodels.regression.mixed_linear_model import MixedLM
    else:
        from mixedlm_rs import MixedLM

    def fit(frame: Any, model: dict[str, Any]) -> Fitted:
        if len(model["levels"]) > 1:
            raise NotImplementedError("one grouping factor with random slopes")
        slopes = "~" + "+".join(["1", *model["slopes"]])
        found = MixedLM.from_formula(model["fixed"], frame, groups=frame[model["levels"][0]], re_formula=slopes).fit()
        return {
            "log_likelihood": float(found.llf),
            "converged": bool(found.converged),
            "se": float(np.asarray(found.bse_fe)[0]),
        }

    return pd.DataFrame, fit


def lme_python() -> tuple[Callable, Callable]:
    """The same of lme-python, whose labels of units are text."""
    import lme_python as package
    import polars as pl

    def frame(table: dict[str, Any]) -> Any:
        out = pl.DataFrame(table)
        return out.with_columns([pl.col(name).cast(pl.Utf8) for name in table if out[name].dtype == pl.Int64])

    def fit(frame: Any, model: dict[str, Any]) -> Fitted:
        found = package.lmer(model["formula"], data=frame, reml=True)
        errors = found.std_errors
        errors = errors() if callable(errors) else errors
        return {
            "log_likelihood": float(found.log_likelihood),
            "converged": bool(found.converged),
            "se": float(errors[0]),
        }

    return frame, fit


PROGRAMS: dict[str, tuple[Callable[[], tuple[Callable, Callable]], str]] = {
    "jaxnlme": (ours, "jaxnlme"),
    "glmm": (glmm, "glmm"),
    "mixedlm": (mixedlm, "mixedlm"),
    "mixedlm-rs": (lambda: statsmodels_like("mixedlm-rs"), "mixedlm-rs"),
    "statsmodels": (lambda: statsmodels_like("statsmodels"), "statsmodels"),
    "lme-python": (lme_python, "lme-python"),
}


def main() -> None:
    program, folder, calls = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    load, package = PROGRAMS[program]
    began = time.process_time()
    as_frame, fit = load()
    output: dict[str, Any] = {"program": program, "import": STARTED + time.process_time() - began, "calls": []}
    from linear_problems import read

    try:
        output["version"] = version(package)
    except ModuleNotFoundError:  # ours, from its sources
        output["version"] = None
    for call in range(calls):
        model, table = read(folder, call)
        frame = as_frame(table)
        cpu, wall = time.process_time(), time.perf_counter()
        try:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                found = fit(frame, model)
        except Exception as error:  # refusals differ between programs; the sentence is the result
            output["error"] = f"{type(error).__name__}: {str(error)[:300]}"
            break
        spent = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        output["calls"].append(spent | found | {"warnings": sorted({str(w.message)[:200] for w in warned})})
        if spent["cpu"] > SLOW:
            break
    output["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(output))


if __name__ == "__main__":
    main()
