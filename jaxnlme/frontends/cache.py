"""JAX's compilation cache on disk, so that the second run of a program starts at once."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

from jaxnlme.arguments import check_flag, check_path
from jaxnlme.errors import OptionError
from jaxnlme.signatures import public


@public("jn.enable_compilation_cache")
def enable_compilation_cache(path: str | Path | None = None) -> Path | None:
    """Keep compiled programs on disk from here on: one call, at the top of a script or a notebook.

    The command line does it by itself; importing jaxnlme does not. A program is reused for the same model, shapes,
    device and versions of JAX; the folder may be deleted at any time.

    **Arguments:** `path`: the folder. None takes what JAX is already set to (environment variable
    JAX_COMPILATION_CACHE_DIR), else `jaxnlme/jax` in the user's cache folder (XDG_CACHE_HOME, or ~/.cache).
    **Returns:** the folder, which exists. None, with a warning, where the one that `path=None` takes cannot be made or
    written to: the cache only saves time.
    **Raises:** OptionError where `path` is given and cannot be made or written to.

    **Example:**

    ```python
    jn.enable_compilation_cache()  # at the top of a script or notebook
    ```
    """
    import jax
    from jax.experimental.compilation_cache.compilation_cache import reset_cache

    folder = compilation_cache_folder() if path is None else check_path("path", path).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        sentence = f"the compilation cache folder {folder} cannot be made or written to: {error}."
        if path is not None:
            raise OptionError(sentence) from error
        warnings.warn(f"{sentence} Programs are compiled again in every process.", stacklevel=3)
        return None
    if _configured_folder() != str(folder):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        reset_cache()  # JAX reads the setting only at the first compilation; this makes it read it again
    # A fit is many small programs; most compile in less than the second from which JAX keeps one by default.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder


def compilation_cache_folder() -> Path:
    """The folder that `enable_compilation_cache()` uses by default; it is not created here."""
    configured = _configured_folder()
    if configured:
        return Path(configured).expanduser()
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return Path(os.environ["JAX_COMPILATION_CACHE_DIR"]).expanduser()
    home = os.environ.get("XDG_CACHE_HOME", "")
    # The specification of XDG says that a relative path there is to be ignored.
    base = Path(home) if os.path.isabs(home) else Path.home() / ".cache"
    return base / "jaxnlme" / "jax"


def _configured_folder() -> str | None:
    """The folder that JAX is set to, None if it keeps no cache on disk."""
    import jax

    config: Any = jax.config  # JAX adds its settings at run time
    return config.jax_compilation_cache_dir


@public("jn.compiler_options")
def compiler_options(*, optimise: bool = False) -> dict[str, Any]:
    """XLA options for `jax.jit(..., compiler_options=...)` with which a program of yours compiles fast; fits use them.

    On a CPU a gradient of `jn.log_likelihood` then compiles in a fifth of the time and runs two to three times slower,
    which pays for small data and few evaluations. On other devices there are no such options.

    **Arguments:** `optimise`: with XLA's optimisation: compiles in half the time of the default and runs as fast, but
    for loops of hundreds of iterations.
    **Returns:** a dictionary, empty on devices other than CPUs.

    **Example:**

    ```python
    jax.jit(lambda params: jn.log_likelihood(model, params, data), compiler_options=jn.compiler_options())(fit.params)
    ```
    """
    import jax

    from jaxnlme.numerics import compiling

    check_flag("jn.compiler_options: optimise", optimise)
    return compiling.compiler_options(None if optimise else 0, jax.default_backend())
