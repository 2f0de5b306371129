"""A model bound to data: designs and covariate columns against explicit ones, names, starting values, and refusals."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.binding.bind import bind
from jaxnlme.model.covariance.structures import Blocks, CompoundSymmetry, Diagonal
from jaxnlme.model.design import from_array
from jaxnlme.model.residual_error.base import ErrorParameter
from tests.problems import COVARIANCES, decay, decay_data, decay_model, mean


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Three subjects with 3, 2 and 1 rows: weight and sex a subject, dose and form a row."""
    return pd.DataFrame(
        {
            "id": ["p", "p", "p", "q", "q", "r"],
            "t": [0.0, 1.0, 2.0, 0.5, 1.5, 1.0],
            "y": [1.0, 2.0, 3.0, 1.5, 2.5, 2.0],
            "wt": [60.0, 60.0, 60.0, 80.0, 80.0, 50.0],
            "sex": ["m", "m", "m", "f", "f", "m"],
            "dose": [1.0, 2.0, 4.0, 3.0, 5.0, 2.0],
            "form": ["tab", "gel", "tab", "gel", "gel", "sol"],
        }
    )


def grouped(frame: pd.DataFrame) -> jn.GroupedData:
    return jn.GroupedData.from_frame(frame, "id", "y", x=["t", "dose", "form"], v=["wt", "sex"])


def with_covariates(*covariates: str | jn.Covariate) -> jn.NLMEModel:
    return jn.NLMEModel(mean, [jn.Parameter("mu", 1.0, random=True, covariates=covariates)])


def columns(model: jn.NLMEModel, data: jn.GroupedData, like=None) -> dict[str, np.ndarray]:
    """The column of each coefficient by name, with zeros in padded cells of those that vary within groups."""
    binding = bind(model, data, like)
    out = {}
    arrays = binding.problem.buckets[0].covariates
    for name, column in zip(binding.density.beta_names[1:], arrays, strict=True):
        out[name] = np.where(data.rows, column, 0.0) if column.ndim == 2 else column
    return out


def assert_columns(actual: dict[str, np.ndarray], expected: dict[str, list]) -> None:
    assert list(actual) == list(expected)
    for name, column in expected.items():
        assert actual[name] == pytest.approx(np.array(column), rel=1e-14), name


def test_group_level_formula(frame: pd.DataFrame) -> None:
    actual = columns(with_covariates("log(wt / 70)"), grouped(frame))
    assert_columns(actual, {"mu ~ log(wt / 70)": np.log(np.array([60, 80, 50]) / 70)})


def test_text_has_its_first_level_as_reference(frame: pd.DataFrame) -> None:
    assert_columns(columns(with_covariates("sex"), grouped(frame)), {"mu ~ sex[T.m]": [1.0, 0.0, 1.0]})
    actual = columns(with_covariates("form"), grouped(frame))
    # constant in every group: one value a group
    assert_columns(actual, {"mu ~ form[T.sol]": [0, 0, 1], "mu ~ form[T.tab]": [[1, 0, 1], [0, 0, 0], [0, 0, 0]]})


def test_another_reference_level(frame: pd.DataFrame) -> None:
    actual = columns(with_covariates("C(sex, Treatment('m'))"), grouped(frame))
    (column,) = actual.values()
    assert column.tolist() == [0.0, 1.0, 0.0]


def test_declared_levels_keep_their_order(frame: pd.DataFrame) -> None:
    order = ["tab", "unused", "sol", "gel"]
    model = with_covariates("form")
    data = grouped(frame.assign(form=pd.Categorical(frame["form"], order)))
    assert_columns(
        columns(model, data), {"mu ~ form[T.sol]": [0, 0, 1], "mu ~ form[T.gel]": [[0, 1, 0], [1, 1, 0], [0, 0, 0]]}
    )
    # a later table is coded in the same way, whatever levels it declares
    for later in (frame, frame.assign(form=pd.Categorical(frame["form"]))):
        again = columns(model, grouped(later), bind(model, data))
        assert list(again) == ["mu ~ form[T.sol]", "mu ~ form[T.gel]"]
        assert again["mu ~ form[T.sol]"].tolist() == [0, 0, 1]
    strange = frame.assign(form=pd.Categorical(["new", *frame["form"][1:]], ["new", *order]))
    with pytest.raises(jn.ModelError, match=r"mu.*'form' has the level 'new'"):
        bind(model, grouped(strange), bind(model, data))
    sex = grouped(frame.assign(sex=pd.Categorical(frame["sex"], ["m", "f"])))
    assert_columns(columns(with_covariates("sex"), sex), {"mu ~ sex[T.f]": [0.0, 1.0, 0.0]})


def test_a_term_of_two_covariates_is_refused(frame: pd.DataFrame) -> None:
    with pytest.raises(jn.ModelError, match=r"covariates 'wt' and 'sex \* wt' both hold the term 'wt'"):
        bind(with_covariates("wt", "sex * wt"), grouped(frame))


def test_a_covariate_that_is_not_a_formula_by_itself_is_refused(frame: pd.DataFrame) -> None:
    with pytest.raises(jn.ModelError, match=r"the covariate 'wt\) \* \(dose' is not a formula"):
        bind(with_covariates("wt) * (dose", "sex"), grouped(frame))


def test_warnings_of_libraries_are_not_errors(frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    def column(self, name, get=pd.DataFrame.__getitem__):
        warnings.warn("this will change", FutureWarning, stacklevel=2)
        return get(self, name)

    monkeypatch.setattr(pd.DataFrame, "__getitem__", column)
    with pytest.warns(FutureWarning, match="this will change"):
        bind(with_covariates("dose"), grouped(frame))


def test_interaction(frame: pd.DataFrame) -> None:
    actual = columns(with_covariates("sex * log(wt / 70)"), grouped(frame))
    size, male = np.log(np.array([60, 80, 50]) / 70), np.array([1.0, 0.0, 1.0])
    assert sorted(tuple(np.round(c, 12)) for c in actual.values()) == sorted(
        tuple(np.round(c, 12)) for c in (size, male, size * male)
    )


def test_centre_is_taken_over_groups_and_kept_for_new_data(frame: pd.DataFrame) -> None:
    model, data = with_covariates("center(wt)"), grouped(frame)
    assert_columns(columns(model, data), {"mu ~ center(wt)": np.array([60.0, 80.0, 50.0]) - 190 / 3})
    later = grouped(frame.assign(wt=frame["wt"] + 10.0))
    assert_columns(
        columns(model, later, bind(model, data)), {"mu ~ center(wt)": np.array([70.0, 90.0, 60.0]) - 190 / 3}
    )


def test_centre_of_a_column_that_varies_is_taken_over_rows(frame: pd.DataFrame) -> None:
    actual = columns(with_covariates("center(dose)"), grouped(frame))
    m = 17 / 6
    expected = [[1 - m, 2 - m, 4 - m], [3 - m, 5 - m, 0.0], [2 - m, 0.0, 0.0]]
    assert_columns(actual, {"mu ~ center(dose)": expected})


def test_starts_and_fixed_coefficients(frame: pd.DataFrame) -> None:
    model = with_covariates(jn.Covariate("wt", 0.02, fix=True), jn.Covariate("sex", -0.3))
    binding = bind(model, grouped(frame))
    assert binding.density.beta_names == ("mu", "mu ~ wt", "mu ~ sex[T.m]")
    assert binding.start.beta.tolist() == [1.0, 0.02, -0.3]
    assert binding.fixed[:3].tolist() == [False, True, False]


def test_new_levels_are_refused(frame: pd.DataFrame) -> None:
    model, data = with_covariates("sex"), grouped(frame)
    strange = grouped(frame.assign(sex=["x"] * 3 + ["f"] * 2 + ["m"]))
    with pytest.raises(jn.ModelError, match=r"mu.*sex"):
        bind(model, strange, bind(model, data))
    # fewer levels are accepted: the columns stay
    fewer = grouped(frame.assign(sex="m"))
    assert_columns(columns(model, fewer, bind(model, data)), {"mu ~ sex[T.m]": [1.0, 1.0, 1.0]})


def test_new_strata_are_refused(frame: pd.DataFrame) -> None:
    model = jn.NLMEModel(mean, {"mu": 1.0}, error=jn.error.constant(0.5, by="sex"))
    first = bind(model, grouped(frame))
    assert [p.name for p in first.density.error.parameters] == ["a[f]", "a[m]"]
    assert first.problem.buckets[0].strata[:, 0].tolist() == [1, 0, 1]
    with pytest.raises(jn.ModelError, match=r"column 'sex' has levels that the fitted data lacked: \['x'\]"):
        bind(model, grouped(frame.assign(sex="x")), first)
    with pytest.raises(
        jn.ModelError, match="column 'sxe' of the residual model is not in the data; did you mean 'sex'"
    ):
        bind(jn.NLMEModel(mean, {"mu": 1.0}, error=jn.error.constant(by="sxe")), grouped(frame))


def test_strata_are_those_of_rows_with_a_response() -> None:
    table = pd.DataFrame(
        {
            "id": [1, 1, 1, 2, 2],
            "t": [0.0, 1.0, 2.0, 0.0, 1.0],
            "y": [np.nan, 1.0, 2.0, np.nan, 3.0],
            "assay": [0, 2, 10, 0, 2],  # 0: dose records
        }
    )
    model = jn.NLMEModel(mean, {"mu": 1.0}, error=jn.error.constant(0.5, by="assay"))
    for assay in (table["assay"], pd.Categorical(table["assay"]), pd.Categorical(table["assay"].astype(float))):
        data = jn.GroupedData.from_frame(table.assign(assay=assay), "id", "y", ["t", "assay"])
        first = bind(model, data)
        assert [p.name for p in first.density.error.parameters] == ["a[2]", "a[10]"]
        strata = first.problem.buckets[0].strata
        assert strata[data.observed].tolist() == [0, 1, 0]
        assert ((strata >= 0) & (strata < 2)).all()
    declared = table.assign(assay=pd.Categorical(table["assay"], [10, 3, 2, 0]))
    data = jn.GroupedData.from_frame(declared, "id", "y", ["t", "assay"])
    assert bind(model, data).density.error.levels == ("10", "2")
    # a table without responses (for predictions) must have known levels in all rows
    later = table.assign(y=np.nan)[["id", "t", "assay", "y"]]
    to_predict = jn.GroupedData.from_frame(later, "id", "y", ["t", "assay"], need_response=False)
    with pytest.raises(jn.ModelError, match=r"levels that the fitted data lacked: \['0'\]; known: \['2', '10'\]"):
        bind(model, to_predict, first)


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("log(weight)", "the covariates '.*log.weight.*' cannot be computed.*t, dose, wt, form, sex"),
        ("log(WT)", "'WT' is no column or function; did you mean 'wt'"),
        ("ln(wt)", "'ln' is no column or function; the natural logarithm is log"),
        ("wt*0", r"write arithmetic in braces, \{Wt / 70\}"),
        ("log(wt - 60)", "covariate 'log.wt - 60.' is not finite in group p"),
        ("log(dose - 2)", "covariate 'log.dose - 2.' is not finite in row 1"),
    ],
)
def test_formulas_that_cannot_be_computed_are_refused(frame: pd.DataFrame, formula: str, message: str) -> None:
    with pytest.raises(jn.ModelError, match=message):
        bind(with_covariates(formula), grouped(frame))


def test_designs_from_arrays_are_sums_over_their_terms() -> None:
    rng = np.random.default_rng(0)
    constant = np.array([[1.0, 0.0, 2.0], [0.0, 0.0, 0.0]])
    per_row = np.broadcast_to(constant, (3, 4, 2, 3)).copy()
    per_row[..., 1, 1] = rng.normal(size=(3, 1))  # constant in each group
    per_row[..., 0, 2] = rng.normal(size=(3, 4))
    design, varying = from_array(per_row, "fixed_design", 2, (3, 4), 0)
    assert [column.shape for column in varying] == [(3, 4), (3,)]
    beta = np.array([0.5, -1.0, 2.0])
    for i in range(3):
        covariates = tuple(column[i] for column in varying)
        rows = [np.broadcast_to(np.asarray(row), 4) for row in design.apply(beta, covariates)]
        assert np.stack(rows, axis=1) == pytest.approx(per_row[i] @ beta)


@pytest.mark.parametrize("shape", [(3,), (3, 3), (5, 1, 2), (4, 9, 1, 2)])
@pytest.mark.parametrize("option", ["fixed_design", "random_design"])
def test_designs_of_another_shape_are_refused(option: str, shape: tuple[int, ...]) -> None:
    data = decay_data()  # 4 groups, 5 rows
    options = {option: np.ones(shape)} | ({"beta": np.ones(2)} if option == "fixed_design" else {})
    with pytest.raises(jn.ModelError, match=rf"{option} must have shape \(1, k\), \(4, 1, k\).*\(4, 5, 1, k\)"):
        bind(jn.NLMEModel(mean, {"mu": 1.0}, **options), data)


def test_invalid_designs_are_refused() -> None:
    data = decay_data()
    with pytest.raises(jn.ModelError, match="fixed_design has entries that are not finite"):
        bind(jn.NLMEModel(mean, {"mu": 1.0}, fixed_design=[[np.nan]], beta=[1.0]), data)
    with pytest.raises(jn.ModelError, match=r"beta must have shape \(2,\)"):
        bind(jn.NLMEModel(mean, {"mu": 1.0}, fixed_design=[[1.0, 2.0]], beta=[1.0]), data)
    with pytest.raises(jn.ModelError, match="fixed_design needs beta"):
        jn.NLMEModel(mean, {"mu": 1.0}, fixed_design=[[1.0]])
    with pytest.raises(jn.ModelError, match="either random_design or random=True"):
        jn.NLMEModel(mean, [jn.Parameter("mu", 1.0, random=True)], random_design=[[1.0]])


@pytest.mark.parametrize(
    ("name", "start", "transform"),
    [
        ("ka", 0.0, "log"),
        ("ka", -1.0, "log"),
        ("p", 1.0, "logit"),
        ("p", 5.0, "logit(0, 4)"),
        ("p", [0.1, 0.2], "logit"),
    ],
)
def test_starts_outside_the_domain_are_refused(name: str, start, transform: str) -> None:
    with pytest.raises(jn.ModelError, match=rf"parameter '{name}': the start must be one number inside"):
        jn.Parameter(name, start, transform)


def test_other_invalid_declarations_are_refused() -> None:
    with pytest.raises(jn.ModelError, match=r"readable as phi\.2a"):
        jn.Parameter("2a", 1.0)
    with pytest.raises(jn.ModelError, match="sd must be positive"):
        jn.Parameter("a", 1.0, random=True, sd=-0.1)
    with pytest.raises(jn.OptionError, match="'a' must start inside"):
        jn.error.constant(-1.0)
    with pytest.raises(jn.OptionError, match="error 'proportinal' is not known; did you mean 'proportional'"):
        jn.NLMEModel(decay, {"a": 1.0}, error="proportinal")
    with pytest.raises(jn.ModelError, match=r"must be unique and not empty; repeated: \['a'\]"):
        jn.NLMEModel(decay, [jn.Parameter("a", 1.0), jn.Parameter("a", 2.0)])
    with pytest.raises(jn.OptionError, match="once; the effects are"):
        bind(decay_model([["a", "b"]]), decay_data())
    with pytest.raises(jn.ModelError, match=r"data must be a jn\.GroupedData"):
        bind(decay_model(), pd.DataFrame())


def test_options_that_would_have_no_effect_are_refused() -> None:
    design = {"fixed_design": [[1.0]], "beta": [1.0]}
    with pytest.raises(jn.ModelError, match="parameter 'mu': fix=True has no meaning with fixed_design"):
        jn.NLMEModel(mean, [jn.Parameter("mu", 1.0, fix=True)], **design)
    prior = jn.priors.Normal(0.0, 1.0)
    with pytest.raises(jn.ModelError, match="parameter 'mu': prior has no meaning with fixed_design"):
        jn.NLMEModel(mean, [jn.Parameter("mu", 1.0, prior=prior)], **design)
    with pytest.raises(jn.ModelError, match=r"parameter 'mu' has sd, .* and no random effect"):
        jn.NLMEModel(mean, [jn.Parameter("mu", 1.0, sd=0.3)])
    with pytest.raises(jn.ModelError, match=r"parameter 'mu' has a prior in Parameter and one in priors="):
        jn.NLMEModel(mean, [jn.Parameter("mu", 1.0, prior=prior)], priors={"mu": prior})
    # with random_design, sd is the start for the column that enters the parameter
    model = jn.NLMEModel(mean, [jn.Parameter("mu", 1.0, sd=0.3)], random_design=[[1.0]])
    assert bind(model, decay_data()).start.covariance == pytest.approx([np.log(0.3)])


@pytest.mark.parametrize("name", ["box-cox", "yeo-johnson"])
def test_transforms_with_an_exponent_are_for_responses(name: str) -> None:
    with pytest.raises(jn.ModelError, match=rf"parameter 'mu': the {name} transform has an exponent"):
        jn.Parameter("mu", 1.0, name)
    with pytest.raises(jn.OptionError, match=rf"error parameter 'a': the {name} transform has an exponent"):
        ErrorParameter("a", 1.0, name)


def test_values_and_params_are_inverse() -> None:
    data = decay_data()
    binding = bind(decay_model("full", jn.error.transform_both_sides("log")), data)
    psi = np.array([[0.04, 0.01, 0.0], [0.01, 0.09, -0.02], [0.0, -0.02, 0.16]])
    params = binding.params({"b": 4.0, "c": 0.5}, psi=psi)
    reported = binding.values(params)
    expected = {"b": 4.0, "c": 0.5, "sd(a)": 0.2, "sd(b)": 0.3, "sd(c)": 0.4}
    for name, value in expected.items():
        assert reported[name] == pytest.approx(value, rel=1e-12)
    assert reported["corr(a, b)"] == pytest.approx(0.01 / 0.06, rel=1e-12)
    again = binding.params({"sd(a)": 0.5}, psi=psi)
    # SDs given with a psi do not change its correlations
    assert binding.values(again)["sd(a)"] == pytest.approx(0.5, rel=1e-12)
    assert binding.values(again)["corr(a, b)"] == pytest.approx(0.01 / 0.06, rel=1e-12)


def test_an_sd_replaces_a_zero_variance_of_psi() -> None:
    binding = bind(decay_model("full"), decay_data())
    psi = np.diag([0.04, 0.0, 0.09])
    assert binding.values(binding.params(psi=psi))["sd(b)"] == 0.0
    assert binding.values(binding.params({"sd(b)": 0.7}, psi=psi))["sd(b)"] == pytest.approx(0.7)


def test_unknown_names_and_shapes_of_values_are_refused() -> None:
    binding = bind(decay_model(), decay_data())
    with pytest.raises(jn.ModelError, match=r"value 'sd\(d\)' is not a name of this model; did you mean"):
        binding.params({"sd(d)": 1.0})
    with pytest.raises(jn.ModelError, match=r"psi must have shape \(3, 3\), got \(2, 2\)"):
        binding.params(psi=np.eye(2))


@pytest.mark.parametrize("spec", [*COVARIANCES, "interleaved symmetry"])
def test_params_from_reported_values(spec: str) -> None:
    symmetric = Blocks(3, (((0, 2), CompoundSymmetry(2)), ((1,), Diagonal(1))))
    psi = np.array([[0.3, 0.0, -0.1], [0.0, 0.2, 0.0], [-0.1, 0.0, 0.3]])
    family, psi = COVARIANCES.get(spec, (symmetric, psi))
    model, data = decay_model(family), decay_data()
    params = model.params(data, {"a": 1.7}, psi=psi)
    again = model.params(data, model.values(params, data))
    for actual, expected in zip(
        (again.beta, again.covariance, again.error), (params.beta, params.covariance, params.error), strict=True
    ):
        assert actual == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_correlations_replace_those_of_psi() -> None:
    binding = bind(decay_model("full"), decay_data())
    reported = binding.values(binding.params({"corr(a, c)": -0.4, "sd(c)": 0.2}, psi=np.diag([0.04, 0.09, 0.16])))
    assert reported["corr(a, c)"] == pytest.approx(-0.4, rel=1e-12)
    assert reported["sd(c)"] == pytest.approx(0.2, rel=1e-12)
    assert reported["corr(a, b)"] == 0.0
    with pytest.raises(jn.ModelError, match=r"'corr\(a, c\)' must be a number in \[-1, 1\], got 1.2"):
        binding.params({"corr(a, c)": 1.2})
    with pytest.raises(jn.ModelError, match=r"'sd\(a\)' must be a number in \[0, inf\], got -1"):
        binding.params({"sd(a)": -1.0})
    with pytest.raises(jn.ModelError, match=r"positive semidefinite; .* cannot occur together"):
        binding.params({"corr(a, c)": 0.9, "corr(a, b)": 0.9, "corr(b, c)": -0.9})


def test_values_shared_by_effects_are_one_parameter() -> None:
    binding = bind(decay_model("compound symmetry"), decay_data())
    reported = binding.values(binding.params({"corr(a, b)": 0.4, "sd(c)": 0.2}))
    assert [reported[f"sd({name})"] for name in "abc"] == pytest.approx([0.2] * 3)
    assert [reported[f"corr({pair})"] for pair in ("a, b", "a, c", "b, c")] == pytest.approx([0.4] * 3)
    with pytest.raises(jn.ModelError, match=r"'corr\(b, c\)' is 0.5, and another value gives 0.4: .*a, b, c share"):
        binding.params({"corr(a, b)": 0.4, "corr(b, c)": 0.5})
    with pytest.raises(jn.ModelError, match=r"'sd\(b\)' is 0.3, and another value gives 0.2"):
        bind(decay_model("identity"), decay_data()).params({"sd(a)": 0.2, "sd(b)": 0.3})


@pytest.mark.parametrize(
    ("spec", "psi", "message"),
    [
        ("full", np.eye(2), r"shape \(3, 3\), got \(2, 2\)"),
        ("full", np.diag([1.0, -1.0, 1.0]), "variances >= 0"),
        ("full", np.diag([1.0, np.nan, 1.0]), "finite"),
        ("full", np.array([[1, 0.5, 0], [0.4, 1, 0], [0, 0, 1]]), "symmetric; it has 0.5 and 0.4 .* 'a' and 'b'"),
        ("full", np.array([[1, 2, 0], [2, 1, 0], [0, 0, 1.0]]), "positive semidefinite"),
        ("full", np.array([[0, 0.1, 0], [0.1, 1, 0], [0, 0, 1.0]]), "positive semidefinite"),
        (
            "diagonal",
            np.array([[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1.0]]),
            "Diagonal: the covariance of 'a' and 'b' is 0.5",
        ),
        (
            [["a", "b"], ["c"]],
            np.array([[1, 0, 0.1], [0, 1, 0], [0.1, 0, 1.0]]),
            "Blocks: the covariance of 'a' and 'c'",
        ),
        ("identity", np.diag([1.0, 1.0, 4.0]), "MultipleOfIdentity: the variance of .* in the nearest member"),
        ("compound symmetry", np.eye(3) + 0.2 * np.eye(3)[::-1], "CompoundSymmetry"),
    ],
)
def test_psi_outside_the_family_is_refused(spec, psi: np.ndarray, message: str) -> None:
    model = decay_model(spec)
    with pytest.raises(jn.ModelError, match=message):
        model.params(decay_data(), psi=psi)
    with pytest.raises(jn.ModelError, match=message):
        bind(jn.NLMEModel(decay, model.parameters, spec, psi=psi), decay_data())


def test_reserved_names_of_records_are_refused() -> None:
    for name in ("names", "values", "entry_kind", "keys"):
        with pytest.raises(jn.ModelError, match=f"a parameter cannot be called '{name}': phi.{name} is reserved"):
            jn.Parameter(name, 1.0)
    y, group = np.ones(4), [0, 0, 1, 1]
    model = jn.NLMEModel(mean, {"mu": 1.0})
    for name in ("names", "values", "entry_kind", "keys", "mask", "observed"):
        with pytest.raises(jn.ModelError, match=rf"column '{name}' cannot be read .* x\.{name} .* Rename"):
            bind(model, jn.GroupedData.from_arrays(y, group, {name: y}))
        data = jn.GroupedData.from_arrays(y, group, {"t": y})
        with pytest.raises(jn.ModelError, match=rf"column '{name}' cannot be read .* v\.doses\.{name} "):
            bind(model, data.with_table("doses", {"id": [0, 1], name: [1.0, 2.0]}, "id", [name]))
    with pytest.raises(jn.ModelError, match=r"v\.values"):
        bind(model, jn.GroupedData.from_arrays(y, group, {"t": y}, {"values": y}))
    # v has no mask, so a column may be called so
    record = bind(model, jn.GroupedData.from_arrays(y, group, {"t": y}, {"mask": y})).problem.buckets[0].v
    assert record.mask.tolist() == [1.0, 1.0]


def test_unknown_names_of_a_record_are_reported_with_similar_ones() -> None:
    def misspelt(phi, x):
        return phi.alpha + x.tme

    binding = bind(jn.NLMEModel(misspelt, {"alpah": 1.0}), decay_data())
    with pytest.raises(AttributeError, match="no parameter is called 'alpha'; did you mean 'alpah'"):
        jn.log_likelihood(binding.model, binding.start, binding.problem, "fo")


def test_arguments_of_the_model_function_in_the_wrong_order() -> None:
    binding = bind(jn.NLMEModel(lambda x, phi: phi.rate * x.time, {"rate": 1.0}), decay_data())
    with pytest.raises(
        AttributeError, match=r"no predictor \(x\) is called 'rate'.* It is in phi: .* in the order f\(phi, x\)"
    ):
        jn.log_likelihood(binding.model, binding.start, binding.problem, "fo")
