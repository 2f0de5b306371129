"""Pictures hold the numbers of the data and of the fit, on the pages, in the order and with the labels asked for."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from scipy.stats import beta, norm

import jaxnlme as jn
from jaxnlme.diagnostics.pictures.forest import covariate_effects
from jaxnlme.diagnostics.pictures.refit_records import draw_bootstrap, draw_influence, draw_profile
from jaxnlme.drawing.marks import local_regression, normal_quantiles, smooth
from jaxnlme.drawing.panels import as_panels, natural_order, on_page
from jaxnlme.drawing.style import CYCLE, style
from jaxnlme.frontends.cli.demo import one_compartment

matplotlib.use("Agg")
LABELS = {"conc": "Theophylline (mg/L)", "Time": "Time (h)", "Wt": "Weight (kg)"}


@pytest.fixture(autouse=True)
def close() -> Iterator[None]:
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


@pytest.fixture(scope="module")
def fit() -> jn.Fit:
    """Theophylline with a numeric and a categorical covariate."""
    frame = jn.datasets.theophylline()
    frame["Dose"] = frame["Dose"] * frame["Wt"]
    frame["Arm"] = np.where(frame["Subject"] % 2, "B", "A")
    data = jn.GroupedData.from_frame(frame, "Subject", "conc", x=["Time", "Dose"], v=["Wt", "Arm"])
    parameters = [
        jn.Parameter("ka", 1.5, transform="log", random=True),
        jn.Parameter("cl", 2.8, transform="log", random=True, covariates=["log(Wt / 70)", "Arm"]),
        jn.Parameter("vol", 32.0, transform="log", random=True),
    ]
    return jn.fit(jn.NLMEModel(one_compartment, parameters), data.with_axis_labels(LABELS))


def patients(n: int = 11) -> jn.GroupedData:
    """Responses time + number of the patient, whose labels are text."""
    table = pd.DataFrame({"id": np.repeat([f"Pat {k}" for k in range(n, 0, -1)], 3), "t": np.tile([2.0, 1.0, 3.0], n)})
    table["y"] = table["t"] + np.repeat(np.arange(n, 0, -1), 3) + 0.5
    table["sex"] = np.repeat(np.where(np.arange(n) % 2, "m", "f"), 3)
    return jn.GroupedData.from_frame(table, "id", "y", x=["t"], v=["sex"])


# ---- axes, pages, marks


def test_natural_order_and_pages() -> None:
    labels = ["Pat 10", "Pat 2", "b", "Pat 1", "a10", "a9"]
    assert [labels[k] for k in natural_order(labels)] == ["a9", "a10", "b", "Pat 1", "Pat 2", "Pat 10"]
    assert natural_order([10.0, 9.0, 2.5]) == [2, 1, 0]
    assert on_page(range(59), 3, 24) == (list(range(48, 59)), "groups 49 to 59 of 59 (page 3 of 3)")
    assert on_page(range(24), 1, 24) == (list(range(24)), "")
    with pytest.raises(jn.OptionError, match="page=4, but 59 groups at 24 a page have 3 pages"):
        on_page(range(59), 4, 24)
    with pytest.raises(jn.OptionError, match="at most 60 are legible"):
        on_page(range(1000), 1, 1000)


def test_panels_print_in_one_line_and_are_an_array() -> None:
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(2, 2)
    panels = as_panels(grid)
    panels[0].set_title("first")
    assert repr(panels) == str(panels) == "<4 panels: first>" and panels.figure is figure
    assert panels[1] is grid[0, 1] and len(panels[1:]) == 3 and isinstance(panels, np.ndarray)


def test_the_style_holds_inside_pictures_only() -> None:
    import matplotlib.pyplot as plt

    before = dict(matplotlib.rcParams)
    with style():
        cycle = [to_hex(entry["color"]) for entry in matplotlib.rcParams["axes.prop_cycle"]]
    assert cycle == [color.lower() for color in CYCLE]
    _, ax = plt.subplots()
    assert patients().plot(ax=ax) is ax
    assert not ax.spines["top"].get_visible()
    assert dict(matplotlib.rcParams) == before


def test_local_regression_is_a_weighted_line() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(size=40)
    np.testing.assert_allclose(local_regression(x, 3.0 - 2.0 * x, x), 3.0 - 2.0 * x, atol=1e-12)
    y, at = np.sin(6.0 * x) + 0.1 * rng.normal(size=40), 0.4
    distance = np.abs(x - at)
    reach = np.sort(distance)[29]
    weight = np.where(distance <= reach, (1.0 - np.minimum(distance / reach, 1.0) ** 3) ** 3, 0.0)
    line = np.polyfit(x, y, 1, w=np.sqrt(weight))
    np.testing.assert_allclose(local_regression(x, y, np.array([at])), np.polyval(line, at), rtol=1e-6)


def test_a_smooth_curve_stays_within_clusters_of_data() -> None:
    """All but one of the values of x lie together: the curve has no point between, where it would extrapolate."""
    import matplotlib.pyplot as plt

    _, ax = plt.subplots()
    x = np.append(np.linspace(319.0, 320.0, 11), 267.0)
    y = np.append(np.linspace(1.0, -1.0, 11), 1.0)
    line = smooth(ax, x, y)
    assert set(line.get_xdata()) <= set(x) and np.abs(line.get_ydata()).max() < 1.5
    assert smooth(ax, [1.0, 1.0, 2.0] * 5, np.arange(15.0)) is None


def test_normal_quantiles_have_the_band_of_order_statistics() -> None:
    import matplotlib.pyplot as plt

    _, ax = plt.subplots()
    values = np.array([0.3, -1.2, 2.2, np.nan, 0.1])
    normal_quantiles(ax, values)
    dots = ax.get_lines()[1]
    np.testing.assert_array_equal(dots.get_ydata(), [-1.2, 0.1, 0.3, 2.2])
    np.testing.assert_allclose(dots.get_xdata(), norm.ppf((np.arange(1, 5) - 0.375) / 4.25))
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(norm.ppf(beta.ppf(0.025, 1, 4)))


# ---- data


def test_data_are_lines_in_the_order_of_x() -> None:
    data = patients().with_axis_labels({"y": "Level (mg/L)", "t": "Time (h)"})
    ax = data.plot(by="sex", logy=True)
    first, second = (collection.get_segments() for collection in ax.collections)
    assert len(first) == 6 and len(second) == 5
    np.testing.assert_array_equal(first[0], [[1.0, 2.5], [2.0, 3.5], [3.0, 4.5]])
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_yscale()) == ("Time (h)", "Level (mg/L)", "log")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["f", "m"]
    with pytest.raises(jn.OptionError, match="did you mean 'sex'"):
        data.plot(by="sx")
    with pytest.raises(jn.DataError, match="no column or endpoint 'z'"):
        data.with_axis_labels({"z": "Level"})


def test_facets_are_in_natural_order_on_pages() -> None:
    panels = patients().plot(facets=True, per_page=4, page=2)
    assert [ax.get_title() for ax in panels] == ["id Pat 5", "id Pat 6", "id Pat 7", "id Pat 8"]
    assert panels.figure.get_suptitle() == "Groups 5 to 8 of 11 (page 2 of 3)"
    np.testing.assert_array_equal(panels[0].get_lines()[0].get_ydata(), [7.5, 6.5, 8.5])
    named = patients().plot(facets=True, groups=["Pat 10", "Pat 2"])
    assert [ax.get_title() for ax in named] == ["id Pat 10", "id Pat 2"]
    with pytest.raises(jn.OptionError, match="2 panels; ax holds 1 axes"):
        patients().plot(facets=True, groups=["Pat 10", "Pat 2"], ax=named[0])


def test_labels_are_no_formulas_and_legends_fit() -> None:
    frame = patients().to_frame()
    frame["arm"] = [f"cost {int(str(name).split()[-1]) % 5} $ for a course of $_ weeks" for name in frame["id"]]
    frame["id"] = [f"{name} $x^$" for name in frame["id"]]
    panels = jn.GroupedData.from_frame(frame, "id", "y", x=["t"], v=["arm"]).plot(facets=True, by="arm")
    panels.figure.canvas.draw()  # a formula that is none raises here
    assert panels[0].get_title() == r"id Pat 1 \$x^\$"
    (legend,) = panels.figure.legends
    assert panels.figure.bbox.containsx(legend.get_window_extent().x0) and legend._ncols == 3


def test_a_backend_that_is_loaded_by_the_first_picture_stays_interactive() -> None:
    """As that of a notebook, which else shows the first picture only."""
    import matplotlib.pyplot as plt

    from jaxnlme.drawing.style import style

    assert not plt.isinteractive()
    with style():
        plt.ion()
    assert plt.isinteractive()
    with style():
        plt.ioff()
    assert not plt.isinteractive()


def test_censored_responses_are_triangles_and_discrete_ones_counts() -> None:
    frame = patients().to_frame()
    data = jn.GroupedData.from_frame(frame, "id", "y", x=["t"], lloq=3.0)
    dots, triangles = data.plot().get_lines()
    assert set(triangles.get_ydata()) == {3.0} and triangles.get_marker() == "v"
    assert len(triangles.get_ydata()) == (frame["y"] < 3.0).sum() and len(dots.get_ydata()) == (frame["y"] >= 3.0).sum()
    frame["y"] = np.tile([0.0, 1.0, 2.0], 11)
    ax = jn.GroupedData.from_frame(frame, "id", "y", x=["t"]).plot()
    np.testing.assert_array_equal(ax.collections[0].get_offsets(), [[1.0, 1.0], [2.0, 0.0], [3.0, 2.0]])
    assert [text.get_text() for text in ax.texts] == ["11"] * 3
    assert [text.get_text() for text in ax.get_yticklabels()] == ["0", "1", "2"]


# ---- records of refits


def test_records_of_refits_are_drawn_as_they_are() -> None:
    fitted = SimpleNamespace(converged=True)
    rng = np.random.default_rng(1)
    values = pd.DataFrame({"a": rng.normal(size=50), "b": rng.normal(size=50)})
    ends = pd.DataFrame({"estimate": [0.1, 0.2], "lower": [-2.0, -1.9], "upper": [2.1, 1.8]}, index=["a", "b"])
    record = SimpleNamespace(fit=fitted, values=values, intervals=lambda level, kind: ends)
    panels = draw_bootstrap(record)
    assert [line.get_xdata()[0] for line in panels[1].get_lines()] == [0.2, -1.9, 1.8]
    assert sum(patch.get_height() * patch.get_width() for patch in panels[0].patches) == pytest.approx(1.0)

    table = pd.DataFrame(
        {"displacement": [4.0, 1.0, 0.5], "cook": [2.0, 0.7, 0.1], "a": [1.2, -0.3, 0.0], "b": [0.0, 0.4, 0.1]},
        index=pd.Index(["p3", "p1", "p2"], name="id"),
    )
    panels = draw_influence(SimpleNamespace(fit=fitted, influence=table), most=2)
    assert [text.get_text() for text in panels[0].get_yticklabels()] == ["p3", "p1"]
    np.testing.assert_array_equal(panels[1].get_lines()[0].get_xdata(), [2.0, 0.7])
    np.testing.assert_array_equal(panels[2].collections[0].get_array(), [[-0.3, 0.4], [1.2, 0.0]])
    assert "the 2 most influential of 3" in panels.figure.get_suptitle().replace("\n", " ")

    points = pd.DataFrame({"parameter": "a", "value": [1.0, 0.0, 2.0], "zeta": [0.0, -1.5, 1.4]})
    limits = {"estimate": 1.0, "lower": -0.4, "upper": 2.6, "wald lower": -0.5, "wald upper": 2.5, "note": ""}
    profile = SimpleNamespace(fit=fitted, table=points, intervals=pd.DataFrame([limits], index=["a"]), level=0.95)
    (panel,) = draw_profile(profile)
    np.testing.assert_array_equal(panel.get_lines()[0].get_xydata(), [[0.0, -1.5], [1.0, 0.0], [2.0, 1.4]])
    assert {-0.4, 2.6} <= {line.get_xdata()[0] for line in panel.get_lines()}


# ---- pictures of a fit


def test_gof_has_the_numbers_of_the_fit_and_labels_with_units(fit: jn.Fit) -> None:
    panels = fit.plot.gof(residual="iwres")
    y, iwres = fit.data.to_frame()["conc"], fit.residuals("iwres")["iwres"]
    for ax, level in zip(panels[:2], ("population", "group"), strict=True):
        dots = next(line for line in ax.get_lines() if line.get_marker() == "o")
        np.testing.assert_allclose(dots.get_xydata(), np.stack([fit.predict(level=level), y], axis=1))
    dots = next(line for line in panels[2].get_lines() if line.get_marker() == "o")
    np.testing.assert_allclose(dots.get_xydata(), np.stack([fit.data.to_frame()["Time"], iwres], axis=1))
    assert panels[0].get_xlabel() == "predicted Theophylline (mg/L), population"
    assert panels[2].get_xlabel() == "Time (h)" and panels[3].get_ylabel() == "residual (IWRES)"
    on_log = fit.plot.observed_predicted(log=True)
    assert on_log[0].get_xscale() == "log" and on_log[0].texts[0].get_text().endswith("not above zero: not drawn")
    assert fit.plot.residuals(against="Arm").get_xticklabels()[0].get_text() == "A\nn = 66"


def test_the_standard_page_and_axes_of_the_user(fit: jn.Fit) -> None:
    import matplotlib.pyplot as plt

    panels = fit.plot()
    assert len(panels) == 6 and repr(panels).startswith("<6 panels") and "\n" not in repr(panels)
    assert panels.figure.get_suptitle() == "FOCEI: 12 groups, 132 responses"
    panels.figure.canvas.draw()
    _, axes = plt.subplots(2, 2)
    drawn = fit.plot.gof(ax=axes)
    assert list(drawn) == list(axes.ravel()) and axes[0, 0].figure.get_suptitle() == ""
    with pytest.raises(jn.OptionError, match="4 panels; ax holds 3"):
        fit.plot.gof(ax=axes.ravel()[:3])
    with pytest.raises(jn.OptionError, match="log"):
        fit.plot.gof(logs=True)


def test_pages_of_individual_fits(fit: jn.Fit) -> None:
    panels = fit.plot.individual_fits(page=2, per_page=5, columns=5)
    assert [ax.get_title() for ax in panels] == [f"Subject {k}" for k in range(6, 11)]
    assert panels.figure.get_suptitle() == "Individual fits by FOCEI, groups 6 to 10 of 12 (page 2 of 3)"
    with pytest.raises(jn.OptionError, match="page=4"):
        fit.plot.individual_fits(page=4, per_page=5)


def test_pictures_of_random_effects(fit: jn.Fit) -> None:
    effects, sd = fit.random_effects, np.sqrt(np.diag(fit.psi))
    panels = fit.plot.qq("effects")
    for ax, name, s in zip(panels, effects, sd, strict=True):
        np.testing.assert_allclose(ax.get_lines()[1].get_ydata(), np.sort(effects[name] / s))
    histograms = fit.plot.effect_histograms()
    assert histograms[1].get_lines()[0].get_ydata().max() == pytest.approx(1.0 / (sd[1] * np.sqrt(2.0 * np.pi)))
    pairs = fit.plot.effect_pairs()
    np.testing.assert_array_equal(pairs[2, 0].get_lines()[0].get_xydata(), effects[["ka", "vol"]])
    assert pairs[0, 2].texts[0].get_text() == f"modes {effects.corr().loc['ka', 'vol']:+.2f}\nmodel +0.00"

    panels = fit.plot.effects_covariates(["Wt", "Arm"], "cl")
    assert [ax.get_xlabel() for ax in panels] == ["Weight (kg)", "Arm"]
    dots = next(line for line in panels[0].get_lines() if line.get_marker() == "o")
    weights = fit.data.to_frame().groupby("Subject")["Wt"].first()
    np.testing.assert_array_equal(dots.get_xydata(), np.stack([weights, effects["cl"]], axis=1))
    with pytest.raises(jn.OptionError, match="did you mean 'Wt'"):
        fit.plot.effects_covariates("wt")

    panels = fit.plot.effect_intervals(["cl", "ka"], 0.9, order="cl")
    order = effects["cl"].sort_values(ascending=False, kind="stable").index
    assert [text.get_text() for text in panels[0].get_yticklabels()] == [str(label) for label in order]
    segments = np.array(panels[1].collections[0].get_segments())
    half = norm.ppf(0.95) * fit.random_effects_se["ka"][order]
    np.testing.assert_allclose(segments[:, 0, 0], effects["ka"][order] - half)


def test_forest_has_ratios_to_the_reference_subject(fit: jn.Fit) -> None:
    """On the log scale parameters are linear: the log ratio is the coefficient times the difference of columns."""
    table = covariate_effects(fit, quantiles=(0.25, 0.9))
    weights = fit.data.v["Wt"]
    estimates = fit.estimates.loc["cl ~ log(Wt / 70)"]
    shift = np.log(np.quantile(weights, 0.9) / np.median(weights))
    row = table.iloc[1]
    assert (row.parameter, row.covariate) == ("cl", "Wt") and row.value == pytest.approx(np.quantile(weights, 0.9))
    assert np.log(row.ratio) == pytest.approx(estimates["estimate"] * shift)
    assert row.se_log == pytest.approx(estimates["se"] * abs(shift), rel=1e-6)
    arm = fit.estimates.loc["cl ~ Arm[T.B]"]
    assert (table.value.iloc[2], table.reference.iloc[2]) == ("B", "A")
    ends = ["ratio", "lower", "upper"]
    wald = arm[["estimate", "lower", "upper"]].to_numpy(float)
    np.testing.assert_allclose(np.log(table.loc[2, ends].to_numpy(float)), wald, rtol=1e-6)
    ax = fit.plot.forest(quantiles=(0.25, 0.9))
    squares = next(line for line in ax.get_lines() if line.get_marker() == "s")
    np.testing.assert_allclose(squares.get_xdata(), table["ratio"])
    assert ax.get_yticklabels()[0].get_text() == "cl" and ax.get_yticklabels()[3].get_text() == "Arm B (ref. A)"
    derived = fit.derive(lambda p: np.log(2.0) * p.vol / p.cl)
    assert fit.plot.forest(derived).get_lines()[0].get_xdata() == pytest.approx(derived.estimate)
    with pytest.raises(jn.OptionError, match="'Wt'"):
        fit.plot.forest(reference={"wt": 70.0})
    with pytest.raises(jn.OptionError, match=r"fit\.derive"):
        fit.plot.forest(derived, reference={"Wt": 70.0})


def test_npde_panels_draw_the_table(fit: jn.Fit) -> None:
    rng = np.random.default_rng(0)
    table = fit.data.to_frame().assign(ypred=fit.predict(level="population"), npde=rng.normal(size=132))
    panels = fit.plot.npde(SimpleNamespace(table=table))
    np.testing.assert_array_equal(panels[0].get_lines()[1].get_ydata(), np.sort(table["npde"]))
    dots = next(line for line in panels[3].get_lines() if line.get_marker() == "o")
    np.testing.assert_array_equal(dots.get_xydata(), table[["ypred", "npde"]])
    assert panels[2].get_xlabel() == "Time (h)"
    with pytest.raises(jn.OptionError, match=r"record must be that of fit\.npde"):
        fit.plot.npde(SimpleNamespace(table=table), kind="npd")


def test_a_saved_fit_has_its_labels(fit: jn.Fit, tmp_path) -> None:
    loaded = jn.load(fit.save(tmp_path / "fit.zip"), model=fit.model)
    assert loaded.data.axis_labels == LABELS and fit.data.select([0, 3]).axis_labels == LABELS
    assert loaded.data.fingerprint() == fit.fingerprint


def test_an_outcome_without_residuals_says_so() -> None:
    rng = np.random.default_rng(1)
    g, t = np.repeat(np.arange(25), 4), np.tile(np.arange(4.0), 25)
    y = pd.Categorical(
        np.array(["low", "mid", "high"])[rng.integers(0, 3, size=100)], ["low", "mid", "high"], ordered=True
    )
    fit = jn.glmer("y ~ t + (1 | g)", pd.DataFrame({"y": y, "t": t, "g": g}), family="ordinal")
    for draw in (fit.plot.gof, fit.plot.qq, fit.plot.residuals):
        with pytest.raises(jn.ModelError, match="residuals need a Gaussian residual model"):
            draw()
    panels = fit.plot()
    assert panels[0].get_ylabel() == "y" and panels[1].get_ylabel() == "log-likelihood"
    with pytest.raises(jn.OptionError, match="no covariates"):
        fit.plot.forest()
