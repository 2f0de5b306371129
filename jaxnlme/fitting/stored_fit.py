"""A fit read from a file without its model: numbers and tables as they were saved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import OptionError
from jaxnlme.results.criteria import Criteria, HasCriteria
from jaxnlme.results.fit_status import FitStatus
from jaxnlme.results.record import FitRecord

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.files import Archive


class StoredPage:
    """The summary of a fit as it was saved: text when printed, HTML in a notebook."""

    def __init__(self, page: dict[str, str]):
        self._page = page

    def __str__(self) -> str:
        return self._page["text"]

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self._page["html"]


class StoredFit(HasCriteria):
    """A fit read from a file without its model.

    It has the fields and tables of a `Fit` by the same names (`estimates`, `values`, `covariance`, `psi`,
    `random_effects`, `random_effects_se`, `shrinkage`, `criteria`, `aic`, `bic`, `status`, `options`, `versions`,
    `history`, `data`, ...). What needs the model (`predict`, `simulate`, `residuals`, `update`, refits, pictures)
    raises OptionError, which says how to load the file with it. `declaration` is the model in words.
    """

    def __init__(
        self,
        model: dict[str, Any],
        estimation: dict[str, Any],
        tables: dict[str, Any],
        page: dict[str, str],
        fingerprint: str,
        data: GroupedData,
        archive: Archive,
    ):
        self.declaration: str = model["declaration"]
        self.packed_names: tuple[str, ...] = tuple(model["packed"])
        self.criteria: Criteria = estimation["criteria"]
        self.iterations: int = estimation["iterations"]
        self.status: FitStatus = estimation["status"]
        self.converged: bool = estimation["converged"]
        self.method: str = estimation["method"]
        self.log_likelihood: float = estimation["log_likelihood"]
        self.restricted: bool = estimation["restricted"]
        for name in (
            "estimator", "interrupted", "stopped", "modes", "curvature", "group_log_likelihood", "monte_carlo_variance",
            "ess", "log_prior", "information", "at_zero", "history", "options", "versions", "timings", "totals",
        ):  # fmt: skip
            setattr(self, name, estimation[name])
        self.estimates: pd.DataFrame = tables["estimates"]
        self.values: dict[str, float] = tables["values"]
        self.covariance: pd.DataFrame | None = tables["covariance"]
        self.psi: pd.DataFrame = tables["psi"]
        self.random_effects: pd.DataFrame = tables["random_effects"]
        self.random_effects_se: pd.DataFrame = tables["random_effects_se"]
        self.shrinkage: pd.Series = tables["shrinkage"]
        self.fingerprint, self.data = fingerprint, data
        self._page, self._archive = page, archive

    @property
    def beta(self) -> pd.Series:
        """Fixed effects (fixed,), on the transformed scale."""
        return self.estimates.loc[self._fixed_effects, "estimate"].rename("beta").rename_axis(None)

    @property
    def _fixed_effects(self) -> list[str]:
        return list(self._archive.document["model"]["fixed_effects"])

    def summary(self) -> StoredPage:
        """The fit in a page, as it was saved."""
        return StoredPage(self._page)

    def save(self, path: str | Path) -> Path:
        """Writes the file again, with all that it held.

        **Arguments:** `path` of the new file.  **Returns:** the path.
        """
        from jaxnlme.fitting.storage import save_again

        return save_again(self._archive, path)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr_of_fit(name):
            raise AttributeError(f"a fit has no attribute {name!r}")
        raise OptionError(
            f"fit.{name} needs the model, and this file was read without it: pass the model, jn.load(path, "
            "model=model), or, for a file that you trust, jn.load(path, trust_code=True)."
        )

    def __repr__(self) -> str:
        return self._page["one_line"]

    def _repr_html_(self) -> str:
        return self._page["html"]


def hasattr_of_fit(name: str) -> bool:
    """True if a Fit has an attribute or field of this name."""
    from jaxnlme.fitting.fit import Fit

    return hasattr(Fit, name) or name in FitRecord.__dataclass_fields__
