"""The plot of the intervals of single groups shows the values of `GroupFits.intervals`."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib
import numpy as np
import pytest

import jaxnlme as jn
from tests.estimators import catalogue

matplotlib.use("Agg")


@pytest.fixture(scope="module")
def fits() -> jn.GroupFits:
    parameters = [jn.Parameter(n, v, random=True) for n, v in {"Asym": 300.0, "xmid": 15.0, "scal": 7.0}.items()]
    return jn.fit_groups(jn.NLMEModel(catalogue.sslogis, parameters), catalogue.data("ChickWeight"))


@pytest.fixture(autouse=True)
def close() -> Iterator[None]:
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def test_intervals_of_groups(fits: jn.GroupFits) -> None:
    axes = fits.plot.intervals(0.9)
    assert [ax.get_xlabel() for ax in axes] == ["Asym", "xmid", "scal"]
    table = fits.intervals(0.9)
    ok = table["estimate"].notna()
    for ax, name in zip(axes, fits.estimates.columns, strict=True):
        rows = table[ok].xs(name, level="parameter")
        segments = np.array(ax.collections[0].get_segments())
        np.testing.assert_array_equal(segments[:, 0, 0], rows["lower"])
        np.testing.assert_array_equal(segments[:, 1, 0], rows["upper"])
        median, dots, crosses = ax.get_lines()
        np.testing.assert_array_equal(dots.get_xdata(), rows["estimate"])
        assert len(crosses.get_ydata()) == 3
        # Chick 39's asymptote is 8,474 +- 35,000: it extends beyond the panel instead of compressing the others.
        low, high = ax.get_xlim()
        assert low < median.get_xdata()[0] < high < 5_000
    labels = [tick.get_text() for tick in axes[0].get_yticklabels()]
    assert labels == [str(label) for label in fits.estimates.index]
    assert "90% intervals" in axes[0].figure.get_suptitle()
    axes[0].figure.canvas.draw()


def test_axes_passed_by_the_user(fits: jn.GroupFits) -> None:
    import matplotlib.pyplot as plt

    _, panels = plt.subplots(3, 1)
    drawn = fits.plot.intervals(pooled=True, ax=panels)
    assert list(drawn) == list(panels) and panels[0].figure.get_suptitle() == ""
    with pytest.raises(jn.OptionError, match="3 panels"):
        fits.plot.intervals(ax=panels[:2])
