"""Nonlinear mixed-effects models in JAX: exact derivatives, batched groups, checked convergence."""

import difflib
import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxnlme.binding.bind import bind as bind
    from jaxnlme.binding.model import NLMEModel as NLMEModel
    from jaxnlme.binding.problem import Problem as Problem
    from jaxnlme.comparison.compare import compare as compare
    from jaxnlme.data import datasets as datasets
    from jaxnlme.data.grouped import GroupedData as GroupedData
    from jaxnlme.diagnostics.npde.reading import npde as npde
    from jaxnlme.diagnostics.npde.record import Npde as Npde
    from jaxnlme.diagnostics.polars_frames import to_polars as to_polars
    from jaxnlme.diagnostics.vpc.check import vpc as vpc
    from jaxnlme.diagnostics.vpc.npc import Npc as Npc
    from jaxnlme.diagnostics.vpc.npc import npc as npc
    from jaxnlme.diagnostics.vpc.record import Vpc as Vpc
    from jaxnlme.diagnostics.vpc.survival import vpc_survival as vpc_survival
    from jaxnlme.errors import DataError as DataError
    from jaxnlme.errors import FitError as FitError
    from jaxnlme.errors import JaxnlmeError as JaxnlmeError
    from jaxnlme.errors import ModelError as ModelError
    from jaxnlme.errors import OptionError as OptionError
    from jaxnlme.errors import PrecisionError as PrecisionError
    from jaxnlme.errors import Status as Status
    from jaxnlme.estimators.bayes.method import NUTS as NUTS
    from jaxnlme.estimators.bayes.method import Pathfinder as Pathfinder
    from jaxnlme.estimators.core.callbacks import Iteration as Iteration
    from jaxnlme.estimators.em.imp import IMP as IMP
    from jaxnlme.estimators.em.saem import SAEM as SAEM
    from jaxnlme.estimators.gradient.method import Gradient as Gradient
    from jaxnlme.estimators.marginal.estimate import Estimate as Estimate
    from jaxnlme.estimators.marginal.estimate import estimate as estimate
    from jaxnlme.estimators.marginal.method import MaximumLikelihood as MaximumLikelihood
    from jaxnlme.estimators.two_stage.fit_groups import fit_groups as fit_groups
    from jaxnlme.estimators.two_stage.group_fits import GroupFits as GroupFits
    from jaxnlme.estimators.two_stage.status import GroupStatus as GroupStatus
    from jaxnlme.fitting.fit import Fit as Fit
    from jaxnlme.fitting.fit import fit as fit
    from jaxnlme.fitting.fit_many import ManyFits as ManyFits
    from jaxnlme.fitting.fit_many import fit_many as fit_many
    from jaxnlme.fitting.storage import load as load
    from jaxnlme.frontends.cache import compiler_options as compiler_options
    from jaxnlme.frontends.cache import enable_compilation_cache as enable_compilation_cache
    from jaxnlme.frontends.linear.glmer import glmer as glmer
    from jaxnlme.frontends.linear.lme import gls as gls
    from jaxnlme.frontends.linear.lme import lme as lme
    from jaxnlme.frontends.matlab.live_plot import nlmefitoutputfcn as nlmefitoutputfcn
    from jaxnlme.frontends.matlab.nlmefit import nlmefit as nlmefit
    from jaxnlme.frontends.matlab.nlmefitsa import nlmefitsa as nlmefitsa
    from jaxnlme.likelihood.approximations import AGQ as AGQ
    from jaxnlme.likelihood.approximations import FO as FO
    from jaxnlme.likelihood.approximations import FOCE as FOCE
    from jaxnlme.likelihood.approximations import FOCEI as FOCEI
    from jaxnlme.likelihood.approximations import ImportanceSampling as ImportanceSampling
    from jaxnlme.likelihood.approximations import Laplace as Laplace
    from jaxnlme.likelihood.approximations import LikelihoodApproximation as LikelihoodApproximation
    from jaxnlme.likelihood.lindstrom_bates import LME as LME
    from jaxnlme.likelihood.lindstrom_bates import RELME as RELME
    from jaxnlme.likelihood.log_likelihood import evaluate_groups as evaluate_groups
    from jaxnlme.likelihood.log_likelihood import group_log_likelihoods as group_log_likelihoods
    from jaxnlme.likelihood.log_likelihood import information as information
    from jaxnlme.likelihood.log_likelihood import log_likelihood as log_likelihood
    from jaxnlme.likelihood.log_likelihood import log_likelihood_and_score as log_likelihood_and_score
    from jaxnlme.linear.record import LinearFit as LinearFit
    from jaxnlme.model import effects as effects
    from jaxnlme.model import priors as priors
    from jaxnlme.model import transforms as transforms
    from jaxnlme.model.covariance import structures as covariances
    from jaxnlme.model.fixed import fixed as fixed
    from jaxnlme.model.flow import Flow as Flow
    from jaxnlme.model.networks import Networks as Networks
    from jaxnlme.model.parameters import Covariate as Covariate
    from jaxnlme.model.parameters import Parameter as Parameter
    from jaxnlme.model.params import Params as Params
    from jaxnlme.model.residual_error import correlation as correlation
    from jaxnlme.model.residual_error import families as error
    from jaxnlme.model.residual_error import variance as variance
    from jaxnlme.model.residual_error.base import GroupLogLikelihood as GroupLogLikelihood
    from jaxnlme.model.residual_error.error_parameter import ErrorParameter as ErrorParameter
    from jaxnlme.model.safe_power import safe_power as safe_power
    from jaxnlme.model_choice.likelihood_ratio import likelihood_ratio_test as likelihood_ratio_test
    from jaxnlme.model_choice.step import step as step
    from jaxnlme.results.simulate import simulate_responses as simulate_responses
    from jaxnlme.results.simulate import with_responses as with_responses
    from jaxnlme.sampling.metropolis import Moves as Moves
    from jaxnlme.structural_models import catalogue as models

__version__ = "0.2.0"

# The names above again, each with its module and its name there. A name is imported when it is first used, so that
# `jaxnlme --help` and `--version` wait for nothing.
_PUBLIC = {
    "bind": ("binding.bind", "bind"),
    "NLMEModel": ("binding.model", "NLMEModel"),
    "Problem": ("binding.problem", "Problem"),
    "compare": ("comparison.compare", "compare"),
    "likelihood_ratio_test": ("model_choice.likelihood_ratio", "likelihood_ratio_test"),
    "step": ("model_choice.step", "step"),
    "datasets": ("data", "datasets"),
    "GroupedData": ("data.grouped", "GroupedData"),
    "npde": ("diagnostics.npde.reading", "npde"),
    "Npde": ("diagnostics.npde.record", "Npde"),
    "to_polars": ("diagnostics.polars_frames", "to_polars"),
    "vpc": ("diagnostics.vpc.check", "vpc"),
    "npc": ("diagnostics.vpc.npc", "npc"),
    "Npc": ("diagnostics.vpc.npc", "Npc"),
    "Vpc": ("diagnostics.vpc.record", "Vpc"),
    "vpc_survival": ("diagnostics.vpc.survival", "vpc_survival"),
    "DataError": ("errors", "DataError"),
    "FitError": ("errors", "FitError"),
    "JaxnlmeError": ("errors", "JaxnlmeError"),
    "ModelError": ("errors", "ModelError"),
    "OptionError": ("errors", "OptionError"),
    "PrecisionError": ("errors", "PrecisionError"),
    "Status": ("errors", "Status"),
    "NUTS": ("estimators.bayes.method", "NUTS"),
    "Pathfinder": ("estimators.bayes.method", "Pathfinder"),
    "Iteration": ("estimators.core.callbacks", "Iteration"),
    "Gradient": ("estimators.gradient.method", "Gradient"),
    "IMP": ("estimators.em.imp", "IMP"),
    "SAEM": ("estimators.em.saem", "SAEM"),
    "Estimate": ("estimators.marginal.estimate", "Estimate"),
    "estimate": ("estimators.marginal.estimate", "estimate"),
    "MaximumLikelihood": ("estimators.marginal.method", "MaximumLikelihood"),
    "Flow": ("model.flow", "Flow"),
    "Networks": ("model.networks", "Networks"),
    "fit_groups": ("estimators.two_stage.fit_groups", "fit_groups"),
    "GroupFits": ("estimators.two_stage.group_fits", "GroupFits"),
    "GroupStatus": ("estimators.two_stage.status", "GroupStatus"),
    "Fit": ("fitting.fit", "Fit"),
    "fit": ("fitting.fit", "fit"),
    "ManyFits": ("fitting.fit_many", "ManyFits"),
    "fit_many": ("fitting.fit_many", "fit_many"),
    "load": ("fitting.storage", "load"),
    "compiler_options": ("frontends.cache", "compiler_options"),
    "enable_compilation_cache": ("frontends.cache", "enable_compilation_cache"),
    "glmer": ("frontends.linear.glmer", "glmer"),
    "gls": ("frontends.linear.lme", "gls"),
    "lme": ("frontends.linear.lme", "lme"),
    "nlmefitoutputfcn": ("frontends.matlab.live_plot", "nlmefitoutputfcn"),
    "nlmefit": ("frontends.matlab.nlmefit", "nlmefit"),
    "nlmefitsa": ("frontends.matlab.nlmefitsa", "nlmefitsa"),
    "AGQ": ("likelihood.approximations", "AGQ"),
    "FO": ("likelihood.approximations", "FO"),
    "FOCE": ("likelihood.approximations", "FOCE"),
    "FOCEI": ("likelihood.approximations", "FOCEI"),
    "ImportanceSampling": ("likelihood.approximations", "ImportanceSampling"),
    "Laplace": ("likelihood.approximations", "Laplace"),
    "LikelihoodApproximation": ("likelihood.approximations", "LikelihoodApproximation"),
    "LME": ("likelihood.lindstrom_bates", "LME"),
    "RELME": ("likelihood.lindstrom_bates", "RELME"),
    "evaluate_groups": ("likelihood.log_likelihood", "evaluate_groups"),
    "information": ("likelihood.log_likelihood", "information"),
    "log_likelihood_and_score": ("likelihood.log_likelihood", "log_likelihood_and_score"),
    "group_log_likelihoods": ("likelihood.log_likelihood", "group_log_likelihoods"),
    "log_likelihood": ("likelihood.log_likelihood", "log_likelihood"),
    "LinearFit": ("linear.record", "LinearFit"),
    "effects": ("model", "effects"),
    "priors": ("model", "priors"),
    "transforms": ("model", "transforms"),
    "covariances": ("model.covariance", "structures"),
    "fixed": ("model.fixed", "fixed"),
    "Covariate": ("model.parameters", "Covariate"),
    "Parameter": ("model.parameters", "Parameter"),
    "Params": ("model.params", "Params"),
    "correlation": ("model.residual_error", "correlation"),
    "error": ("model.residual_error", "families"),
    "variance": ("model.residual_error", "variance"),
    "GroupLogLikelihood": ("model.residual_error.base", "GroupLogLikelihood"),
    "ErrorParameter": ("model.residual_error.error_parameter", "ErrorParameter"),
    "safe_power": ("model.safe_power", "safe_power"),
    "simulate_responses": ("results.simulate", "simulate_responses"),
    "with_responses": ("results.simulate", "with_responses"),
    "Moves": ("sampling.metropolis", "Moves"),
    "models": ("structural_models", "catalogue"),
}

__all__ = [*_PUBLIC]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """A public name, or a subpackage, imported now. **Raises:** AttributeError for others."""
    if name in _PUBLIC:
        module, attribute = _PUBLIC[name]
        value = getattr(importlib.import_module(f"jaxnlme.{module}"), attribute, None)
        # What is no attribute of a package is a module in it.
        value = importlib.import_module(f"jaxnlme.{module}.{attribute}") if value is None else value
        globals()[name] = value
        return value
    if not name.startswith("_") and importlib.util.find_spec(f"jaxnlme.{name}") is not None:
        return importlib.import_module(f"jaxnlme.{name}")
    close = difflib.get_close_matches(name.lower(), [public.lower() for public in _PUBLIC], n=1)
    near = [public for public in _PUBLIC if public.lower() in close]
    hint = f"; did you mean {' or '.join(f'jn.{public}' for public in near)}?" if near else ""
    raise AttributeError(f"jaxnlme has no {name!r}{hint}")


def __dir__() -> list[str]:
    return sorted({*_PUBLIC, *(name for name in globals() if name.startswith("__"))})
