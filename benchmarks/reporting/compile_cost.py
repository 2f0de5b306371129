"""The section of compile_cost.json."""

from __future__ import annotations

from reporting.cells import Record, origin, table

NAMES = {
    "gradient": "value and gradient of `jn.log_likelihood`",
    "hessian": "Hessian of `jn.log_likelihood`",
    "estimate": "Jacobian of `jn.estimate` in the weights",
}


def section(results: Record, name: str) -> str:
    """CPU seconds of tracing and compiling by program and approximation."""
    explanation = (
        "CPU seconds to trace and compile a program under `jax.jit`, as it stands and with "
        "`compiler_options=jn.compiler_options()`, and CPU milliseconds of one run; theophylline, three random "
        "effects, each in a process of its own, medians. Bold is above the limit."
    )
    header = ["program", "method", "as it stands", "limit", "run, ms", "compiler_options", "limit", "run, ms"]
    body = []
    rows = {(row["what"], row["method"], row["fast"]): row for row in results["rows"]}
    for what, text in NAMES.items():
        for method in dict.fromkeys(row["method"] for row in results["rows"]):
            cells = [text, method]
            for fast in (False, True):
                row = rows.get((what, method, fast))
                if row is None:
                    cells += ["", "", ""]
                    continue
                total = f"{row['total']:.2f}"
                total = total if row["total"] <= row["limit"] else f"**{total}**"
                cells += [total, f"{row['limit']:g}", f"{1e3 * row['run']:.1f}"]
            body.append(cells)
    return "\n\n".join(["### Compiling the pure functions", origin(results, name), explanation, table(header, body)])
