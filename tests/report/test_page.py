"""The page of a fit in a browser: its numbers, the network, the console, light and dark, phone and paper."""

from __future__ import annotations

import json

import pytest

import jaxnlme as jn
from jaxnlme.frontends.cli.demo import theophylline
from jaxnlme.report.settings import REPORT
from jaxnlme.results.display import number
from tests.browser import browser


@pytest.fixture(scope="module")
def fit():
    return jn.fit(*theophylline(), "focei")


@pytest.fixture(scope="module")
def path(fit, tmp_path_factory):
    return fit.report(tmp_path_factory.mktemp("report") / "theophylline.html")


@pytest.fixture(scope="module")
def tab():
    with browser() as opened:
        yield opened


def test_the_page_in_a_browser(fit, path, tab):
    """No message, no request; the numbers of the page are those of the fit."""
    tab.view(1100)
    tab.open(path)
    assert tab.messages == [] and tab.requests == []
    assert path.stat().st_size < REPORT.most_bytes
    assert tab.evaluate("document.getElementById('status').innerText") == str(fit.status)
    record = json.loads(tab.evaluate("document.getElementById('record').textContent"))
    assert record["log_likelihood"] == fit.log_likelihood and record["bic"] == fit.bic
    assert record["data digest"] == fit.data.fingerprint()
    cells = "[...document.querySelectorAll('#estimates tbody tr')].map(r => [r.cells[0].innerText, "
    cells += "...[...r.querySelectorAll('data')].map(d => [Number(d.getAttribute('value')), d.innerText])])"
    rows = {row[0]: row[1:] for row in reversed(tab.evaluate(cells))}  # the first table of a name counts
    for row, (name, expected) in zip(record["estimates"], fit.estimates.iterrows(), strict=True):
        assert row["name"] == name
        for k, column in ((0, "estimate"), (1, "se"), (3, "lower"), (4, "upper")):
            assert row[column] == expected[column]
            assert rows[name][k] == [expected[column], number(expected[column])]
        assert rows[name][2] == [expected["rse%"], number(expected["rse%"], 3)]
    pictures = "[...document.images].map(i => [i.complete, i.naturalWidth > 300, i.alt.length > 3])"
    shown = tab.evaluate(pictures)
    assert len(shown) >= 5 and all(all(each) for each in shown)


@pytest.mark.parametrize("width, dark", [(1100, False), (1100, True), (390, False), (390, True)])
def test_the_page_fits_its_window_in_light_and_dark(path, tab, tmp_path, width, dark):
    tab.view(width, dark=dark)
    tab.open(path)
    # Wide tables scroll inside themselves: the page itself is as wide as the window.
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    colour = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in colour[4:-1].split(","))
    assert brightness < 150 if dark else brightness > 700
    text = sum(int(part) for part in tab.evaluate("getComputedStyle(document.body).color")[4:-1].split(","))
    assert abs(text - brightness) > 400
    assert tab.evaluate("parseFloat(getComputedStyle(document.body).fontSize)") >= 15
    assert tab.screenshot(tmp_path / "page.png").stat().st_size > 10_000
    assert tab.messages == [] and tab.requests == []


def test_the_page_prints(path, tab, tmp_path):
    tab.view(1100, dark=True)
    tab.open(path)
    assert tab.pdf(tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    tab.call("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.evaluate("getComputedStyle(document.querySelector('figure img')).filter") == "none"


def test_a_fit_that_did_not_converge_says_so_first(fit, tmp_path):
    short = jn.fit(fit.model, fit.data, "focei", max_iterations=1)
    assert not short.converged
    page = short.report(tmp_path / "a.html", compare=fit, pictures=False, replicates=0).read_text()
    assert page.index("NOT CONVERGED") < page.index("<h2>")
    assert 'class="status bad"' in page and "<img" not in page
    assert "NOT CONVERGED: this fit" in page  # in the comparison, too


def test_a_fit_that_could_not_start_has_no_estimates(fit, tmp_path):
    failed = jn.fit(fit.model, fit.data, "focei", start={"cl": 1e-300, "vol": 1e-300})
    assert not failed.summary().has_estimates
    page = failed.report(tmp_path / "a.html").read_text()
    assert "the fit did not begin" in page and 'id="estimates"' not in page and "<img" not in page
    assert 'id="data"' in page and 'id="model"' in page and 'id="settings"' in page
    assert json.loads(page.split('id="record">')[1].split("</script>")[0])["converged"] is False
