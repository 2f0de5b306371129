"""The user's functions in a saved fit: pickled by value, and brought back on request.

This is the one module that unpickles, and it runs what the file's author wrote: `jn.load(..., trust_code=True)` only
leads here.
"""

from __future__ import annotations

import io
import pickle
import sys
import sysconfig
import threading
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, BinaryIO

from jaxnlme.errors import OptionError
from jaxnlme.estimators.core.record import versions
from jaxnlme.files import reason_of
from jaxnlme.fitting.fit import Fit
from jaxnlme.fitting.stored_classes import reduce_class

# cloudpickle keeps one list of modules that are pickled by value for all threads.
_REGISTRY = threading.RLock()


def code_of(fit: Fit, objects: list[Any]) -> bytes:
    """The pickle of the model and of `objects` of the user's own that the fit holds.

    The binding goes with it where `bind(model, data)` would not make it again: levels and centres of groups that were
    left out, or of other processes.

    **Raises:** pickle.PicklingError, which names the object that cannot be stored, such as a lock or an open file.
    """
    made_elsewhere = bool(fit.status.left_out) or fit.totals is not None
    out = io.BytesIO()
    _dump({"model": fit.model, "objects": objects, "binding": fit.binding if made_elsewhere else None}, out)
    return out.getvalue()


def read_code(path: Path, content: bytes) -> dict[str, Any]:
    """The model, the user's objects and the binding that `code_of` pickled. This runs code of whoever wrote the file.

    **Arguments:** `path` of the file, for messages; `content`, the pickle.
    **Returns:** a dict with "model", "objects" (a list) and "binding" (None where `bind(model, data)` makes it again).
    **Raises:** OptionError for a module that is missing, code that this Python cannot bring back, and code of another
    kind.
    """
    try:
        code = pickle.loads(content)
    except ModuleNotFoundError as error:
        raise OptionError(
            f"{path} needs the module {error.name!r}, which this Python does not find; install it, add the folder that "
            "holds it to PYTHONPATH, or pass the model: jn.load(path, model=model)."
        ) from error
    except Exception as error:
        raise OptionError(
            f"{path} holds code that this Python ({versions()['python']}) cannot bring back ({reason_of(error)}); pass "
            "the model: jn.load(path, model=model)."
        ) from error
    if not isinstance(code, dict) or {"model", "objects", "binding"} - code.keys():
        raise OptionError(f"{path} holds code of another kind; pass the model: jn.load(path, model=model).")
    return code


def _dump(content: Any, file: BinaryIO) -> None:
    """cloudpickle.dump, with every module of the user's that turns up on the way pickled by value."""
    import cloudpickle

    registered: list[ModuleType] = []
    met: list[Any] = []  # functions, and the object that is being stored

    class Pickler(cloudpickle.Pickler):
        def reducer_override(self, obj: Any) -> Any:
            if met and not isinstance(met[-1], FunctionType):
                met.pop()
            met.append(obj)
            if getattr(sys.modules.get(type(obj).__module__), "MISSING", None) is obj:
                return "MISSING"  # by name: dataclasses and equinox ask for the one object
            if isinstance(obj, (FunctionType, type, ModuleType)):
                name = obj.__name__ if isinstance(obj, ModuleType) else obj.__module__
                module = sys.modules.get(name or "")
                if module is not None and name not in seen_modules and _is_users(module):
                    cloudpickle.register_pickle_by_value(module)
                    registered.append(module)
                seen_modules.add(name)
            reduction = super().reducer_override(obj)
            return reduce_class(obj, reduction) if isinstance(obj, type) else reduction

    with _REGISTRY:
        seen_modules = set(cloudpickle.list_registry_pickle_by_value())
        try:
            Pickler(file).dump(content)
        except Exception as error:
            description = _describe(met.pop(), met) if met else "the model"
            raise pickle.PicklingError(f"{description} cannot be stored ({reason_of(error)})") from error
        finally:
            for module in registered:
                cloudpickle.unregister_pickle_by_value(module)


def _describe(thing: Any, functions: list[FunctionType]) -> str:
    """An object in words, with the global variable that holds it in one of `functions`."""
    kind = f"{type(thing).__module__}.{type(thing).__qualname__}"
    for function in reversed(functions):
        for name in function.__code__.co_names:
            if name in function.__globals__ and function.__globals__[name] is thing:
                return f"the global variable {name!r} of {function.__qualname__!r} (a {kind})"
    own = thing.__qualname__ if isinstance(thing, (FunctionType, type)) else ""
    return f"{own!r} (a {kind})" if own else f"an object of the type {kind}"


def _is_users(module: ModuleType) -> bool:
    """True if a module is a file of the user's own: neither ours, nor installed, nor of the standard library."""
    place = getattr(module, "__file__", None)
    if place is None or sys.modules.get(module.__name__) is not module:
        return False
    if module.__name__.partition(".")[0] in ("__main__", __name__.partition(".")[0]):
        return False
    path = Path(place).resolve()
    library = [Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib")]
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    return not installed and not any(path.is_relative_to(folder) for folder in library)
