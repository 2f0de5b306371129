"""The choice of compiler options by the amount of work and the length of a program."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from jaxnlme.numerics import compiling
from jaxnlme.numerics.settings import COMPUTATION


def halved(x):
    return jnp.where(x > 1.0, x / 2.0, x)


def looped(x):
    return jax.lax.while_loop(lambda x: x > 1.0, halved, x)


def long(x):
    for _ in range(COMPUTATION.long_program):
        x = x + 1.0
    return x


def test_equations_are_counted_inside_loops_and_functions() -> None:
    body = compiling.n_equations(jax.jit(halved).trace(3.0).jaxpr)
    assert body >= 3  # comparison, division, selection
    # the loop itself, its condition and its body
    assert compiling.n_equations(jax.jit(looped).trace(3.0).jaxpr) == body + 2


@pytest.mark.skipif(not compiling.HAS_EMITTER_OPTION, reason="this jaxlib has no option for fusion emitters")
def test_long_programs_go_without_fusion_emitters() -> None:
    x = jnp.asarray(1.0)
    for fn, is_long in ((halved, False), (long, True)):
        program = compiling.compiled(fn, COMPUTATION.rows_if_run_often, often=True)
        assert program.of_long is not None
        chosen = program._for((x,))
        assert chosen is (program.of_long.plain if is_long else program.plain)
        few = compiling.compiled(fn, COMPUTATION.rows_if_run_often - 1, often=True)
        assert few.of_long is None
