"""Draw the pictures of README.md and docs/ from fits: `python docs/make_images.py [FOLDER]`, docs/images by default."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import jaxnlme as jn
from jaxnlme.frontends.cli.demo import theophylline


def main(folder: Path) -> list[Path]:
    """Write theophylline_fits.png and theophylline_vpc.png into `folder`; the files written."""
    folder.mkdir(parents=True, exist_ok=True)
    fit = jn.fit(*theophylline(), "focei").throw()
    axes = fit.plot.individual_fits()
    files = [folder / "theophylline_fits.png", folder / "theophylline_vpc.png"]
    axes[0].figure.savefig(files[0], dpi=110)
    fit.plot.vpc(replicates=1000).figure.savefig(files[1], dpi=110)
    return files


if __name__ == "__main__":
    for file in main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images"):
        print(file)
