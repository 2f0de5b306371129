"""How benchmarks/trust.py asks programs, keeps answers and prints its tables, with programs that answer at once."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
ECHO = """
import json, os, sys, time
for text in sys.stdin:
    request = json.loads(text)
    if request.get("die"):
        sys.exit("out of memory")
    if request.get("sleep"):
        time.sleep(60)
    print("a line that is no answer")
    print("ANSWER " + json.dumps({"got": request, "process": os.getpid()}), flush=True)
"""


@pytest.fixture(scope="module")
def trust() -> Iterator[SimpleNamespace]:
    """The script and the modules of its tables of programs, imported as the scripts of that folder import them."""
    before = list(sys.path)
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import trust as script
        from reporting import trust as report
        from trust_tables import asking, hard_fit_kinds, honesty, judging, maxima, programs, tables, workers

        yield SimpleNamespace(
            script=script, report=report, asking=asking, kinds=hard_fit_kinds, honesty=honesty, judging=judging,
            maxima=maxima, programs=programs, tables=tables, workers=workers,
        )  # fmt: skip
    finally:
        sys.path[:] = before


class Answering:
    """A worker that answers every fit with `estimates` and counts the fits asked."""

    def __init__(self, estimates: dict[str, Any]):
        self.estimates, self.fits, self.closed = estimates, 0, False

    def ask(self, request: dict[str, Any], limit: float) -> dict[str, Any]:
        if "versions" in request:
            return {"versions": {name: "1.0" for name in request["versions"]}}
        self.fits += 1
        return self.estimates | {"converged": True, "messages": [], "seconds": 0.0}

    def close(self) -> None:
        self.closed = True


def options(folder: Path, **given: Any) -> argparse.Namespace:
    fields = {"programs": ["statsmodels"], "skip": [], "seconds": math.inf, "again": False, "folder": folder}
    return argparse.Namespace(**(fields | given))


def line(trust: SimpleNamespace, **fields: Any) -> Any:
    return trust.kinds.made(trust.tables.DESIGNS["intercepts"], "line", trust.kinds.FAR, 7, **fields)


def asked(trust: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, estimates: dict[str, Any]) -> Answering:
    """The worker that stands for PyPI's packages, installed by itself."""
    worker = Answering(estimates)
    monkeypatch.setattr(trust.asking, "workers", lambda: {"peers": worker})
    return worker


def test_a_run_asks_what_is_not_on_file(
    trust: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = line(trust)
    worker = asked(trust, monkeypatch, dict(fit.truth))
    for again, fits in ((False, 1), (False, 1), (True, 2)):
        trust.asking.run("a.json", [fit], options(tmp_path, again=again))
        content = trust.asking.read("a.json", tmp_path)
        assert worker.fits == fits and worker.closed
        assert [(row["case"], row["program"], row["expects"]) for row in content["rows"]] == [
            ("line", "statsmodels", "maximum")
        ]
    assert content["about"]["versions"]["statsmodels"] == "1.0"
    trust.asking.run("a.json", [fit], options(tmp_path, programs=["mixedlm"]))
    assert [row["program"] for row in trust.asking.read("a.json", tmp_path)["rows"]] == ["statsmodels", "mixedlm"]


def test_an_answer_that_was_not_judged_is_judged_at_the_next_run(
    trust: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = line(trust)
    worker = asked(trust, monkeypatch, dict(fit.truth))
    trust.asking.run("a.json", [fit], options(tmp_path))
    path = tmp_path / "a.json"
    content = json.loads(path.read_text())
    for name in ("outcome", "expects", "below"):
        content["rows"][0].pop(name)
    path.write_text(json.dumps(content))
    trust.asking.run("a.json", [fit], options(tmp_path))
    assert worker.fits == 1 and trust.asking.read("a.json", tmp_path)["rows"][0]["outcome"] == trust.judging.WRONG


def test_answers_are_judged_anew_by_the_maxima_on_file_or_by_new_ones(
    trust: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = line(trust)
    asked(trust, monkeypatch, dict(fit.truth))
    trust.asking.run("a.json", [fit], options(tmp_path))
    path = tmp_path / "a.json"
    content = json.loads(path.read_text())
    exact = content["maxima"]["line"]["exact"]
    content["maxima"]["line"]["exact"] = exact + 5.0
    path.write_text(json.dumps(content))
    below = content["rows"][0]["below"]
    trust.asking.rejudge("a.json", [fit], tmp_path)
    assert trust.asking.read("a.json", tmp_path)["rows"][0]["below"] == pytest.approx(below + 5.0)
    trust.asking.explain("a.json", [fit], tmp_path)
    assert trust.asking.read("a.json", tmp_path)["rows"][0]["gain"] == pytest.approx(below, abs=1e-3)
    trust.asking.rejudge("a.json", [fit], tmp_path, again=True)
    row = trust.asking.read("a.json", tmp_path)["rows"][0]
    assert row["below"] == pytest.approx(below, abs=1e-6) and "gain" not in row


def test_silence_about_no_maximum_has_no_distance(
    trust: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = line(trust, expects="none", words=trust.kinds.NO_MAXIMUM)
    asked(trust, monkeypatch, dict(fit.truth))
    trust.asking.run("a.json", [fit], options(tmp_path))
    trust.asking.explain("a.json", [fit], tmp_path)
    row = trust.asking.read("a.json", tmp_path)["rows"][0]
    assert row["outcome"] == trust.judging.WRONG and "gain" not in row
    assert trust.honesty.cell(row) == "**W** silent"
    assert trust.honesty.counts([row])["statsmodels"]["far"] == 0


def test_a_worker_answers_and_says_how_it_ended(trust: SimpleNamespace) -> None:
    worker = trust.workers.Worker([sys.executable, "-c", ECHO])
    try:
        first, second = worker.ask({"a": 1}, 30.0), worker.ask({"a": 2}, 30.0)
        assert (first["got"], second["got"]) == ({"a": 1}, {"a": 2}) and first["process"] == second["process"]
        assert "process ended with 1: out of memory" in worker.ask({"die": True}, 30.0)["crash"]
        assert worker.ask({"a": 3}, 30.0)["process"] != first["process"]
        late = worker.ask({"sleep": True}, 0.2)
        assert late["crash"] == "no answer within 0 seconds" and worker.process is None
        assert worker.ask({"a": 4}, 30.0)["got"] == {"a": 4}
    finally:
        worker.close()


def test_the_tables_are_those_of_the_folder(
    trust: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = line(trust)
    asked(trust, monkeypatch, dict(fit.truth))
    trust.asking.run(trust.honesty.FILE, [fit], options(tmp_path))
    capsys.readouterr()
    trust.script.main(["--show", "--table", "honesty", "accuracy", "plan", "coverage", "--folder", str(tmp_path)])
    printed = capsys.readouterr().out.strip().splitlines()
    assert [text.split(" | ")[:2] for text in printed[2:]] == [["| statsmodels", "1"]]
    section = trust.report.section("honesty", tmp_path)
    assert "| far start | line | **W**" in section and "statsmodels 1.0" in section
    assert "no rows yet" in trust.report.section("plan", tmp_path)
    assert trust.report.small("accuracy", tmp_path) == ""


@pytest.mark.parametrize(
    "given", [["--cases", "line"], ["--programs", "nlme", "--table", "honesty", "plan"], ["--rejudge"]]
)
def test_options_of_other_tables_are_refused(
    trust: SimpleNamespace, given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        trust.script.options_of(given)
    assert "belongs to honesty and accuracy" in capsys.readouterr().err
    assert trust.script.options_of(["--cases", "line", "--table", "honesty"]).cases == ["line"]
