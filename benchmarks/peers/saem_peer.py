"""pynlme's SAEM on a case of saem.py: reads what saem_worker.py reads, prints the like.

One call of the model for all groups and chains, and the package's compiled kernels: its fastest settings (without the
first, 15 to 25 times slower; analytic derivatives make no difference, for SAEM takes none of parameters that vary).
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from typing import Any

import numpy as np
from common import Table
from pynlme import fit_nlme, lindstrom_bates
from pynlme_peer import concentration

PATTERNS = {"diagonal": np.eye(3), "full": np.ones((3, 3))}
POST_ESTIMATION = {"estimates": {}, "all": {"loglik_method": "is", "compute_std_errors": True}}


def fitted(table: Table, request: dict[str, Any], seed: int) -> dict[str, Any]:
    """One fit: its seconds and results."""
    cpu, wall = time.process_time(), time.perf_counter()
    beta, psi, stats, _ = fit_nlme(
        np.column_stack([table.time, table.dose]),
        table.conc,
        table.group,
        None,
        concentration,
        np.log(request["starts"]),
        method="SAEM",
        param_transform=[1, 1, 1],
        vectorization="full",
        cov_pattern=PATTERNS[request["psi"]],
        n_iterations=request["iterations"],
        n_burn_in=request["burn_in"],
        n_chains=request["chains"],
        random_state=seed,
        **POST_ESTIMATION[request["work"]],
    )
    spent = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    return {
        "seconds": spent,
        "seed": seed,
        "iterations": sum(request["iterations"]),
        "log_likelihood": None if stats.logl is None else float(stats.logl),
        "beta": beta.tolist(),
        "se_beta": None if stats.sebeta is None else stats.sebeta.tolist(),
        "psi": psi.tolist(),
        "sigma": float(stats.errorparam[0]),
    }


def main() -> None:
    request = json.loads(sys.argv[1])
    *others, last = [Table(path) for path in request["tables"]]
    for table in others:
        fitted(table, request, 0)
    output = {"program": "pynlme", "version": version("pynlme"), "kernels": lindstrom_bates._kernels is not None}
    print(json.dumps(output | {"fits": [fitted(last, request, seed) for seed in range(request["fits"])]}))


if __name__ == "__main__":
    main()
