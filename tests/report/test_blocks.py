"""Parts of a report that need no fit of a nonlinear model; the page of a linear one."""

from __future__ import annotations

import html
import io
import json
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from scipy import stats

import jaxnlme as jn
from jaxnlme.estimators.core.progress import NotebookLine, ProgressLine, trace_svg
from jaxnlme.linear.report import tests_of as summary_of
from jaxnlme.markup import formula
from jaxnlme.model_choice import bootstrap_ratio
from jaxnlme.report.blocks import Digits, Grid, present
from jaxnlme.report.pictures import compressed
from jaxnlme.report.render import MissingReportLibrary, _json, grid_html
from jaxnlme.report.settings import REPORT
from jaxnlme.report.write import report
from jaxnlme.results.display import number
from jaxnlme.results.fit_status import FitStatus


class Parsed(HTMLParser):
    """The exact values and texts of number cells, the addresses in a page, and its record."""

    def __init__(self, text: str):
        super().__init__()
        self.cells: list[tuple[float, str]] = []
        self.addresses: list[str] = []
        self.record, self._value, self._in_record = "", None, False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        entries = dict(attrs)
        self.addresses += [entries[name] for name in ("src", "href") if entries.get(name)]
        self._value = float(entries["value"]) if tag == "data" else None
        self._in_record = entries.get("type") == "application/json"

    def handle_data(self, data):
        if self._value is not None:
            self.cells.append((self._value, data))
            self._value = None
        if self._in_record:
            self.record, self._in_record = data, False


def test_cells_hold_the_numbers_that_they_show():
    grid = Grid(
        "<Title>",
        ("", "a<b", "n", "text"),
        [("x", 1.23456789, 3, "<i>"), ("y", np.nan, None, ""), ("z", Digits(2.0 / 3.0, 2), 4, "fixed")],
    )
    text = grid_html(grid, "t")
    assert Parsed(text).cells == [(1.23456789, "1.235"), (3.0, "3"), (2.0 / 3.0, "0.67"), (4.0, "4")]
    assert "&lt;Title&gt;" in text and "a&lt;b" in text and "&lt;i&gt;" in text and "<i>" not in text
    assert "<style" not in text  # the page's own styles are for light and dark
    assert not present([None, Grid("", ("",), [])])


def test_the_record_ends_no_script_and_has_no_nan():
    text = _json({"a": np.array([1.0, np.nan]), "b": "</script><b>&", "c": np.bool_(True), "d": np.int64(2)})
    assert "<" not in text and "NaN" not in text
    assert json.loads(text) == {"a": [1.0, None], "b": "</script><b>&", "c": True, "d": 2}


def test_pictures_are_compressed():
    from PIL import Image

    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    image = np.full((200, 300, 3), 255, np.uint8)
    image[rng.integers(0, 200, 4000), rng.integers(0, 300, 4000)] = rng.integers(0, 255, (4000, 3))
    Image.fromarray(image).save(buffer, format="png")
    small = compressed(buffer.getvalue())
    assert len(small) < 0.7 * len(buffer.getvalue())
    read = Image.open(io.BytesIO(small))
    assert read.size == (300, 200) and len(read.getcolors(1000)) <= REPORT.colours


def test_summaries_of_residuals_are_those_of_scipy():
    values = np.random.default_rng(1).normal(size=60) + 0.4
    n, mean, p_mean, sd, skewness, kurtosis, p_normal, large = summary_of(np.append(values, np.nan))
    assert (n, large) == (60, int((np.abs(values) > 3).sum()))
    assert (mean, sd) == pytest.approx((values.mean(), values.std(ddof=1)))
    assert p_mean.value == pytest.approx(stats.ttest_1samp(values, 0).pvalue) and p_mean.value < 0.05
    assert p_normal.value == pytest.approx(stats.shapiro(values).pvalue)
    assert (skewness, kurtosis) == pytest.approx((stats.skew(values), stats.kurtosis(values)))


@pytest.mark.parametrize(
    "path, words", [("report.txt", "is an HTML page"), ("no/such/folder/a.html", "no folder"), ("", "path of a file")]
)
def test_a_path_that_cannot_hold_a_page_is_refused_first(path, words):
    with pytest.raises(jn.OptionError, match=words):
        report(object(), path)


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "great_tables", None)
    with pytest.raises(MissingReportLibrary, match=r"jaxnlme\[report\]"):
        report(object(), "a.html")


# ---- a linear model


@pytest.fixture(scope="module")
def linear():
    frame = jn.datasets.orthodont()
    return [jn.lme(f"distance ~ {fixed}", "~ age | Subject", frame, method="ML") for fixed in ("age * Sex", "age")]


@pytest.fixture(scope="module")
def page(linear, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "linear.html"
    assert linear[0].report(path, compare=[linear[1]], names=["with sex", "without"]) == path
    return path.read_text()


def test_a_linear_fit_has_the_same_page(linear, page):
    fit, parsed = linear[0], Parsed(page)
    record = json.loads(parsed.record)
    assert record["log_likelihood"] == fit.log_likelihood
    assert [row["name"] for row in record["estimates"]] == list(fit.estimates.index)
    for row, (_, expected) in zip(record["estimates"], fit.estimates.iterrows(), strict=True):
        for column in ("estimate", "se", "lower", "upper"):
            assert row[column] == expected[column]
            assert (expected[column], number(expected[column])) in parsed.cells
    text = html.unescape(re.sub(r"<[^>]+>", "", page.replace("<h2>", "HEADING")))
    assert text.index(fit.status.sentences[0]) < text.index("HEADING")


def test_a_comparison_stands_in_the_page(linear, page):
    table = jn.compare(*linear).table
    cells = Parsed(page).cells
    for column in ("AIC", "BIC"):
        for value in table[column]:
            assert (value, number(value, 6)) in cells
    assert "with sex vs without" in page


def test_a_page_asks_for_nothing_from_elsewhere(page):
    assert len(page) < REPORT.most_bytes
    for address in Parsed(page).addresses:
        assert address.startswith(("#", "data:")), address
    assert not re.search(r"url\(|@import", page)


def test_fits_of_other_responses_are_not_compared(linear, tmp_path):
    other = jn.lme("age ~ 1", "~ 1 | Subject", jn.datasets.orthodont(), method="ML")
    with pytest.raises(jn.OptionError, match="responses"):
        linear[0].report(tmp_path / "a.html", compare=other)
    with pytest.raises(jn.OptionError, match="names must be 2"):
        linear[0].report(tmp_path / "a.html", compare=linear[1], names=["one"])
    with pytest.raises(jn.OptionError, match="is no picture"):
        linear[0].report(tmp_path / "a.html", pictures=["individual"])
    assert not list(tmp_path.iterdir())


# ---- notebooks


def test_models_and_parameters_show_their_equations():
    def curve(phi, x):
        return phi.a * jn.safe_power(x.t, phi.b)

    cl = jn.Parameter("a", 2.8, transform="log", random=True, covariates=["log(Wt/70)"])
    shown = cl._repr_html_()
    assert "log <i>a</i><sub>i</sub> = <i>&beta;</i><sub>a</sub>" in shown and "<sub>a, i</sub>" in shown
    model = jn.NLMEModel(curve, [cl, jn.Parameter("b", 1.0, fix=True)], error="combined", fixed={"sd(a)": 0.3})
    shown = model._repr_html_()
    assert shown.count("log(Wt/70)") >= 2 and "curve(" in shown and "sd(a) = 0.3" in shown and "diagonal" in shown
    assert shown.count("<div") == shown.count("</div>") and shown.count("<sub>") == shown.count("</sub>")


def test_formulas_in_text_become_html():
    assert formula("y = f + (a + b |f|^2) e") == (
        "<i>y</i> = <i>f</i> + (<i>a</i> + <i>b</i> |<i>f</i>|<sup>2</sup>) <i>&epsilon;</i>"
    )
    assert formula("a < b") == "<i>a</i> &lt; <i>b</i>"


def test_a_status_reads_as_its_sentences():
    status = FitStatus(("NOT CONVERGED.", "a < b"), np.array([1]), np.array([0]), np.array([3]))
    assert repr(status) == str(status) == "NOT CONVERGED.\na < b"
    shown = status._repr_html_()
    assert shown.index("NOT CONVERGED.") < shown.index("a &lt; b") and "#b3261e" in shown


def test_a_notebook_shows_the_trace_and_leaves_nothing(monkeypatch):
    pages = []

    class Handle:
        def update(self, page):
            pages.append(page.data)

    def display(page, display_id):
        assert display_id
        pages.append(page.data)
        return Handle()

    shell = pytest.importorskip("IPython.display")
    monkeypatch.setattr(shell, "display", display)
    monkeypatch.setitem(sys.modules, "ipykernel", object())
    with ProgressLine(True, "FOCEI") as line:
        line.trace = [-300.0, -200.0, -180.0, -179.0]
        line.show("iteration 4, a < b")
    assert "iteration 4, a &lt; b" in pages[0] and "<polyline" in pages[0]
    assert pages[-1] == ""
    counted = NotebookLine(12)
    counted.n = 5
    assert "5 of 12" in counted._html("bootstrap")
    assert trace_svg([1.0]) == ""


# ---- Ctrl-C


def test_ctrl_c_in_the_bootstrap_of_a_ratio_keeps_what_ran(monkeypatch):
    run = np.array([True] * 6 + [False] * 4)
    low, high = np.zeros(10), np.where(run, 1.0, np.nan)
    answers = {"smaller model": (low, np.zeros(10, bool), np.ones(10, bool)), "larger model": (high, ~run, run)}
    monkeypatch.setattr(bootstrap_ratio, "_simulated", lambda *_: np.zeros((10, 3)))
    monkeypatch.setattr(bootstrap_ratio, "_log_likelihoods", lambda *args: answers[args[3]])
    fits: list = [type("Fit", (), {"mc_se": 0.0, "fit": None})() for _ in range(2)]
    found = bootstrap_ratio.ratio_replicates(fits[0], fits[1], None, 10, 0, False)
    np.testing.assert_array_equal(found.statistics, np.full(6, 2.0))
    assert found.sentences == ("Interrupted: 6 of 10 replicates were run.",)
    answers["smaller model"] = (low, ~run, run)
    with pytest.raises(KeyboardInterrupt):
        bootstrap_ratio.ratio_replicates(fits[0], fits[1], None, 10, 0, False)
