"""Nonlinear mixed-effects models in JAX: exact derivatives, batched groups, checked convergence."""

from jaxnlme.data import datasets as datasets
from jaxnlme.data.grouped import GroupedData as GroupedData
from jaxnlme.errors import DataError as DataError
from jaxnlme.errors import FitError as FitError
from jaxnlme.errors import JaxnlmeError as JaxnlmeError
from jaxnlme.errors import ModelError as ModelError
from jaxnlme.errors import OptionError as OptionError
from jaxnlme.errors import PrecisionError as PrecisionError
from jaxnlme.errors import Status as Status
from jaxnlme.estimators.alternating import Alternating as Alternating
from jaxnlme.estimators.fitting import fit as fit
from jaxnlme.estimators.marginal import Marginal as Marginal
from jaxnlme.estimators.pure import Estimate as Estimate
from jaxnlme.estimators.pure import estimate as estimate
from jaxnlme.estimators.telling import Iteration as Iteration
from jaxnlme.frontends.cache import enable_compilation_cache as enable_compilation_cache
from jaxnlme.likelihood.linearised import LME as LME
from jaxnlme.likelihood.linearised import RELME as RELME
from jaxnlme.likelihood.named import AGQ as AGQ
from jaxnlme.likelihood.named import FO as FO
from jaxnlme.likelihood.named import FOCE as FOCE
from jaxnlme.likelihood.named import FOCEI as FOCEI
from jaxnlme.likelihood.named import ImportanceSampling as ImportanceSampling
from jaxnlme.likelihood.named import Laplace as Laplace
from jaxnlme.likelihood.named import Rung as Rung
from jaxnlme.likelihood.pure import evaluate_groups as evaluate_groups
from jaxnlme.likelihood.pure import group_log_likelihoods as group_log_likelihoods
from jaxnlme.likelihood.pure import log_likelihood as log_likelihood
from jaxnlme.model import covariance as covariances
from jaxnlme.model import error_families as error
from jaxnlme.model import priors as priors
from jaxnlme.model import transforms as transforms
from jaxnlme.model.binding import bind as bind
from jaxnlme.model.error import ErrorParameter as ErrorParameter
from jaxnlme.model.error import GroupLogLikelihood as GroupLogLikelihood
from jaxnlme.model.model import NLMEModel as NLMEModel
from jaxnlme.model.parameters import Covariate as Covariate
from jaxnlme.model.parameters import Parameter as Parameter
from jaxnlme.model.params import Params as Params
from jaxnlme.model.problem import Problem as Problem
from jaxnlme.results.fit import Fit as Fit
from jaxnlme.results.simulate import simulate_responses as simulate_responses
from jaxnlme.results.simulate import with_responses as with_responses
from jaxnlme.results.storage import load as load

__version__ = "0.1.0"
