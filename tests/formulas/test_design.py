"""Design matrices and responses of formulas. The sums of columns are those of R 4's model.matrix."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest

from jaxnlme.errors import DataError, OptionError
from jaxnlme.formulas.design import design_matrix, response
from jaxnlme.formulas.frames import complete_rows
from jaxnlme.formulas.rank import independent_columns

X = [1.0, 2.0, 4.0, 7.0, 3.0, 5.0, 6.0, 9.0]


@pytest.fixture
def frame() -> pd.DataFrame:
    table = pd.DataFrame({"y": np.arange(1.0, 9.0), "x": X, "f": list("abcabcab"), "g": ["p", "q"] * 4})
    table["x2"], table["w"] = 2 * table.x, table.x + 3 * (table.f == "b")
    return table.assign(year=[2001, 2002] * 4, flag=table.x > 4, **{"my x": table.x, "x.1": table.x})


# By R: colSums(model.matrix(formula, d) * (1:8)).
@pytest.mark.parametrize(
    "formula, names, sums",
    [
        ("x", ["(Intercept)", "x"], [36, 204]),
        ("x - 1", ["x"], [204]),
        ("log2 (2^x)", ["(Intercept)", "log2(2 ** x)"], [36, 204]),
        ("x * f", ["(Intercept)", "x", "f[T.b]", "f[T.c]", "x:f[T.b]", "x:f[T.c]"], [36, 204, 15, 9, 91, 42]),
        ("0 + f:g", [f"f[{f}]:g[{g}]" for g in "pq" for f in "abc"], [8, 5, 3, 4, 10, 6]),
        ("0 + g + f", ["g[p]", "g[q]", "f[T.b]", "f[T.c]"], [16, 20, 15, 9]),
        ("f/x", ["(Intercept)", "f[T.b]", "f[T.c]", "f[a]:x", "f[b]:x", "f[c]:x"], [36, 15, 9, 71, 91, 42]),
        ("x %in% f", ["(Intercept)", "x:f[a]", "x:f[b]", "x:f[c]"], [36, 71, 91, 42]),
        ("poly(x, 2)", ["(Intercept)", "poly(x, 2)[1]", "poly(x, 2)[2]"], [36, 5.3099424, -0.8985057]),
        ("scale(x) + I(x^2)", ["(Intercept)", "scale(x)", "I(x ** 2)"], [36, 14.04879, 1348]),
        ("log(x, 2)", ["(Intercept)", "log(x, 2)"], [36, 84.53994]),
        ("bs(x, df=4)", ["(Intercept)", *(f"bs(x, df=4)[{k}]" for k in range(1, 5))],
         [36, 7.523708, 9.544060, 7.847675, 8.953361]),
        ("C(f, contr.sum)", ["(Intercept)", "C(f, contr.sum)[S.a]", "C(f, contr.sum)[S.b]"], [36, 3, 6]),
        ("as.factor(year)", ["(Intercept)", "factor(year)[T.2002]"], [36, 20]),
        ("flag", ["(Intercept)", "flag[T.True]"], [36, 25]),
        ("sqrt(x.1^2) + `my x`", ["(Intercept)", "sqrt(x.1 ** 2)", "my x"], [36, 204, 204]),
        ("poly(x, 2, raw=TRUE)", ["(Intercept)", *(f"poly(x, 2, raw=TRUE)[{k}]" for k in range(2))], [36, 204, 1348]),
        ("0", [], []),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["pandas", "polars", "dict"])
def test_matrices_are_those_of_r(
    frame: pd.DataFrame, formula: str, names: list[str], sums: list[float], kind: str
) -> None:
    table: object = frame
    if kind != "pandas":
        table = {name: frame[name].to_numpy() for name in frame}
        if kind == "polars":
            polars = pytest.importorskip("polars")
            table = polars.DataFrame({name: frame[name].tolist() for name in frame})
    design = design_matrix(formula, table)
    assert list(design.names) == names
    assert design.matrix.dtype == np.float64 and design.matrix.flags.forc
    np.testing.assert_allclose(np.arange(1, 9) @ design.matrix, sums, rtol=1e-6)
    again = design_matrix(formula, frame)
    np.testing.assert_array_equal(design.matrix, again.matrix)
    # Rows by themselves have the same columns, also after storage.
    stored = pickle.loads(pickle.dumps(design))
    np.testing.assert_allclose(stored.for_frame(frame.iloc[[5, 1]]), design.matrix[[5, 1]], atol=1e-12)


@pytest.mark.parametrize(
    "formula, dropped",
    [
        ("x + x2 + f + w", ["x2", "w"]),
        ("(x + f + g)^2", ["f[T.b]:g[T.q]", "f[T.c]:g[T.q]"]),
        ("x + f", []),
        ("x + I(0 * x)", ["I(0 * x)"]),
    ],
)
def test_dependent_columns_are_left_out_as_r_does(frame: pd.DataFrame, formula: str, dropped: list[str]) -> None:
    full, design = design_matrix(formula, frame), design_matrix(formula, frame, drop_aliased=True)
    assert list(design.aliased) == dropped and full.aliased == ()
    assert design.names == tuple(name for name in full.names if name not in dropped)
    kept = [full.names.index(name) for name in design.names]
    np.testing.assert_array_equal(design.matrix, full.matrix[:, kept])
    np.testing.assert_allclose(design.for_frame(frame.iloc[2:4]), design.matrix[2:4])
    for label, columns in design.terms:
        assert columns.stop > columns.start
        assert label in ("(Intercept)", *(name for name, _ in full.terms))
    assert sum(columns.stop - columns.start for _, columns in design.terms) == len(design.names)


@pytest.mark.parametrize("noise, independent", [(1e-5, True), (1e-6, True), (1e-8, False), (1e-12, False)])
@pytest.mark.parametrize("unit", [1e-8, 1.0, 1e8])
def test_the_tolerance_does_not_depend_on_units(noise: float, independent: bool, unit: float) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=40_000)
    matrix = np.column_stack([np.ones_like(x), unit * x, x + noise * rng.normal(size=x.size)])
    assert independent_columns(matrix).tolist() == [True, True, independent]
    assert independent_columns(matrix[:2]).tolist() == [True, True, False]  # more columns than rows


def test_unused_categories_have_no_column(frame: pd.DataFrame) -> None:
    frame["f"] = pd.Categorical(frame.f, categories=["c", "unused", "b", "a"])
    design = design_matrix("f", frame)
    assert design.names == ("(Intercept)", "f[T.b]", "f[T.a]")
    np.testing.assert_array_equal(design.for_frame({"f": ["a", "c"]}), [[1, 0, 1], [1, 0, 0]])


def test_new_rows_that_cannot_be_computed(frame: pd.DataFrame) -> None:
    design = design_matrix("x + f", frame)
    with pytest.raises(DataError, match=r"'f' has the category 'z' in row 2.*known: 'a', 'b' and 'c'"):
        design.for_frame({"x": [1.0, 2.0], "f": ["a", "z"]})
    with pytest.raises(DataError, match="no column 'f'"):
        design.for_frame({"x": [1.0]})
    with pytest.raises(DataError, match="'x' holds text; it held numbers"):
        design.for_frame({"x": ["1"], "f": ["a"]})
    with pytest.raises(DataError, match=r"'x' is missing or not finite in row 1"):
        design.for_frame({"x": [np.nan], "f": ["a"]})
    with pytest.raises(DataError, match="'f' is missing in row 1"):
        design.for_frame({"x": [1.0, 1.0], "f": [None, "a"]})
    with pytest.raises(DataError, match=r"lacked \(2009\)"):
        design_matrix("factor(year)", frame).for_frame({"year": [2001, 2009]})
    flags = design_matrix("flag", frame)
    np.testing.assert_array_equal(flags.for_frame({"flag": [1, 0]}), flags.for_frame({"flag": [True, False]}))
    assert design_matrix("1", frame).for_frame(frame.iloc[:3]).shape == (3, 1)


@pytest.mark.parametrize(
    "formula, message",
    [
        ("x^2", r"x\^2 is the same as x; write I\(x\^2\)"),
        ("ns(x, 3)", r"no function ns\(\); natural splines are cr"),
        ("offset(x)", r"subtract it from the response"),
        ("sqr(x)", "did you mean 'sqrt'"),
        ("zzz(x)", r"context=\{...\}"),
        ("x * 2", r"arithmetic inside I\(\)"),
        (".", "name the columns"),
        ("x + 3", "3 is no term"),
        ("I(x/)", "cannot be computed"),
        ("poly(x, degree=2, levels=3)", "cannot be computed"),
        ("x | g", "one right-hand side"),
        ("y ~ x", "one right-hand side"),
    ],
)
def test_formulas_that_cannot_be_computed(frame: pd.DataFrame, formula: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        design_matrix(formula, frame)


def test_data_that_cannot_be_used(frame: pd.DataFrame) -> None:
    with pytest.raises(DataError, match="no column 'xx'; did you mean 'x'"):
        design_matrix("log(xx)", frame)
    with pytest.raises(DataError, match="needs more than 8 different values, and 'my x' has 8"):
        design_matrix("poly(`my x`, 8)", frame)
    with pytest.raises(DataError, match="the single category 'a'"):
        design_matrix("f", frame[frame.f == "a"])
    with pytest.raises(DataError, match="the single category 2001"):
        design_matrix("factor(year)", frame[frame.year == 2001])
    frame.loc[[3, 6], "x"] = 0.0
    with pytest.raises(DataError, match=r"'log\(x\)' is missing or not finite in rows 4 and 7;"):
        design_matrix("log(x)", frame)
    with pytest.raises(DataError, match=r"in row 1 \(the first has the index 6\)"):
        design_matrix("log(x)", frame.iloc[6:])
    frame["t"] = pd.Timestamp("2020-01-01")
    with pytest.raises(DataError, match="dates"):
        design_matrix("t", frame)


def test_row_labels_may_repeat(frame: pd.DataFrame) -> None:
    repeated = frame.set_index(pd.Index([0, 0, 1, 1, 2, 2, 3, 3]))
    np.testing.assert_array_equal(design_matrix("x*f", repeated).matrix, design_matrix("x*f", frame).matrix)


def test_functions_of_the_caller(frame: pd.DataFrame) -> None:
    context = {"half": lambda x: x / 2, "k": 3.0}
    design = design_matrix("half(x) + I(k * x)", frame, context=context)
    np.testing.assert_allclose(design.matrix[:, 1:], frame.x.to_numpy()[:, None] * [0.5, 3.0])
    np.testing.assert_allclose(design.for_frame(frame[:2]), design.matrix[:2])
    np.testing.assert_allclose(response("half(x)", frame, context)[0], frame.x / 2)


def test_responses(frame: pd.DataFrame) -> None:
    large = frame.flag.astype(float)
    for text, expected in (
        ("y", frame.y), ("log(y)", np.log(frame.y)), ("y / 100", frame.y / 100), ("y^2 - x", frame.y**2 - frame.x),
        ("`my x`", frame.x), ("x.1", frame.x), ("flag", large), ("I(x > 4)", large),
    ):  # fmt: skip
        values, name = response(text, frame)
        np.testing.assert_allclose(values, expected)
        assert values.dtype == np.float64 and name == text.strip("`")


@pytest.mark.parametrize(
    "text, error, message",
    [
        ("f", DataError, "'f' holds text or categories"),
        ("log(f)", DataError, "'f' holds text or categories"),
        ("1", OptionError, "uses no column"),
        ("y +", OptionError, r"response 'y \+' cannot be computed"),
        ("yy", DataError, "did you mean 'y'"),
        ("cbind(y, x)", OptionError, "several columns"),
        ("poly(x, 2)", OptionError, "2 columns; expected one"),
        ("log(y - 1)", DataError, r"'log\(y - 1\)' is missing or not finite in row 1"),
    ],
)
def test_responses_that_cannot_be_used(frame: pd.DataFrame, text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        response(text, frame)


def test_rows_without_missing_values() -> None:
    frame = pd.DataFrame({"y": [1.0, np.nan, 3.0, np.inf], "f": ["a", "b", None, "a"], "n": [1, 2, 3, 4]})
    np.testing.assert_array_equal(complete_rows(frame, ["y", "n"]), [True, False, True, True])
    np.testing.assert_array_equal(complete_rows(frame, ["y", "f"]), [True, False, False, True])
    table = {name: frame[name].tolist() for name in frame}
    np.testing.assert_array_equal(complete_rows(table, ["y", "f"]), [True, False, False, True])
    np.testing.assert_array_equal(complete_rows(frame, []), [True] * 4)
    with pytest.raises(DataError, match="no column 'z'"):
        complete_rows(frame, ["z"])
    with pytest.raises(DataError, match="length"):
        complete_rows({"a": [1.0, 2.0], "b": [1.0]}, ["b"])
