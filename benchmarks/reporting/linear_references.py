"""The section of linear_references.json."""

from __future__ import annotations

from collections import Counter

from reporting.cells import Record, origin, table

OUTCOMES = ("agree", "R short", "ours short", "refused", "R failed")
CHANGES = ("y times 1e6", "x times 1e-6", "x plus 1000", "shuffled")


def counts(rows: list[Record]) -> str:
    """The outcomes in words."""
    found = Counter(row["outcome"] for row in rows)
    return ", ".join(f"{found[name]} {name}" for name in OUTCOMES if found[name])


def remark(row: Record) -> str:
    """Why the reference is short, what is zero, and which criteria differ."""
    words = []
    if row["outcome"] == "R short":
        words.append("R stopped early" if row["at_ours"] - row["at_theirs"] < 1e-3 else "another maximum")
    if row["outcome"] == "refused":
        words.append(row["status"][0])
    elif row["outcome"] == "R failed":
        words.append("converged" if row["converged"] else "not converged")
        words += [sentence for sentence in row["status"] if "singular" in sentence or "zero" in sentence]
    if row.get("zeros"):
        words.append(f"zero in both: {', '.join(row['zeros'])}")
    return "; ".join([*words, *row.get("counts", [])]).replace("|", "\\|")


def tables(results: Record) -> str:
    """The table of fits, and that of invariance."""
    rows = results["rows"]
    header = [
        "fit", "R", "log L", "ours above", "at R's values", "fixed", "variances", "residual", "effects", "SE",
        "outcome", "",
    ]  # fmt: skip
    body = [[row["name"], row["program"], *_numbers(row), row["outcome"], remark(row)] for row in rows]
    parts = [f"{len(rows)} fits: {counts(rows)}.", table(header, body)]
    if results["invariance"]:
        header = ["fit", *(f"{label}: {part}" for label in CHANGES for part in ("log L", "fitted"))]
        body = [
            [row["name"], *(f"{row[key]:.0e}" for label in CHANGES for key in (label, f"predictions of {label}"))]
            for row in results["invariance"]
        ]
        parts += ["The same fits from changed tables:", table(header, body)]
    return "\n\n".join(parts)


def _numbers(row: Record) -> list[str]:
    """Cells of the log-likelihoods and of the differences."""
    if row.get("log_likelihood") is None:
        return ["–"] * 8
    if "reference_log_likelihood" not in row:
        return [f"{row['log_likelihood']:.5f}", *["–"] * 7]
    above = row["log_likelihood"] - row["reference_log_likelihood"]
    at_theirs = "–" if row["at_theirs"] is None else f"{row['at_theirs'] - row['at_ours']:+.0e}"
    parts = [f"{row[key]:.0e}" for key in ("fixed", "variances", "residual", "effects")]
    return [f"{row['log_likelihood']:.5f}", f"{above:+.0e}", at_theirs, *parts, f"{row['standard_errors']:.0e}"]


def section(results: Record, name: str) -> str:
    """jn.lme and jn.gls beside R's lme, gls, lmer and gnls."""
    explanation = (
        "Every fit of these functions in the reference folder, made anew with the same formula. `ours above`: our "
        "log-likelihood less R's (by REML both restricted). `at R's values`: the log-likelihood at R's estimates less "
        "that at ours, both from the covariance matrix of the rows, without our engine. `fixed`, `variances` (of "
        "random effects, their covariances, and sigma), `residual` (parameters of variance function and correlation), "
        "`effects` (random effects): the largest difference as a part of what is allowed: fixed effects 1e-5 of the "
        "larger of estimate and standard error, covariances 1e-4 of the product of the standard deviations, sigma "
        "1e-4, residual parameters 1e-3, random effects 1e-4 of their standard deviation. `SE`: the largest relative "
        "difference of the standard errors of fixed effects. agree: all at most 1, and the log-likelihood equal within "
        "1e-5 of its size. R short: a difference is larger, and R's estimates have the lower likelihood. R failed: R "
        "reports an error; ours has no target.\n\n"
        "A standard deviation below 0.002 of the residual one (times the size of its column) counts as zero: nlme's "
        "parameters are logarithms, so that it ends near zero where ours is zero. df, nobs, AIC and BIC are compared "
        "too, and named where they differ; lme and gls count rows less fixed effects in a restricted BIC, as we do, "
        "lmer all rows. gls and gnls multiply the covariance matrix of the fixed effects by N / (N - p) also by ML, "
        "lme and lmer do not, and ours does not: the standard errors are compared with that factor taken out.\n\n"
        "Changed tables: what the log-likelihood moves beside the known constants, and the largest change of a fitted "
        "value in residual standard deviations."
    )
    return "\n\n".join(["### Linear models: lme, gls, lmer and gnls", origin(results, name), explanation,
                        tables(results)])  # fmt: skip
