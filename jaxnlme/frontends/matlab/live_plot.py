"""nlmefitoutputfcn: a plot of beta, diag(Psi) and, where it is computed, the log-likelihood while a fit runs."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxnlme.binding.user_scale import psi_of
from jaxnlme.drawing.style import MissingPlotLibrary, pyplot
from jaxnlme.errors import OptionError
from jaxnlme.estimators.core.callbacks import Iteration
from jaxnlme.frontends.matlab.settings import MATLAB

# Beginnings of the names of matplotlib backends that open windows.
WINDOWS = ("qt", "tk", "gtk", "wx", "macosx", "webagg", "nbagg", "notebook", "widget")


class LivePlot:
    """An output function (beta, status, state) -> stop that plots each element of beta, each of diag(Psi) and the
    log-likelihood against the iteration, one panel each. SAEM does not compute the log-likelihood while it runs: it has
    no such panel. The plot is also a callback of `jn.fit`; the panels then have the names of the parameters.

    In a window the plot is live, and closing it stops the fit; in a notebook the display is updated in place; without
    either it is drawn to a file, "nlmefit.png" in the working directory. Every fit ("init") has a figure of its own, as
    do fits in other threads, unless `path` or `axes` are the same.

    **Arguments:** `path`: draw to this file, whatever the display. `axes`: draw into these matplotlib axes, one for
    each panel (F + R + 1); closing their figure stops the fit.
    **Raises:** OptionError for another number of axes; ImportError naming the extra to install where matplotlib is
    missing.
    """

    # As a callback of `jn.fit`: called at the start, for inner iterations and at the end, too.
    every_stage = True

    def __init__(self, path: str | Path | None = None, axes: Any = None):
        if path is not None and axes is not None:
            raise OptionError("give path or axes, not both: a plot in your own axes is saved by you.")
        self.path, self.user_axes = None if path is None else Path(path), axes
        # A fit calls its output functions from the thread in which it runs.
        self._this_thread = threading.local()

    @property
    def axes(self) -> list[Any]:
        """The panels of the last fit of this thread; empty before the first."""
        picture = self._picture
        return [] if picture is None else picture.axes

    @property
    def _picture(self) -> _Picture | None:
        return getattr(self._this_thread, "picture", None)

    def __call__(self, beta: Any, status: Any = None, state: str = "iter") -> bool:
        """Plot one stage of a fit, given as (beta, status, state) or as an Iteration; True if the figure was closed."""
        names: tuple[str, ...] = ()
        if isinstance(beta, Iteration):
            density, state = beta.binding.density, beta.state
            names = (*density.beta_names, *(f"variance of {name}" for name in density.effect_names))
            beta, status = np.asarray(beta.params.beta, float), _status(beta)
        outer = status["inner"]["procedure"] == "none"
        if outer and state == "init":
            self._this_thread.picture = None  # drop the last fit's figure, also if making this one raises
            self._this_thread.picture = _Picture(self.path, self.user_axes, beta, status, names)
        picture = self._picture
        if picture is None:
            return False
        if outer and not picture.closed():
            picture.add_point(beta, status, state)
        return picture.closed()


class _Picture:
    """The figure of one fit: its panels `axes` and the points drawn so far.

    **Arguments:** `path` and `user_axes`: of LivePlot; `beta` (F,) and `status`: of the first stage; `names`: of beta
    and diag(Psi), empty for numbered titles.
    """

    def __init__(self, path: Path | None, user_axes: Any, beta: Any, status: Any, names: tuple[str, ...] = ()):
        self.path, self.user_axes = path, user_axes
        self._iterations: list[float] = []
        self._points: list[list[float]] = []
        self._handle: Any = None
        self._drawn = -np.inf
        self._closed_by_user = False
        fval = status.get("fval")
        numbered = [f"beta[{k}]" for k in range(len(np.ravel(beta)))]
        numbered += [f"Psi[{k}, {k}]" for k in range(np.shape(status["Psi"])[0])]
        titles = list(names) or numbered
        titles += ["log-likelihood"] * (fval is not None and bool(np.isfinite(fval)))
        self._mode = "axes" if user_axes is not None else "file" if path is not None else _display()
        self._figure, self.axes = self._panels(len(titles))
        self._lines: list[Any] = []
        for axis, title in zip(self.axes, titles, strict=True):
            axis.set_title(title, fontsize="medium")
            axis.margins(x=0.02)
            self._lines += axis.plot([], [], color="#0072B2", marker=".", linewidth=1.0)
        self._figure.canvas.mpl_connect("close_event", self._on_close)

    def add_point(self, beta: Any, status: Any, state: str) -> None:
        """Add the point of a stage; draw at the end, or if the minimum interval has passed."""
        fval = status.get("fval")
        values = [*np.asarray(beta, float).reshape(-1), *np.diag(np.asarray(status["Psi"], float))]
        if self._iterations and self._iterations[-1] == status["iteration"]:  # "done" repeats the last iteration
            self._iterations.pop()
            self._points.pop()
        self._iterations.append(status["iteration"])
        self._points.append([*values, np.nan if fval is None else float(fval)])
        if state == "done" or time.monotonic() - self._drawn >= _interval(self._mode):
            self._draw()

    def closed(self) -> bool:
        """True if the user closed the figure."""
        if self._closed_by_user or self._mode not in ("window", "axes"):
            return self._closed_by_user
        number = getattr(self._figure, "number", None)
        return number is not None and not pyplot().fignum_exists(number)

    def _panels(self, count: int) -> tuple[Any, list[Any]]:
        if self.user_axes is not None:
            axes = list(np.ravel(np.asarray(self.user_axes, dtype=object)))
            if len(axes) != count:
                raise OptionError(f"axes holds {len(axes)} axes; expected {count}, one for each panel.")
            return axes[0].figure, axes
        columns = int(np.ceil(np.sqrt(count)))
        rows = -(-count // columns)
        size = (1.0 + 2.4 * columns, 0.8 + 1.7 * rows)
        if self._mode == "window":
            figure = pyplot().figure(figsize=size, layout="constrained")
        else:
            pyplot()
            from matplotlib.figure import Figure

            # Not a pyplot figure: notebooks show those a second time at the end of the cell.
            figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
        for empty in panels[count:]:
            empty.set_visible(False)
        for panel in panels[max(count - columns, 0) : count]:
            panel.tick_params(labelbottom=True)
            panel.set_xlabel("iteration")
        if self._mode == "window":
            pyplot().show(block=False)
        return figure, list(panels[:count])

    def _draw(self) -> None:
        points = np.array(self._points)
        for k, (axis, line) in enumerate(zip(self.axes, self._lines, strict=True)):
            line.set_data(self._iterations, points[:, k])
            axis.relim()
            axis.autoscale_view()
        if self._mode == "file":
            path = self.path or Path("nlmefit.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            self._figure.savefig(path, dpi=110)
        elif self._mode == "notebook":
            self._show()
        else:
            self._figure.canvas.draw_idle()
            self._figure.canvas.flush_events()
        self._drawn = time.monotonic()

    def _show(self) -> None:
        """Show the figure in the cell's output, replacing the previous one."""
        import io

        from IPython.display import Image, display

        buffer = io.BytesIO()
        self._figure.savefig(buffer, format="png", dpi=90)
        picture = Image(data=buffer.getvalue())
        if self._handle is None:
            self._handle = display(picture, display_id=True)
        else:
            self._handle.update(picture)

    def _on_close(self, event: Any) -> None:
        self._closed_by_user = True


def _status(entry: Iteration) -> dict[str, Any]:
    """The fields of an output function's `status` that the plot reads."""
    psi = psi_of(entry.binding.density, np.asarray(entry.params.covariance))
    inner = {"procedure": entry.inner.procedure}
    return {"iteration": entry.iteration, "inner": inner, "fval": entry.log_likelihood, "Psi": psi}


def _display() -> str:
    """The display in use: "window", "notebook" or "file"."""
    backend = str(pyplot().get_backend()).lower()
    if backend.startswith(WINDOWS) or "ipympl" in backend:
        return "window"
    return "notebook" if "inline" in backend and "IPython" in sys.modules else "file"


def _interval(mode: str) -> float:
    """Least number of seconds between two drawings: files and notebooks take longer to draw than windows."""
    return {"notebook": MATLAB.notebook_interval, "file": MATLAB.file_interval}.get(mode, MATLAB.window_interval)


def default_output_functions() -> tuple[Callable, ...]:
    """Output functions of nlmefitsa where Options.OutputFcn is not given: `nlmefitoutputfcn` in a notebook or with a
    window system; none where the plot would be a file, or matplotlib is missing."""
    desktop = sys.platform in ("darwin", "win32") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
    if not desktop and "IPython" not in sys.modules:
        return ()  # before the import of matplotlib, which takes time
    try:
        return () if _display() == "file" else (nlmefitoutputfcn,)
    except MissingPlotLibrary:
        return ()


class _OutputFcn(LivePlot):
    """`jaxnlme.nlmefitoutputfcn`: pass it as Options={"OutputFcn": jn.nlmefitoutputfcn}. `to_file(path)` and
    `into(axes)` return plots that draw to a file or into given axes.

    **Example:**

    ```python
    jn.fit(model, data, "focei", callbacks=[jn.nlmefitoutputfcn])
    ```
    """

    def to_file(self, path: str | Path) -> LivePlot:
        """The same plot, drawn to a file."""
        return LivePlot(path)

    def into(self, axes: Any) -> LivePlot:
        """The same plot, drawn into the given matplotlib axes, F + R + 1 of them."""
        return LivePlot(axes=axes)


nlmefitoutputfcn = _OutputFcn()
