"""Draw the pictures of README.md and docs/ from fits.

python docs/make_images.py [FOLDER]            # that of README.md; docs/images by default
python docs/make_images.py --gallery [FOLDER]  # those of docs/ too (minutes)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import jax.numpy as jnp
import numpy as np
import pandas as pd

import jaxnlme as jn
from jaxnlme.frontends.cli.demo import theophylline


def main(folder: Path) -> list[Path]:
    """Write theophylline_fits.png into `folder`; the files written."""
    fit = jn.fit(*theophylline(), "focei").throw()
    return [_save(folder, "theophylline_fits", fit.plot.individual_fits(), 110, None)]


def gallery(folder: Path) -> list[Path]:
    """Write the pictures of docs/pictures.md into `folder`; the files written."""
    # A scale of colours needs more of them than lines and dots.
    return [
        _save(folder, f"gallery_{name}", draw(), 72, 256 if name == "influence" else 64) for name, draw in pictures()
    ]


def pictures() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Names of pictures, and functions that draw them; fits are made as they are needed."""
    model, data = theophylline()
    data = data.with_axis_labels({"conc": "Theophylline (mg/L)", "Time": "Time (h)", "Wt": "Weight (kg)"})
    fit = jn.fit(model, data, "focei").throw()
    plot = fit.plot
    yield "data", plot.data
    yield "page", plot
    yield "gof", plot.gof
    yield "observed_predicted", lambda: plot.observed_predicted(log=True)
    yield "residuals", lambda: plot.residuals("iwres", "Time")
    yield "qq", lambda: plot.qq("effects")
    yield "random_effects", plot.random_effects
    yield "effect_histograms", plot.effect_histograms
    yield "effect_pairs", plot.effect_pairs
    yield "effect_intervals", lambda: plot.effect_intervals(order="cl")
    yield "npde", plot.npde
    yield "vpc", lambda: plot.vpc(replicates=500)
    yield "history", plot.history
    yield "profile", lambda: plot.profile(fit.profile(["cl", "vol", "sd(cl)", "a"]))
    yield "bootstrap", lambda: plot.bootstrap(fit.bootstrap(200))
    yield "influence", plot.influence
    newborns = phenobarbital()
    yield "individual_fits", lambda: newborns.plot.individual_fits(per_page=8)
    yield "effects_covariates", newborns.plot.effects_covariates
    yield "forest", newborns.plot.forest
    drawn = jn.fit(ordered(), data, jn.SAEM(replicates=3), progress=False).throw()
    yield "trajectories", drawn.plot.trajectories
    yield "monte_carlo", drawn.plot.monte_carlo
    yield "individual_parameters", drawn.plot.individual_parameters
    yield "censored", lambda: censored().plot(logy=True)


def ordered() -> jn.NLMEModel:
    """One compartment in which absorption is faster than elimination, so that replicates have one maximum to find."""

    def oral(phi, x):
        ke = phi.cl / phi.vol
        ka = ke + phi.excess
        return x.Dose * ka / (phi.vol * phi.excess) * (jnp.exp(-ke * x.Time) - jnp.exp(-ka * x.Time))

    starts = {"excess": 1.4, "cl": 2.8, "vol": 32.0}
    return jn.NLMEModel(oral, [jn.Parameter(name, start, "log", random=True) for name, start in starts.items()])


def phenobarbital() -> jn.Fit:
    """Newborns with repeated doses; the Apgar score at birth as a covariate of the volume."""
    data = jn.GroupedData.from_nonmem(jn.datasets.phenobarbital())
    data = data.with_axis_labels({"TIME": "Time (h)", "DV": "Phenobarbital (mg/L)", "WT": "Weight (kg)"})
    parameters = [
        jn.Parameter("cl", 0.005, "log", random=True, covariates={"log(WT)": 0.75}),
        jn.Parameter("v", 1.0, "log", random=True, covariates=["log(WT)", "APGR"]),
    ]
    pk = jn.pkpd.compartments(1, "bolus", "CL V")
    return jn.fit(jn.NLMEModel(pk, parameters, error="proportional"), data, "focei").throw()


def censored() -> jn.GroupedData:
    """Levels of 40 simulated subjects, those below 0.5 censored."""
    rng, hours = np.random.default_rng(3), np.array([1.0, 3.0, 6.0, 10.0, 16.0, 24.0])
    cl, volume = (typical * np.exp(0.3 * rng.standard_normal((40, 1))) for typical in (3.0, 30.0))
    levels = 100.0 / volume * np.exp(-cl / volume * hours) * (1.0 + 0.2 * rng.standard_normal((40, 6)))
    table = pd.DataFrame({"ID": np.repeat(range(1, 41), 6), "TIME": np.tile(hours, 40), "DV": levels.ravel()})
    data = jn.GroupedData.from_frame(table, group="ID", y="DV", x="TIME", lloq=0.5)
    return data.with_axis_labels({"DV": "Concentration (mg/L)", "TIME": "Time (h)"})


def _save(folder: Path, name: str, axes: Any, dpi: int, colours: int | None) -> Path:
    """The file of a picture; with a number of `colours` without its margins, and of a third of the size."""
    import matplotlib.pyplot as plt
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.png"
    figure = np.ravel(axes)[0].figure
    figure.savefig(file, dpi=dpi, bbox_inches="tight" if colours else None)
    plt.close(figure)
    if colours:
        Image.open(file).convert("RGB").quantize(colours).save(file, optimize=True)
    return file


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--gallery"]
    target = Path(arguments[0]) if arguments else Path(__file__).parent / "images"
    for written in main(target) + (gallery(target) if "--gallery" in sys.argv else []):
        print(written)
