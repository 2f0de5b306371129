"""Benchmarks of simulated dose-response data: the referee by quadrature, and the arithmetic of the tables."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxnlme as jn

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

from trust_tables import coverage, plan2012, plan_design, plan_summary
from trust_tables.plan_referee import DoseResponseLikelihood

VALUES = {
    "E0": 5.0, "Emax": 30.0, "ED50": 500.0, "gamma": 3.0, "var(E0)": 0.09, "var(Emax)": 0.49, "var(ED50)": 0.49,
    "cov(Emax, ED50)": 0.245, "b": 0.1,
}  # fmt: skip
DOSE = np.array([[0.0, 100.0, 300.0, 1000.0], [0.0, 100.0, 300.0, 1000.0]])
Y = np.array([[5.2, 6.6, 12.4, 31.2], [4.1, 4.3, 6.0, 14.0]])


def test_the_referee_is_the_integral_over_one_effect_by_brute_force() -> None:
    values = VALUES | {"var(E0)": 0.0, "var(Emax)": 0.0, "cov(Emax, ED50)": 0.0}
    z = np.linspace(-9.0, 9.0, 20_001)[:, None]
    log_ed50 = np.log(500.0) + 0.7 * z
    expected = []
    for dose, y in zip(DOSE, Y, strict=True):
        with np.errstate(divide="ignore"):
            f = 5.0 + 30.0 / (1.0 + np.exp(3.0 * (log_ed50 - np.log(dose))))
        density = np.exp(-0.5 * ((y - f) / (0.1 * f)) ** 2) / (0.1 * f * np.sqrt(2.0 * np.pi))
        expected.append(np.log(np.trapezoid(density.prod(axis=1) * np.exp(-0.5 * z[:, 0] ** 2), z[:, 0])))
    expected = np.array(expected) - 0.5 * np.log(2.0 * np.pi)
    value, change = DoseResponseLikelihood(DOSE, Y).by_subject(values, 1e-7)
    assert value == pytest.approx(expected, abs=1e-6) and (np.abs(change) <= 1e-7).all()


def test_the_referee_is_the_integral_on_a_curved_ridge_by_brute_force() -> None:
    """Two doses far below ED50, large variances: Emax and ED50 are known by one combination only."""
    values = VALUES | {"var(Emax)": 1.5, "var(ED50)": 2.5, "cov(Emax, ED50)": -1.2, "gamma": 1.4, "b": 0.15}
    dose, y = np.array([[50.0, 120.0], [0.0, 1000.0]]), np.array([[6.9, 9.8], [4.4, 31.0]])
    line = np.arange(-7.5, 7.55, 0.1)  # narrower than any width of the posterior by a factor of 3
    z = np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1)
    factor = np.linalg.cholesky([[0.09, 0.0, 0.0], [0.0, 1.5, -1.2], [0.0, -1.2, 2.5]])
    log_e0, log_top, log_ed50 = np.moveaxis(z @ factor.T + np.log([5.0, 30.0, 500.0]), -1, 0)
    expected = []
    for dose_of, y_of in zip(dose, y, strict=True):
        log_density = -0.5 * ((z**2).sum(axis=-1) + 3.0 * np.log(2.0 * np.pi))
        for d, value in zip(dose_of, y_of, strict=True):
            f = np.exp(log_e0) + (np.exp(log_top) / (1.0 + np.exp(1.4 * (log_ed50 - np.log(d)))) if d else 0.0)
            log_density += -0.5 * ((value / f - 1.0) / 0.15) ** 2 - np.log(0.15 * f * np.sqrt(2.0 * np.pi))
        expected.append(np.log(np.exp(log_density).sum() * 0.1**3))
    value, _ = DoseResponseLikelihood(dose, y).by_subject(values)
    assert value == pytest.approx(np.array(expected), abs=1e-4)


def test_the_referee_is_the_quadrature_of_the_engine() -> None:
    model = plan_design.model("emaxRich")
    rng = np.random.default_rng(4)
    truth = {name: VALUES[name] for name in plan_design.names("emaxRich")}
    z = rng.standard_normal((4, 3)) @ np.linalg.cholesky(plan_design.PSI).T
    dose = np.tile(DOSE[0], (4, 1))
    f = 5.0 * np.exp(z[:, :1]) + 30.0 * np.exp(z[:, 1:2]) * dose / (500.0 * np.exp(z[:, 2:]) + dose)
    y = f * (1.0 + 0.1 * rng.standard_normal(f.shape))
    data = jn.GroupedData.from_arrays(y.ravel(), np.repeat(np.arange(4), 4), {"dose": dose.ravel()})
    params = model.params(data, values={"b": 0.1}, psi=plan_design.PSI)
    engine = float(jax.jit(lambda p: jn.log_likelihood(model, p, data, jn.AGQ(11)))(params))
    assert DoseResponseLikelihood(dose, y).log_likelihood(truth) == pytest.approx(engine, abs=2e-3)


def row(start: str, number: int, referee: float, converged: int = 1, method: str = "saem", **values: float):
    return {"design": "emaxRich", "method": method, "start": start, "set": number, "referee": referee,
            "converged": converged, "seconds": 1.0, "reason": "" if converged else "not found"} | values  # fmt: skip


def test_what_is_judged_is_counted_by_set() -> None:
    rows = [
        row("true", 1, -100.0), row("wrong", 1, -100.04), row("true", 2, -100.0), row("wrong", 2, -100.06),
        row("true", 3, -100.0, 0), row("wrong", 3, -102.0), row("true", 4, -100.0), row("wrong", 4, math.nan, 0),
        row("true", 1, -99.96, method="saemix"), row("true", 2, -99.9, method="saemix"), row("true", 5, -90.0),
        row("wrong", 4, -90.0, method="saemix"),
    ]  # fmt: skip
    result = plan_summary.judged(plan_summary.RowsByMethod(rows), "emaxRich", "saem")
    assert (result["sets"], result["within"], result["both"]) == (4, 1, 2)
    assert list(result["apart"]) == [2] and result["apart"][2] == pytest.approx(-0.06)
    assert list(result["one_not_converged"]) == [3, 4]
    assert (result["true_sets"], result["converged"], list(result["reasons"])) == (5, 4, [3])
    assert list(result["below"]["true"]) == [2] and not result["below"]["wrong"]
    assert result["without_estimates"] == 1


def test_relative_errors_are_root_mean_square_and_mean() -> None:
    rows = [{"E0": 5.5}, {"E0": 4.0}, {"E0": math.nan}]
    rmse, bias = plan_summary.relative_errors(rows, "E0", 5.0)
    assert rmse == pytest.approx(100.0 * math.sqrt((0.01 + 0.04) / 2.0)) and bias == pytest.approx(-5.0)


def test_coverage_leaves_out_intervals_that_are_not_there() -> None:
    rows = [{"90": "10"}, {"90": "0-"}, {"90": "11"}, {"converged": False}]
    share, se, count = coverage.coverage(rows, "90", 0)
    assert (share, se, count) == (pytest.approx(2 / 3), pytest.approx(math.sqrt(2 / 27)), 3)
    assert coverage.coverage(rows, "90", 1)[2] == 2


def test_mean_coverage_is_that_of_sets_with_the_error_of_their_means() -> None:
    rows = [{"95": "11"}, {"95": "00"}, {"95": "1-"}, {"converged": False}]
    mean, se = coverage.mean_coverage(rows, "95", [0, 1])
    assert (mean, se) == (pytest.approx(2 / 3), pytest.approx(math.sqrt(2 / 27)))


def test_made_anew_are_only_the_rows_asked_for(tmp_path: Path) -> None:
    """Of four rows on file a run with `--again` for one design drops one, and keeps the others as they are."""
    path = tmp_path / plan2012.FILE
    rows = plan2012.Rows(path)
    for design, number in itertools.product(("emaxRich", "hillRich"), (1, 2)):
        rows.add(row("true", number, -100.0) | {"design": design, "E0": 5.0})
    before = path.read_text().splitlines()
    rows = plan2012.Rows(path)
    rows.drop({("hillRich", "saem", "true", 1), ("hillRich", "saem", "wrong", 2)})
    assert path.read_text().splitlines() == [*before[:3], before[4]]
    assert rows.known == plan2012.Rows(path).known and len(rows.known) == 3


def test_coverage_made_anew_keeps_other_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def one(design: str, kind: str, number: int, replicates: int | None) -> dict:
        found = {"design": design, "kind": kind, "set": number, "converged": True, "90": "1" * 8, "95": "1" * 8}
        return found if replicates is None else found | {"replicates": replicates}

    def run(*arguments: str) -> list[tuple]:
        coverage.run(coverage.parser().parse_args(["--folder", str(tmp_path), *arguments]))
        return [coverage.key(found) for found in coverage.rows_on_file(tmp_path)]

    monkeypatch.setattr(coverage, "_one", one)
    wald = ("--designs", "emaxRich", "--kinds", "wald", "--sets")
    assert run(*wald, "1-2") == [("emaxRich", "wald", 1, None), ("emaxRich", "wald", 2, None)]
    assert run(*wald, "1-1", "--again") == [("emaxRich", "wald", 2, None), ("emaxRich", "wald", 1, None)]
    bootstrap = ("--designs", "emaxRich", "--kinds", "bootstrap", "--sets", "1-1", "--replicates")
    assert run(*bootstrap, "50")[2:] == [("emaxRich", "bootstrap", 1, 50)]
    assert run(*bootstrap, "99")[2:] == [("emaxRich", "bootstrap", 1, 50), ("emaxRich", "bootstrap", 1, 99)]
    lines = coverage.small_table(tmp_path)[0].splitlines()[2:]
    assert [line.split(" | ")[0] for line in lines] == [
        "| emaxRich, wald", "| emaxRich, bootstrap of 50 replicates", "| emaxRich, bootstrap of 99 replicates",
    ]  # fmt: skip


def test_the_root_of_the_deviance_is_interpolated_and_infinite_beyond_a_limit() -> None:
    values, zeta = np.array([3.0, 1.0, 2.0]), np.array([2.5, -1.5, 0.0])
    assert coverage.zeta_at(values, zeta, 1.5) == pytest.approx(-0.75)
    assert coverage.zeta_at(values, zeta, 4.0) == math.inf
    assert math.isnan(coverage.zeta_at(values, zeta, 0.5))


def test_coverage_names_the_truth_by_the_names_of_a_fit() -> None:
    truth = coverage.truth("hillSparse")
    assert list(truth) == ["E0", "Emax", "ED50", "gamma", "sd(E0)", "sd(Emax)", "sd(ED50)", "corr(Emax, ED50)", "b"]
    assert truth["corr(Emax, ED50)"] == pytest.approx(0.5) and truth["sd(Emax)"] == pytest.approx(0.7)


def test_reasons_are_kinds_without_the_numbers_of_groups() -> None:
    flat = "Group 176: the joint density is flat along a direction at its mode, where that mode merges"
    assert "no upper bound" in plan_summary.kind_of_reason(flat)
    moving = "with 24 nodes the log-likelihood moves by 0.2; Group 3: the fit goes back and forth between modes"
    assert plan_summary.kind_of_reason(moving) == "AGQ's log-likelihood still moves with twice as many nodes"
    assert "jumps between modes" in plan_summary.kind_of_reason(moving.partition("; ")[2])
    flat = "Here the data carry no information along the direction -0.77"
    assert plan_summary.kind_of_reason(flat) == "a direction without information"
