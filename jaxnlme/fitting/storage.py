"""Saving and loading fits."""

from __future__ import annotations

import gzip
import os
import sys
import sysconfig
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO

from jaxnlme.errors import OptionError

if TYPE_CHECKING:
    from jaxnlme.results.record import Fit

FORMAT = 2


def save(fit: Fit, path: str | Path) -> Path:
    """Writes a fit to `path`, with the user's functions by value, so that another process can load it.

    Functions and classes of the user's own modules (neither installed packages nor the standard library) go into the
    file whole, with the functions they call. The file is a compressed pickle (cloudpickle): load only files you trust.
    It replaces an earlier one only when it is complete.
    **Returns:** the path.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with gzip.open(part, "wb", compresslevel=5) as file:
            _dump({"jaxnlme fit": FORMAT, "fit": fit}, file)  # pyright: ignore[reportArgumentType]
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def load(path: str | Path) -> Any:
    """The Fit in a file that `Fit.save` wrote. Unpickles: load only files you trust.

    **Errors:** OptionError where the file holds something else, or needs a module that is not there; FileNotFoundError
    where it is missing.
    """
    import pickle

    with gzip.open(Path(path), "rb") as file:
        try:
            content = pickle.load(file)
        except ModuleNotFoundError as error:
            raise OptionError(
                f"{path} needs the module {error.name!r}, which this Python does not find; install it, or add the "
                "folder that holds it to PYTHONPATH."
            ) from error
        except (pickle.UnpicklingError, EOFError, OSError) as error:
            raise OptionError(f"{path} is not a file that Fit.save wrote: {error}") from error
    if not isinstance(content, dict) or content.get("jaxnlme fit") != FORMAT:
        raise OptionError(f"{path} is not a fit of this version of jaxnlme (format {FORMAT}).")
    return content["fit"]


def _dump(content: Any, file: BinaryIO) -> None:
    """cloudpickle.dump, with every module of the user's that turns up on the way pickled by value."""
    import cloudpickle

    registered: list[ModuleType] = []

    class Pickler(cloudpickle.Pickler):
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, (FunctionType, type, ModuleType)):
                name = obj.__name__ if isinstance(obj, ModuleType) else obj.__module__
                module = sys.modules.get(name or "")
                if module is not None and name not in known and _is_users(module):
                    cloudpickle.register_pickle_by_value(module)
                    registered.append(module)
                known.add(name)
            return super().reducer_override(obj)

    known = set(cloudpickle.list_registry_pickle_by_value())
    try:
        Pickler(file).dump(content)
    finally:
        for module in registered:
            cloudpickle.unregister_pickle_by_value(module)


def _is_users(module: ModuleType) -> bool:
    """Whether a module is a file of the user's own: neither ours, nor installed, nor of the standard library."""
    place = getattr(module, "__file__", None)
    if place is None or module.__name__.partition(".")[0] in ("__main__", __name__.partition(".")[0]):
        return False
    path = Path(place).resolve()
    library = [Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib")]
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    return not installed and not any(path.is_relative_to(folder) for folder in library)
