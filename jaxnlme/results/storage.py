"""Saving and loading fits."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxnlme.errors import OptionError

if TYPE_CHECKING:
    from jaxnlme.results.fit import Fit

FORMAT = 1


def save(fit: Fit, path: str | Path) -> Path:
    """Writes a fit to `path`, with the user's functions by value, so that another process can load it.

    The file is a compressed pickle (cloudpickle): load only files you trust.
    **Returns:** the path.
    """
    import cloudpickle

    path = Path(path)
    with gzip.open(path, "wb", compresslevel=5) as file:
        cloudpickle.dump({"jaxnlme fit": FORMAT, "fit": fit}, file)
    return path


def load(path: str | Path) -> Any:
    """The Fit in a file that `Fit.save` wrote. Unpickles: load only files you trust.

    **Errors:** OptionError where the file holds something else; FileNotFoundError where it is missing.
    """
    import pickle

    with gzip.open(Path(path), "rb") as file:
        try:
            content = pickle.load(file)
        except (pickle.UnpicklingError, EOFError, OSError) as error:
            raise OptionError(f"{path} is not a file that Fit.save wrote: {error}") from error
    if not isinstance(content, dict) or content.get("jaxnlme fit") != FORMAT:
        raise OptionError(f"{path} is not a fit of this version of jaxnlme (format {FORMAT}).")
    return content["fit"]
