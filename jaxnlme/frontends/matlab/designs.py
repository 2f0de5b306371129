"""Design, CovPattern and ParamTransform arguments of nlmefit and nlmefitsa, converted to arguments of NLMEModel."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnlme.errors import MESSAGES, OptionError, shown, some
from jaxnlme.frontends.matlab.data import MatlabData
from jaxnlme.frontends.matlab.options import choice
from jaxnlme.frontends.matlab.settings import MATLAB
from jaxnlme.model.covariance.specification import pattern_blocks
from jaxnlme.model.covariance.structures import AbstractCovariance, Diagonal, LogCholesky, LogMatrix
from jaxnlme.model.parameters import Parameter
from jaxnlme.model.transforms import AbstractTransform, transform

TRANSFORMS = ("identity", "log", "probit", "logit")
FIXED = ("FEParamsSelect", "FEConstDesign", "FEGroupDesign", "FEObsDesign")
RANDOM = ("REParamsSelect", "REConstDesign", "REGroupDesign", "REObsDesign")


@dataclasses.dataclass(frozen=True, eq=False)
class Designs:
    """Designs, transforms and starting values of phi = h(A beta + B b), in the layout of NLMEModel.

    `fixed`, `random`: A and B, (phi, k), (groups, phi, k) or (groups, obs, phi, k); `beta` (F,), the start; `pattern`
    (R, R), the entries of psi that are not zero; `transforms`, h of each parameter; `cov0` (R, R), the start of psi if
    Cov0 is given, None for the default, whose SDs are `sd_factor` times those of `jn.fit`. The properties `parameters`
    and `psi` (R, R), the starting covariance, follow from these.
    """

    fixed: np.ndarray
    random: np.ndarray
    beta: np.ndarray
    pattern: np.ndarray
    transforms: tuple[AbstractTransform, ...]
    cov0: np.ndarray | None = None
    sd_factor: float = 1.0

    def covariance(self, parametrization: str) -> AbstractCovariance:
        """The family of psi by CovParameterization: full blocks by their matrix logarithm or their Cholesky factor."""
        size, full = len(self.pattern), LogMatrix if parametrization == "logm" else LogCholesky
        if not (self.pattern & ~np.eye(size, dtype=bool)).any():
            return Diagonal(size)
        return full(size) if self.pattern.all() else pattern_blocks(self.pattern.astype(int), full)

    @property
    def parameters(self) -> list[Parameter]:
        """One Parameter for each entry of phi; its start is that of the group with the average design."""
        typical = np.mean(self.fixed, axis=tuple(range(self.fixed.ndim - 2))) @ self.beta
        out = []
        for k, (value, h) in enumerate(zip(typical, self.transforms, strict=True)):
            out.append(Parameter(f"phi{k}", value if h.name == "identity" else float(h.to_natural(0.0)), h))
        return out

    @property
    def psi(self) -> np.ndarray:
        """Starting value of psi: `cov0`, or diagonal.

        The SD of an effect is the smallest, over the parameters it enters, of the parameter's SD divided by the root
        mean square of the effect's entries in B. A parameter's SD is 0.5 on a transformed scale and 0.3 of its typical
        value otherwise. All are multiplied by `sd_factor`.
        """
        if self.cov0 is not None:
            return self.cov0
        sds = np.array([p.sd_start("") for p in self.parameters])
        size = np.sqrt(np.mean(self.random**2, axis=tuple(range(self.random.ndim - 2))))
        candidates = np.where(size > 0, sds[:, None] / np.where(size > 0, size, 1.0), np.inf)
        sd = np.min(candidates, axis=0, initial=np.inf)
        return np.diag((self.sd_factor * np.where(np.isfinite(sd), sd, 1.0)) ** 2)


def designs(arguments: Mapping[str, Any], beta0: Any, data: MatlabData) -> Designs:
    """Read designs, transforms and starting values from the name-value arguments.

    **Arguments:** `arguments`: name-value arguments with their defaults; `beta0` (F,) or (F, 1); `data`.
    **Returns:** a Designs.
    **Raises:** OptionError naming the argument, the shape expected and the shape received.
    """
    beta = _beta(beta0)
    fixed, random = _exclusive(arguments, FIXED), _exclusive(arguments, RANDOM)
    n_phi = _count(arguments, fixed, random, len(beta))
    A, columns = _design(fixed, arguments, n_phi, data)
    B, _ = _design(random, arguments, n_phi, data)
    if A.shape[-1] != len(beta):
        raise OptionError(f"beta0 has length {len(beta)}; expected {A.shape[-1]}, {columns}.")
    if B.shape[-1] == 0:
        raise OptionError(f"{random} leaves no random effect; expected at least one (jn.fit takes models without).")
    pattern = _pattern(arguments["CovPattern"], B.shape[-1])
    transforms, cov0 = _transforms(arguments["ParamTransform"], n_phi), _cov0(arguments.get("Cov0"), pattern)
    return Designs(A, B, beta, pattern, transforms, cov0)


def _beta(beta0: Any) -> np.ndarray:
    """Check `beta0`, return it as a vector (F,).  **Raises:** OptionError where it is not one of finite numbers."""
    try:
        beta = np.asarray(beta0, float)
    except (TypeError, ValueError):
        raise OptionError(f"beta0 must be a vector of numbers; received {type(beta0).__name__}.") from None
    if beta.ndim > 2 or (beta.ndim == 2 and 1 not in beta.shape) or beta.size == 0:
        raise OptionError(f"beta0 has shape {beta.shape}; expected (F,), one start for each fixed effect.")
    beta = beta.reshape(-1)
    if not np.isfinite(beta).all():
        raise OptionError(f"beta0 must be finite; received {beta.tolist()}.")
    return beta


def _exclusive(arguments: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """The given one of the mutually exclusive arguments `names`, or None.  **Raises:** OptionError for several."""
    names_given = [name for name in names if arguments[name] is not None]
    if len(names_given) > 1:
        raise OptionError(f"{some(names_given)} were given; at most one of {some(names)} may be.")
    return names_given[0] if names_given else None


def _count(arguments: Mapping[str, Any], fixed: str | None, random: str | None, n_beta: int) -> int:
    """P, the number of parameters: given by designs, masks and ParamTransform; indices give a lower bound only, and the
    length of beta0 is used where no argument determines P.

    **Raises:** OptionError where the arguments contradict each other.
    """
    exact: dict[str, int] = {}
    least: dict[str, int] = {}
    for name in (fixed, random):
        if name is None:
            continue
        value = np.asarray(arguments[name])
        if not name.endswith("Select"):
            exact[name] = value.shape[0] if value.ndim else 0
        elif value.dtype == bool:
            exact[name] = value.size
        else:
            least[name] = _indices(name, value).max(initial=-1) + 1
    if arguments["ParamTransform"] is not None:
        if np.ndim(np.asarray(arguments["ParamTransform"], object)) == 0 and n_beta > 1:
            raise OptionError(
                f"ParamTransform must be a vector with an entry for each parameter, such as [0, 1]; received "
                f"{arguments['ParamTransform']!r}."
            )
        exact["ParamTransform"] = len(np.atleast_1d(np.asarray(arguments["ParamTransform"], object)))
    if fixed is None and len(set(exact.values()) | {n_beta}) > 1:
        claims = some([f"{name} says {n}" for name, n in exact.items()])
        raise OptionError(
            f"beta0 has length {n_beta}, and {claims}: without an FE argument every parameter has one fixed effect."
        )
    if len(set(exact.values())) > 1:
        claims = some([f"{name} says {n}" for name, n in exact.items()])
        raise OptionError(f"the number of parameters, P, is not clear: {claims}.")
    n_phi = next(iter(exact.values())) if exact else n_beta if fixed is None else max(least.values())
    for name, n in least.items():
        if n > n_phi:
            raise OptionError(
                f"{name} names parameter {n - 1} of {n_phi}; indices count from 0 here, so {n_phi - 1} is the last."
            )
    return n_phi


def _indices(name: str, value: np.ndarray) -> np.ndarray:
    """Positions counted from 0.  **Raises:** OptionError where `value` does not hold distinct whole numbers >= 0."""
    flat = value.reshape(-1)
    whole = flat.size == 0 or (flat.dtype.kind in "iuf" and np.array_equal(flat, np.round(flat)) and (flat >= 0).all())
    if not whole or len(np.unique(flat)) != flat.size:
        raise OptionError(
            f"{name} must list parameters once each, by indices that count from 0, or be a mask of truth values; "
            f"received {value.tolist()}."
        )
    return flat.astype(int)


def _design(name: str | None, arguments: Mapping[str, Any], n_phi: int, data: MatlabData) -> tuple[np.ndarray, str]:
    """The design in the layout of NLMEModel, and the number of columns it implies in words for messages."""
    if name is None:
        return np.eye(n_phi), "one start for each parameter"
    value = np.asarray(arguments[name])
    if name.endswith("Select"):
        chosen = np.flatnonzero(value) if value.dtype == bool else _indices(name, value)
        return np.eye(n_phi)[:, chosen], f"one start for each parameter in {name}"
    try:
        value = value.astype(float)
    except (TypeError, ValueError):
        raise OptionError(f"{name} must hold numbers; received dtype {value.dtype}.") from None
    letter = "F" if name.startswith("FE") else "R"
    pages = {"Const": (), "Group": (data.data.n_groups,), "Obs": (data.n_rows,)}[name[2:-6]]
    expected = f"({', '.join(map(str, (n_phi, letter, *pages)))})"
    if value.ndim != 2 + len(pages) or value.shape[2:] != pages or value.shape[0] != n_phi:
        meaning = {"Const": "", "Group": ", a page for each group", "Obs": ", a page for each observation"}[name[2:-6]]
        raise OptionError(f"{name} has shape {value.shape}; expected {expected}{meaning}.")
    if not np.isfinite(value).all():
        raise OptionError(f"{name} has {int((~np.isfinite(value)).sum())} entries that are not finite.")
    columns = f"one start for each column of {name} {value.shape}"
    if not pages:
        return value, columns
    pages_first = np.moveaxis(value, -1, 0)
    return (pages_first if name.endswith("GroupDesign") else pages_first[data.source]), columns


def _pattern(cov_pattern: Any, n: int) -> np.ndarray:
    """CovPattern as truth values (R, R), from zeros and ones or from labels of blocks; the diagonal is always true. The
    covariance family completes it to a block diagonal.

    **Raises:** OptionError for another shape, other values or a pattern that is not symmetric.
    """
    if cov_pattern is None:
        return np.eye(n, dtype=bool)
    pattern = np.asarray(cov_pattern)
    if isinstance(cov_pattern, str):
        raise OptionError(
            f"CovPattern must be an array; "
            f"received {shown(cov_pattern)}. Expected ({n}, {n}), a pattern of zeros and ones "
            f"(np.ones(({n}, {n})) for a full psi), or ({n},), a label for each random effect."
        )
    if pattern.shape in ((n,), (1, n)) and pattern.shape != (n, n):
        labels = pattern.reshape(n)
        return labels[:, None] == labels[None, :]
    if n == 1 and pattern.size == 1:
        return np.ones((1, 1), bool)
    if pattern.shape != (n, n):
        raise OptionError(
            f"CovPattern has shape {pattern.shape}; expected ({n}, {n}), a pattern of zeros and ones, or ({n},), a "
            "label for each random effect."
        )
    if pattern.dtype != bool and not (pattern.dtype.kind in "iuf" and np.isin(pattern, (0, 1)).all()):
        raise OptionError(
            f"CovPattern must hold zeros and ones; received {np.unique(pattern).tolist()[: MESSAGES.items]}."
        )
    pattern = pattern.astype(bool)
    offending = np.argwhere(pattern != pattern.T)
    if len(offending):
        j, k = offending[0]
        raise OptionError(
            f"CovPattern cannot be completed to a block diagonal: it is not symmetric, entry ({j}, {k}) is "
            f"{int(pattern[j, k])} and ({k}, {j}) is {int(pattern[k, j])}."
        )
    return pattern | np.eye(n, dtype=bool)


def _cov0(cov0: Any, pattern: np.ndarray) -> np.ndarray | None:
    """Cov0, the start of psi (R, R); None where it was not given.

    **Raises:** OptionError where it is not symmetric and positive definite, or not zero where psi is.
    """
    if cov0 is None:
        return None
    n = len(pattern)
    matrix = np.asarray(cov0)
    if matrix.shape != (n, n) and not (n == 1 and matrix.size == 1):
        raise OptionError(f"Cov0 has shape {matrix.shape}; expected ({n}, {n}), a start for psi.")
    matrix = np.asarray(matrix.reshape(n, n), float) if matrix.dtype.kind in "biuf" else np.full((n, n), np.nan)
    if not np.isfinite(matrix).all():
        raise OptionError(f"Cov0 must hold finite numbers; received {np.asarray(cov0).tolist()}.")
    sd = np.sqrt(np.maximum(np.diag(matrix), 0.0))
    if (sd == 0).any() or (np.abs(matrix - matrix.T) > MATLAB.symmetry * np.outer(sd, sd)).any():
        raise OptionError(f"Cov0 must be symmetric with positive variances; received {matrix.tolist()}.")
    least = float(np.linalg.eigvalsh(matrix / np.outer(sd, sd))[0])
    if least <= n * np.finfo(float).eps:
        raise OptionError(
            f"Cov0 must be positive definite; the least eigenvalue of its correlations is {least:.3g}. Received "
            f"{matrix.tolist()}."
        )
    # Effects connected by a chain of ones belong to one block.
    joined = np.linalg.matrix_power(pattern.astype(float), n) > 0
    offending = np.argwhere((matrix != 0) & ~joined)
    if len(offending):
        j, k = offending[0]
        raise OptionError(
            f"Cov0 has {matrix[j, k]:g} in entry ({j}, {k}), where psi is zero by CovPattern (diagonal by default); "
            f"give zero there, or CovPattern=np.ones(({n}, {n})) for a full psi."
        )
    return (matrix + matrix.T) / 2.0


def _transforms(param_transform: Any, n_phi: int) -> tuple[AbstractTransform, ...]:
    """ParamTransform as transforms, from codes 0 to 3 or names."""
    if param_transform is None:
        return (transform("identity"),) * n_phi
    entries = np.atleast_1d(np.asarray(param_transform, object)).reshape(-1).tolist()
    names = []
    for entry in entries:
        if isinstance(entry, str):
            names.append(choice("ParamTransform", entry, TRANSFORMS))
        elif isinstance(entry, (int, float, np.number)) and entry in range(len(TRANSFORMS)):
            names.append(TRANSFORMS[int(entry)])
        else:
            raise OptionError(
                f"ParamTransform must hold 0 (identity), 1 (log), 2 (probit) or 3 (logit), or these names; received "
                f"{entry!r}."
            )
    return tuple(transform(name) for name in names)
