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
    "estimators/em/test_boundary.py::test_resuming_from_a_checkpoint_on_the_boundary",
    "estimators/em/test_boundary.py::test_same_maximum_as_quadrature[[]full]",
    "estimators/em/test_boundary.py::test_fit_many_with_one_of_two_on_the_boundary",
    "estimators/em/test_boundary.py::test_boundary_is_reached_again_after_it_was_left",
    "estimators/em/test_boundary.py::test_the_order_of_the_effects_does_not_matter*",
    "estimators/em/test_problems.py::test_the_published_models_are_those_of_the_reference*",
    "estimators/em/test_reproducibility.py::test_devices",
    "estimators/em/test_saem.py::test_gradient_steps_lead_to_the_same_maximum",
    "estimators/lindstrom_bates/test_alternation.py::test_callbacks_receive_parameters_and_likelihood_of_one_point",
    "fitting/test_fit_many.py::test_a_set_without_a_maximum_affects_no_other",
    "frontends/cli/test_cli.py::test_a_fit_by_simulation_is_reported_with_its_trajectories",
    "frontends/matlab/test_nlmefitsa.py::test_a_script_of_matlab_s",
    "frontends/matlab/test_nlmefitsa.py::test_one_random_effect_and_one_that_is_shared",
    "refits/test_profile.py::test_the_interval_of_a_zero_variance",
    "refits/test_refits.py::test_multistart_finds_both_absorptions_of_theophylline",
    "refits/test_refits.py::test_weights_of_the_structural_model_are_refitted",
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
