"""Linear algebra of small dense matrices: Cholesky factors and triangular solves that vectorise over groups.

Matrices of up to `COMPUTATION.unrolled` rows are factored by straight-line code on scalars, which vmap turns into
elementwise arithmetic; larger ones by LAPACK (for tiny matrices a library call each takes longer than the arithmetic).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from jaxnlme.numerics.settings import COMPUTATION
from jaxnlme.typing import Matrix, Scalar, Vector


def cholesky(matrix: Matrix) -> Matrix:
    """Lower factor L with L L' = `matrix` (n, n), symmetric positive definite; NaN where it is not."""
    n = matrix.shape[-1]
    if n > COMPUTATION.unrolled:
        return jnp.linalg.cholesky(matrix)
    lower: list[list] = [[jnp.zeros(())] * n for _ in range(n)]
    for j in range(n):
        lower[j][j] = jnp.sqrt(_less_products(_entry(matrix, j, j), lower[j][:j], lower[j][:j]))
        reciprocal = 1.0 / lower[j][j]
        for i in range(j + 1, n):
            lower[i][j] = _less_products(_entry(matrix, i, j), lower[i][:j], lower[j][:j]) * reciprocal
    return _stack(lower)


def guarded_cholesky(matrix: Matrix, floor: float = COMPUTATION.least_pivot) -> tuple[Matrix, Scalar]:
    """Modified Cholesky factor of a symmetric `matrix` (n, n): of the matrix itself if it is positive definite.

    Pivots d of the LDL' factorisation below `floor` are replaced by max(|d|, 1), so that the factor always gives a
    descent direction; a matrix whose pivots are all above the floor is factored exactly. The default floor is meant for
    a curvature in whitened effects, whose prior part is the identity.

    **Arguments:** `matrix` (n, n); `floor`: the smallest pivot that is kept.
    **Returns:** the lower factor (n, n), and a boolean scalar, true where a pivot was replaced.
    **Source:** Gill, Murray and Wright (1981), Practical Optimization, section 4.4.2.2, with the pivot's own size.
    """
    n = matrix.shape[-1]
    if n > COMPUTATION.unrolled:
        return _guarded_columns(matrix, floor)
    lower: list[list] = [[jnp.zeros(())] * n for _ in range(n)]
    changed = jnp.zeros((), bool)
    for j in range(n):
        pivot = _less_products(_entry(matrix, j, j), lower[j][:j], lower[j][:j])
        low = ~(pivot >= floor)
        changed = changed | low
        lower[j][j] = jnp.sqrt(jnp.where(low, jnp.maximum(jnp.abs(pivot), 1.0), pivot))
        reciprocal = 1.0 / lower[j][j]
        for i in range(j + 1, n):
            lower[i][j] = _less_products(_entry(matrix, i, j), lower[i][:j], lower[j][:j]) * reciprocal
    return _stack(lower), changed


def _guarded_columns(matrix: Matrix, floor: float) -> tuple[Matrix, Scalar]:
    """`guarded_cholesky` as a loop over columns. Eigenvectors are no alternative: two concurrent batches of them can
    deadlock in jaxlib's pool of two threads, and their derivatives are NaN at equal eigenvalues."""
    rows = jnp.arange(matrix.shape[-1])

    def column(j, carry):
        lower, changed = carry
        pivot = matrix[j, j] - jnp.sum(lower[j] ** 2)
        low = ~(pivot >= floor)
        root = jnp.sqrt(jnp.where(low, jnp.maximum(jnp.abs(pivot), 1.0), pivot))
        below = jnp.where(rows > j, (matrix[:, j] - lower @ lower[j]) / root, jnp.where(rows == j, root, 0.0))
        return lower.at[:, j].set(below), changed | low

    return jax.lax.fori_loop(0, matrix.shape[-1], column, (jnp.zeros_like(matrix), jnp.zeros((), bool)))


def forward_solve(lower: Matrix, right: Vector) -> Vector:
    """The solution u (n,) of L u = `right` for a lower triangular L (n, n)."""
    n = lower.shape[-1]
    if n > COMPUTATION.unrolled:
        return solve_triangular(lower, right, lower=True)
    out: list = []
    for i in range(n):
        row = [_entry(lower, i, k) for k in range(i + 1)]
        out.append(_less_products(_entry(right, i), row[:i], out) * (1.0 / row[i]))
    return jnp.stack(out) if out else right


def backward_solve(lower: Matrix, right: Vector) -> Vector:
    """The solution u (n,) of L' u = `right` for a lower triangular L (n, n)."""
    n = lower.shape[-1]
    if n > COMPUTATION.unrolled:
        return solve_triangular(lower, right, lower=True, trans=1)
    out: list = [None] * n
    for i in reversed(range(n)):
        column = [_entry(lower, k, i) for k in range(i, n)]
        out[i] = _less_products(_entry(right, i), column[1:], out[i + 1 :]) * (1.0 / column[0])
    return jnp.stack(out) if out else right


def cholesky_solve(lower: Matrix, right: Vector) -> Vector:
    """The solution u (n,) of L L' u = `right` for a lower triangular L (n, n)."""
    return backward_solve(lower, forward_solve(lower, right))


def cholesky_inverse(lower: Matrix) -> Matrix:
    """The inverse (n, n) of L L' for a lower triangular L (n, n)."""
    return jax.vmap(lambda axis: cholesky_solve(lower, axis))(jnp.eye(lower.shape[-1], dtype=lower.dtype))


def half_logdet(lower: Matrix) -> Scalar:
    """Half the log-determinant of L L' for a lower triangular L (n, n): the sum of log L_kk."""
    return jnp.sum(jnp.log(jnp.diagonal(lower)))


def lower_product(lower: Matrix, vector: Vector) -> Vector:
    """L v (n,) for a lower triangular L (n, n) and `vector` v (n,), by elementwise operations for small n."""
    n = lower.shape[-1]
    if n > COMPUTATION.unrolled:
        return lower @ vector
    rows = [sum((lower[i, k] * vector[k] for k in range(1, i + 1)), lower[i, 0] * vector[0]) for i in range(n)]
    return jnp.stack(rows) if rows else vector


def small_product(a: Matrix, b: Matrix | Vector) -> Matrix | Vector:
    """a b for `a` (m, n) and `b` (n, k) or (n,), by elementwise operations for small n: for a batch of tiny products
    XLA would otherwise make a library call or a loop each."""
    n = a.shape[-1]
    if n > COMPUTATION.unrolled or not n:
        return a @ b
    slices = jax.lax.slice_in_dim
    if b.ndim == 1:
        terms = [slices(a, k, k + 1, axis=1)[:, 0] * _entry(b, k) for k in range(n)]
    else:
        terms = [slices(a, k, k + 1, axis=1) * slices(b, k, k + 1, axis=0) for k in range(n)]
    return sum(terms[1:], terms[0])


def expm(matrix: Matrix) -> Matrix:
    """The exponential of a symmetric `matrix` (n, n): the Taylor polynomial of `matrix` / 2^8, squared eight times.

    The mean eigenvalue is subtracted first. For small symmetric matrices this is as exact as Pade approximants,
    compiles in a third of the time of `jax.scipy.linalg.expm`, and does not call LAPACK.

    **Source:** Moler and Van Loan (2003), SIAM Review 45, 3-49, method 3.
    """
    n = matrix.shape[-1]
    eye = np.eye(n)
    middle = jnp.trace(matrix) / n
    degree, squarings = COMPUTATION.taylor_degree, COMPUTATION.squarings
    small = (matrix - middle * eye) / 2.0**squarings
    out = jax.lax.fori_loop(0, degree, lambda k, out: eye + small @ out / (degree - k), jnp.eye(n, dtype=matrix.dtype))
    out = jax.lax.fori_loop(0, squarings, lambda _, out: out @ out, out)
    return jnp.exp(middle) * out


@np.errstate(over="ignore")
def unit_diagonal(matrix: np.ndarray, least: float = COMPUTATION.least_diagonal) -> tuple[np.ndarray, np.ndarray]:
    """A finite symmetric `matrix` (n, n) scaled to a unit diagonal, on the host, and the scale (n,): the square roots
    of the absolute values of its diagonal, `least` at least.

    Entries off the diagonal of a matrix that is far from positive definite are limited, so that its eigenvalues can be
    computed.
    """
    scale = np.sqrt(np.maximum(np.abs(np.diag(matrix)), least))
    limit = COMPUTATION.largest_scaled_entry
    return np.clip(matrix / scale[:, None] / scale[None, :], -limit, limit), scale


def accurate_eigh(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (m, n), in no order, and eigenvectors (m, n, n) of symmetric positive definite `matrices` (m, n, n),
    on the host; the small eigenvalues have relative accuracy where rows are in very different units.

    The error of the usual algorithms is that of the largest eigenvalue, which can be more than a small one. Where that
    is so, the eigenvalues are the squared singular values of D L, L L' the Cholesky factorisation of the correlation
    matrix and D the roots of the diagonal, by one-sided Jacobi rotations. A matrix that is not positive definite has
    eigenvalues of NaN.

    **Source:** Drmac and Veselic (2008), SIAM Journal on Matrix Analysis and Applications 29, 1322-1362.
    """
    values, vectors = np.linalg.eigh(matrices)
    if not values.size:
        return values, vectors
    from scipy.linalg import get_lapack_funcs

    potrf, gejsv = get_lapack_funcs(("potrf", "gejsv"), dtype=values.dtype)
    for k in np.flatnonzero(values[:, 0] <= COMPUTATION.relative_eigenvalue * values[:, -1]):
        scaled, scale = unit_diagonal(matrices[k])
        factor, failed = potrf(scaled, lower=1, clean=1)
        values[k] = np.nan
        if failed or not (np.diag(matrices[k]) > 0.0).all():
            continue
        # Columns of very different lengths, each in full accuracy ("C"): left vectors are not needed ("N").
        singular, _, right, work, _, failed = gejsv(
            (factor * scale[:, None]).T, joba=0, jobu=3, jobv=0, jobr=0, jobt=0, jobp=0
        )
        if not failed:
            values[k], vectors[k] = (singular * (work[0] / work[1])) ** 2, right
    return values, vectors


def semidefinite_cholesky(psi: np.ndarray, tolerance: float = COMPUTATION.zero_pivot) -> np.ndarray:
    """Lower factor of a symmetric positive *semi*definite matrix, on the host; zero pivots give zero columns.

    **Arguments:** `psi` (n, n); `tolerance`: pivots below this fraction of their diagonal entry count as zero.
    **Returns:** lower triangular (n, n).
    **Raises:** ValueError where an eigenvalue is below -`tolerance` times the largest diagonal entry. (Eigenvalues, not
    pivots, are compared: after a small pivot, rounding can make a zero pivot that negative.)
    """
    psi = np.array(psi, float)
    n = psi.shape[0]
    lower = np.zeros_like(psi)
    scale = max(float(np.max(np.abs(np.diag(psi)))), np.finfo(float).tiny) if n else 1.0
    if n and np.isfinite(psi).all() and np.linalg.eigvalsh(psi)[0] < -tolerance * scale:
        raise ValueError("the matrix is not positive semidefinite")
    for j in range(n):
        pivot = psi[j, j] - lower[j, :j] @ lower[j, :j]
        if pivot <= tolerance * psi[j, j] or pivot <= 0.0:
            continue
        lower[j, j] = np.sqrt(pivot)
        lower[j + 1 :, j] = (psi[j + 1 :, j] - lower[j + 1 :, :j] @ lower[j, :j]) / lower[j, j]
    return lower


def _entry(array: Any, *index: int) -> Scalar:
    """One entry of `array`: traced in a fifth of the time that indexing takes."""
    return jax.lax.squeeze(jax.lax.slice(array, index, [k + 1 for k in index]), range(len(index)))


def _less_products(value: Scalar, left: list, right: list) -> Scalar:
    """`value` minus the scalar product of the lists `left` and `right`."""
    products = [a * b for a, b in zip(left, right, strict=True)]
    return value - sum(products[1:], products[0]) if products else value


def _stack(rows: list[list]) -> jax.Array:
    return jnp.stack([jnp.stack(row) for row in rows]) if rows else jnp.zeros((0, 0))
