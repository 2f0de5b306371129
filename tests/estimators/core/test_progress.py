"""The line of progress: where it is shown, how often, and that no codes for colours or cursors reach a file."""

from __future__ import annotations

import dataclasses
import io
import itertools
import time
from types import SimpleNamespace

import pytest

from jaxnlme.estimators.core import progress
from jaxnlme.estimators.core.progress import ProgressLine


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def quick(monkeypatch):
    """Intervals of a twentieth of those that users see."""
    settings = dataclasses.replace(
        progress.RUN_SETTINGS, progress_delay=0.1, progress_interval=0.025, interval_in_files=0.05
    )
    monkeypatch.setattr(progress, "RUN_SETTINGS", settings)


def shown(monkeypatch, stream, wanted, work, **options):
    monkeypatch.setattr("sys.stderr", stream)
    with ProgressLine(wanted, "FOCEI", **options) as line:
        work(line)
    return stream.getvalue()


def until(reached):
    """Return when `reached()` is true, or after a minute: on a busy machine the thread of the line may wait."""
    end = time.monotonic() + 60.0
    while not reached() and time.monotonic() < end:
        time.sleep(0.01)


def test_a_file_gets_lines_only_where_they_were_asked_for(quick, monkeypatch):
    def work(line):
        time.sleep(0.3)  # one long call of the compiler
        line.show("iteration 3")

    assert shown(monkeypatch, io.StringIO(), None, work) == ""
    assert shown(monkeypatch, io.StringIO(), False, work) == ""
    file, ticks = io.StringIO(), itertools.count(1)
    # A clock that moves by one interval at a time and stops at 0.4 s, however busy the machine is.
    clock = SimpleNamespace(perf_counter=lambda: min(0.05 * next(ticks), 0.45))
    monkeypatch.setattr(progress, "time", clock)

    def long_work(line):
        until(lambda: file.getvalue().count("\n") >= 3)
        line.show("iteration 3")

    text = shown(monkeypatch, file, True, long_work)
    lines = text.splitlines()
    assert len(lines) >= 4 and lines[0] == "FOCEI: starting, 0 s" and lines[-1] == "FOCEI: iteration 3, 0 s"
    assert "\r" not in text and "\x1b" not in text


def test_a_terminal_gets_one_line_that_moves_while_the_compiler_works(quick, monkeypatch):
    timings, terminal = {"trace": 0.0}, Terminal()
    starting, compiling = "\rFOCEI: starting", "\rFOCEI: compiling the model, about 10 s; the next fit starts at once"

    def work(line):
        until(lambda: terminal.getvalue().count(starting) >= 2)
        timings["trace"] = 1.0
        until(lambda: terminal.getvalue().count(compiling) >= 4)

    text = shown(monkeypatch, terminal, None, work, timings=timings)
    assert text.count(starting) >= 2 and text.count(compiling) >= 4
    assert text.count("\n") == 1 and "\x1b" not in text
    assert shown(monkeypatch, Terminal(), None, lambda line: time.sleep(0.05)) == ""  # short work
    assert shown(monkeypatch, Terminal(), False, lambda line: time.sleep(0.3)) == ""


def test_jobs_are_counted(quick, monkeypatch):
    def work(line):
        time.sleep(0.15)
        line.show("refits", 3)

    text = shown(monkeypatch, Terminal(), True, work, total=4)
    assert "3/4" in text and "refits" in text and "\x1b" not in text
    assert "FOCEI: refits 3 of 4, 0 s\n" in shown(monkeypatch, io.StringIO(), True, work, total=4)


def test_the_line_ends_where_the_work_fails(quick, monkeypatch):
    stream = Terminal()

    def work(line):
        line.show("iteration 1")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        shown(monkeypatch, stream, True, work)
    assert stream.getvalue().endswith("\n")
