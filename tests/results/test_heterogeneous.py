"""Covariances that differ by a factor: the same as separate closed forms, tables, held values, refusals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn


def line(phi, x):
    return phi.level + phi.slope * x.t


def table(seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    out = []
    for subject in range(16):
        sex = "F" if subject % 2 else "M"
        b = rng.normal() * (2.0 if sex == "F" else 0.5)
        for occasion in (1, 2):
            c = rng.normal() * 0.3
            out += [(subject, sex, occasion, t, 5 + b + c + 0.5 * t + rng.normal() * 0.4) for t in range(4)]
    return pd.DataFrame(out, columns=["id", "sex", "occ", "t", "y"])


def model(covariance) -> jn.NLMEModel:
    parameters = [jn.Parameter("level", 4.0, random=["id", "occ"], sd=1.0), jn.Parameter("slope", 0.4)]
    return jn.NLMEModel(line, parameters, covariance=covariance)


@pytest.fixture(scope="module")
def data() -> jn.GroupedData:
    return jn.GroupedData.from_frame(table(), ["id", "occ"], "y", ["t"], ["sex"])


BY_SEX = {"id": jn.covariances.Heterogeneous("diagonal", by="sex")}


def closed_form(frame, sds, sd_occ, a, level, slope):
    total = 0.0
    for _, rows in frame.groupby("id"):
        n, occ = len(rows), rows["occ"].to_numpy()
        v = sds[rows["sex"].iloc[0]] ** 2 * np.ones((n, n)) + a**2 * np.eye(n)
        v += sd_occ**2 * (occ[:, None] == occ)
        r = rows["y"].to_numpy() - level - slope * rows["t"].to_numpy()
        total -= 0.5 * (r @ np.linalg.solve(v, r) + np.linalg.slogdet(2 * np.pi * v)[1])
    return total


def test_likelihood_and_tables(data):
    fit = jn.fit(model(BY_SEX), data, "focei", progress=False)
    assert fit.converged
    values = fit.values
    assert list(values) == ["level", "slope", "sd(level[F])", "sd(level[M])", "sd(level|occ)", "a"]
    sds = {"F": values["sd(level[F])"], "M": values["sd(level[M])"]}
    expected = closed_form(table(), sds, values["sd(level|occ)"], values["a"], values["level"], values["slope"])
    assert fit.log_likelihood == pytest.approx(expected, rel=1e-10)
    effects = fit.random_effects["id"]
    assert effects["level[F]"].notna().tolist() == [bool(k % 2) for k in range(16)]
    assert (effects["level[F]"].isna() == effects["level[M]"].notna()).all()
    assert fit.shrinkage.between(0, 60).sum() >= 2  # over the subjects of a sex only
    predicted = fit.predict(table().head(8))
    assert predicted.to_numpy() == pytest.approx(fit.predict().to_numpy()[:8], rel=1e-9)


def test_equal_variances_are_the_plain_model(data):
    plain, by_sex = model("diagonal"), model(BY_SEX)
    at = {"sd(level|occ)": 0.3, "a": 0.5}
    value = jn.log_likelihood(plain, plain.params(data, at | {"sd(level)": 1.2}), data)
    other = jn.log_likelihood(by_sex, by_sex.params(data, at | {"sd(level[F])": 1.2, "sd(level[M])": 1.2}), data)
    assert float(other) == pytest.approx(float(value), rel=1e-10)


def test_a_factor_that_varies_within_its_units_is_refused(data):
    with pytest.raises(jn.ModelError, match="'occ', which varies within a unit of 'id'"):
        jn.bind(model({"id": jn.covariances.Heterogeneous("diagonal", by="occ")}), data)


def test_unknown_column_and_nesting(data):
    with pytest.raises(jn.ModelError, match=r"column 'sexx' .* is not in the data"):
        jn.bind(model({"id": jn.covariances.Heterogeneous("diagonal", by="sexx")}), data)
    with pytest.raises(jn.OptionError, match="can differ by one factor"):
        jn.covariances.Heterogeneous(jn.covariances.Heterogeneous("full", by="sex"), by="t")
