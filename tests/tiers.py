"""The tests of the long tier, beside those that are marked `slow` where they stand.

README's line runs the standard tier: every feature, by its fastest cases. Here are further cases of the same tests
(other residual models, covariances, numbers of effects) and tests that compile for more than about five seconds on one
core. `.ci/run` runs both tiers. A pattern that matches no test is an error.
"""

from __future__ import annotations

# Shell patterns of node ids, "tests/" left out.
LONG = (
    "test_readme.py::test_the_picture_is_what_its_script_draws",
    "likelihood/test_score.py::test_every_error_model[[]1-*",
    "likelihood/test_score.py::test_every_error_model[[]2-*",
    "likelihood/test_score.py::test_every_error_model[[]3-*",
    "likelihood/test_score.py::test_every_error_model[[]4-*",
    "likelihood/test_score.py::test_every_error_model[[]5-*",
    "likelihood/test_score.py::test_every_error_model[[]6-*",
    "likelihood/test_score.py::test_every_error_model[[]8-*",
    "likelihood/test_score.py::test_every_error_model[[]9-*",
    "likelihood/test_score.py::test_every_error_model[[]10-*",
    "likelihood/test_score.py::test_every_error_model[[]11-*",
    "likelihood/test_score.py::test_every_error_model[[]12-*",
    "likelihood/test_published.py::test_every_case_of_wang_2007[[]probit*",
    "likelihood/test_published.py::test_every_case_of_wang_2007[[]logit*",
    "likelihood/test_invariance.py::test_blocks",
    "likelihood/test_invariance.py::test_gradient_with_padding_and_buckets",
    "likelihood/test_derivatives.py::test_gradient_equals_differences[[]box-cox*",
    "likelihood/test_derivatives.py::test_gradient_equals_differences[[]log of*",
    "likelihood/test_derivatives.py::test_gradient_equals_differences[[]power*",
    "likelihood/test_derivatives.py::test_gradient_equals_differences[[]constant*",
    "likelihood/test_derivatives.py::test_hessian_equals_differences_of_the_gradient[[]Laplace]",
    "likelihood/test_derivatives.py::test_hessian_equals_differences_of_the_gradient[[]AGQ(3)]",
    "likelihood/test_derivatives.py::test_hessian_with_more_effects_than_observations[[]Laplace]",
    "likelihood/test_integrals.py::test_quadrature_converges_to_the_integral[[]1]",
    "likelihood/test_integrals.py::test_quadrature_converges_to_the_integral[[]3]",
    "likelihood/test_linear.py::*[[]blocks]",
    "likelihood/test_linear.py::*[[]identity]",
    "likelihood/test_linear.py::*[[]interleaved]",
    "numerics/test_search.py::test_implicit_derivatives_to_third_order",
    "model/residual_error/test_families.py::test_constant_plus_power_with_predictions_of_zero",
    "estimators/core/test_devices.py::*",
    "estimators/marginal/test_estimate.py::test_the_derivative_of_an_estimate",
)
# Notebooks and the pages of docs/, whose blocks are executed: a stage of their own.
PAGES = (
    "test_notebooks.py::*",
    "test_readme.py::test_python_blocks_run[[]matlab]",
    "test_readme.py::test_python_blocks_run[[]models]",
    "test_readme.py::test_python_blocks_run[[]results]",
    "test_readme.py::test_python_blocks_run[[]saem]",
    "test_readme.py::test_python_blocks_run[[]scale]",
)
