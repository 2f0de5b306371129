"""Model files: Python files that define `model` and how to read the table it is fitted to."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxnlme.errors import JaxnlmeError, OptionError, near_matches

_TABLE_SUFFIXES = (".csv", ".tsv", ".dat", ".xls", ".xlsx", ".json", ".parquet", ".feather", ".gz", ".zip")
_ROLES = ("group", "y", "x", "v", "weights", "endpoint")


class UserCodeError(JaxnlmeError):
    """An error raised by the user's code; the message is its traceback, from the user's first line on."""


def load_model_file(path: Path) -> ModuleType:
    """Execute a Python file as a module, in 64-bit floats, with its folder importable.

    Functions defined in it are saved with a fit by value; modules that it imports from its folder are not.
    **Raises:** OptionError for a table; UserCodeError, with the traceback, where the file's code raises.
    """
    import importlib.util

    import cloudpickle

    from jaxnlme.precision import x64

    if path.suffix.lower() in _TABLE_SUFFIXES:
        raise OptionError(f"{path} is a table, not a model file: the call is jaxnlme fit MODEL.py DATA.csv.")
    path = path.resolve()
    name = f"jaxnlme_model_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path, loader=_loader(name, path))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        with x64():
            spec.loader.exec_module(module)
    except JaxnlmeError:
        raise
    except Exception as error:
        raise UserCodeError(_error_message(error, path)) from error
    cloudpickle.register_pickle_by_value(module)
    return module


def _loader(name: str, path: Path) -> Any:
    from importlib.machinery import SourceFileLoader

    return SourceFileLoader(name, str(path))  # whatever the file's suffix


def model_of(module: ModuleType, path: Path) -> Any:
    """`model` of a model file.  **Raises:** OptionError where it is missing or is not an NLMEModel."""
    from jaxnlme.binding.model import NLMEModel

    model = getattr(module, "model", None)
    if isinstance(model, NLMEModel):
        return model
    if model is not None:
        raise OptionError(f"{path}: model must be a jn.NLMEModel; it is a {type(model).__name__}.")
    public = [name for name in vars(module) if not name.startswith("_")]
    hint = near_matches("model", public) if public else "it defines nothing."
    raise OptionError(f"{path} defines no name `model`, expected a jn.NLMEModel; {hint}")


def data_of(module: ModuleType, path: Path, table: Path, overrides: Mapping[str, Any]) -> Any:
    """The GroupedData of `table`, read as the model file says: by `load(path)`, or by the column names in `data`.

    **Arguments:** `overrides`: roles (group, y, x, v) from the command line; None and () where the option was left out.
    **Raises:** OptionError for missing names, DataError for the table, UserCodeError from `load`.
    """
    from jaxnlme.data.grouped import GroupedData

    overridden = {role: value for role, value in overrides.items() if value}
    load = getattr(module, "load", None)
    if callable(load):
        if overridden:
            ignored = ", --".join(overridden)
            raise OptionError(f"{path} reads the table by its own load(path): --{ignored} would be ignored.")
        try:
            out = load(table)
        except JaxnlmeError:
            raise
        except Exception as error:
            raise UserCodeError(_error_message(error, path)) from error
        if not isinstance(out, GroupedData):
            raise OptionError(f"{path}: load(path) must return a jn.GroupedData; it returned a {type(out).__name__}.")
        return out
    roles = getattr(module, "data", {})
    if not isinstance(roles, Mapping):
        raise OptionError(
            f"{path}: data must be a dict like dict(group='Subject', y='conc', x=['Time'], v=['Wt']); it is a "
            f"{type(roles).__name__}. To read the table yourself define load(path) -> jn.GroupedData."
        )
    for role in roles:
        if role not in _ROLES:
            raise OptionError(f"{path}: data has an unknown entry {role!r}; {near_matches(str(role), _ROLES)}")
    roles = dict(roles) | overridden
    missing = [role for role in ("group", "y") if role not in roles]
    if missing:
        raise OptionError(
            f"the column for {' and '.join(missing)} is not named. Define in {path}\n"
            "    data = dict(group='Subject', y='conc', x=['Time'], v=['Wt'])\n"
            "with your column names, or pass --group and --y (and --x, --v)."
        )
    return _read(table, roles)


def _read(table: Path, roles: Mapping[str, Any]) -> Any:
    import pandas as pd

    from jaxnlme.data.grouped import GroupedData
    from jaxnlme.errors import DataError

    try:
        frame = pd.read_csv(table)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(
            f"{table} cannot be read as a table with commas: {error}. For another format define load(path) in the "
            "model file."
        ) from error
    return GroupedData.from_frame(frame, **roles)


def user_traceback(error: BaseException, path: Path) -> str | None:
    """The traceback of `error` with only the frames in the folder of `path`; None if there are none."""
    folder = path.resolve().parent
    package = Path(__file__).resolve().parents[2]
    frames = []
    for frame in traceback.extract_tb(error.__traceback__):
        file = Path(frame.filename)
        from_user = file.is_absolute() and folder in file.parents and package not in file.parents
        if from_user and "site-packages" not in file.parts:
            frames.append(frame)
    if isinstance(error, SyntaxError):
        return "".join(traceback.format_exception_only(error)).rstrip()
    if not frames:
        return None
    lines = ["Traceback (most recent call last):\n", *traceback.format_list(frames)]
    return "".join([*lines, *traceback.format_exception_only(error)]).rstrip()


def _error_message(error: BaseException, path: Path) -> str:
    text = user_traceback(error, path) or "".join(traceback.format_exception(error)).rstrip()
    return f"the code in {path} raised an error.\n{text}"
