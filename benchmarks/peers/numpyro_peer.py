"""The same problem written by hand in numpyro, as a user of JAX would today: arguments and output as in common.py.

The option is "svi" (a mean-field normal guide, 3,000 falling steps of Adam) or "nuts" (one chain, 500 draws after 500
of adaptation). Both describe a posterior, not a maximum: the priors are wide (normal with standard deviation 10 around
the starting log parameters, half-Cauchy of scale 1 for standard deviations, uniform correlations), and the estimates
handed to the referee are posterior medians of the fixed effects, of the standard deviations and of the correlations.
Subjects' parameters are centred, which suits eleven samples a subject. float64, like everybody else.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from common import Arguments, report
from numpyro import infer, optim

STEPS, DRAWS = 3000, 500
WIDE = 10.0


def model(time, dose, conc, starts, groups, full):
    beta = numpyro.sample("beta", dist.Normal(starts, WIDE).to_event(1))
    sd = numpyro.sample("sd", dist.HalfCauchy(jnp.ones(3)).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(1.0))
    if full:
        factor = numpyro.sample("factor", dist.LKJCholesky(3, 1.0))
        effects = dist.MultivariateNormal(beta, scale_tril=sd[:, None] * factor)
    else:
        effects = dist.Normal(beta, sd).to_event(1)
    with numpyro.plate("subjects", groups):
        ka, cl, vol = jnp.exp(numpyro.sample("phi", effects)).T[:, :, None]
        ke = cl / vol
        mean = dose * ka / (vol * (ka - ke)) * (jnp.exp(-ke * time) - jnp.exp(-ka * time))
        numpyro.sample("conc", dist.Normal(mean, sigma).to_event(1), obs=conc)


def at_start(starts, groups):
    """Everybody at the starting log parameters, standard deviations of 0.3."""
    return infer.init_to_value(values={"beta": starts, "phi": jnp.tile(starts, (groups, 1)), "sd": jnp.full(3, 0.3)})


def variational(key, *data):
    """Draws of the population's parameters from a fitted mean-field guide, and what was reached."""
    start = at_start(*data[3:5])
    guide = infer.autoguide.AutoNormal(model, init_loc_fn=start)
    svi = infer.SVI(model, guide, optim.Adam(falling), infer.Trace_ELBO())
    result = svi.run(key, STEPS, *data, progress_bar=False)
    draws = guide.sample_posterior(jax.random.key(1), result.params, sample_shape=(DRAWS,))
    return draws, {"elbo": -float(np.median(result.losses[-100:]))}


def falling(step):
    """Adam's step size, from 0.02 to a hundredth of it."""
    return 0.02 * 0.01 ** (step / STEPS)


def chain(key, *data):
    """Draws of one chain of NUTS, and its divergences."""
    start = at_start(*data[3:5])
    sampler = infer.MCMC(
        infer.NUTS(model, init_strategy=start), num_warmup=DRAWS, num_samples=DRAWS, progress_bar=False
    )
    sampler.run(key, *data)
    return sampler.get_samples(), {"divergences": int(sampler.get_extra_fields()["diverging"].sum())}


def estimates(draws, full):
    """Medians of beta, of the standard deviations and correlations (put together as Psi), and of sigma."""
    sd = np.median(np.asarray(draws["sd"]), axis=0)
    correlations = np.eye(3)
    if full:
        factor = np.asarray(draws["factor"])
        correlations = np.median(factor @ np.swapaxes(factor, 1, 2), axis=0)
    return {
        "beta": np.median(np.asarray(draws["beta"]), axis=0).tolist(),
        "psi": (sd[:, None] * correlations * sd).tolist(),
        "sigma": float(np.median(np.asarray(draws["sigma"]))),
        "se_beta": np.std(np.asarray(draws["beta"]), axis=0).tolist(),
    }


def main() -> None:
    arguments = Arguments()
    numpyro.enable_x64()
    full = arguments.psi == "full"
    run = {"svi": variational, "nuts": chain}[arguments.option]

    def fit(table):
        order = np.argsort(table.group, kind="stable")  # every subject has as many rows: arrays (subjects, rows)
        columns = (table.time, table.dose, table.conc)
        arrays = [jnp.asarray(column[order].reshape(table.groups, -1)) for column in columns]
        data = (*arrays, jnp.asarray(arguments.starts), table.groups, full)
        draws, reached = run(jax.random.key(0), *data)
        return estimates(draws, full) | reached

    report("numpyro", arguments, fit)


if __name__ == "__main__":
    main()
