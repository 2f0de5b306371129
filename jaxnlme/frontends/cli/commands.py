"""The command line: `jaxnlme demo`, `jaxnlme fit`, `jaxnlme doctor`.

Exit codes: 0, the fit converged (or there was nothing to fit); 1, it did not; 2, it could not be run.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from jaxnlme.fitting.fit import Fit

app = typer.Typer(
    help="Nonlinear mixed-effects models in JAX.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain text: no codes for colours, in files least of all
)

NoCache = Annotated[bool, typer.Option("--no-cache", help="Compile afresh, without the cache folder.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from jaxnlme import __version__

        typer.echo(f"jaxnlme {__version__}")
        raise typer.Exit()


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Nonlinear mixed-effects models in JAX."""


def main() -> None:
    """Run the `jaxnlme` command."""
    app()


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("jaxnlme-demo"),
    no_cache: NoCache = False,
) -> None:
    """Fit theophylline in 12 subjects (ships with the package): print the summary and write a report."""
    with _exit_codes():
        _make_folder(out)
        _cache(no_cache)
        from jaxnlme.fitting.fit import fit
        from jaxnlme.frontends.cli.demo import theophylline

        result = fit(*theophylline(), "focei")
        _finish(result, out)


@app.command(name="fit")
def fit_command(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL.py",
            exists=True,
            dir_okay=False,
            readable=True,
            help="Defines `model`, a jn.NLMEModel, and `data = dict(group=..., y=..., x=[...], v=[...])` with column "
            "names, or `load(path)` that returns a jn.GroupedData.",
        ),
    ],
    table: Annotated[
        Path,
        typer.Argument(metavar="DATA.csv", exists=True, dir_okay=False, readable=True, help="One row an observation."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the report.")],
    method: Annotated[
        list[str],
        typer.Option(
            help="fo, foce, focei, laplace, agq, is, lme, relme, saem or imp; several in turn, each from where the "
            "last one ended: --method saem,focei."
        ),
    ] = ["focei"],  # noqa: B006
    group: Annotated[str | None, typer.Option(help="Column of groups, over the model file's.")] = None,
    y: Annotated[str | None, typer.Option(help="Column of responses, over the model file's.")] = None,
    x: Annotated[list[str], typer.Option(help="Columns that vary within groups: --x Time,Dose.")] = [],  # noqa: B006
    v: Annotated[list[str], typer.Option(help="Columns constant in each group: --v Wt.")] = [],  # noqa: B006
    agq_nodes: Annotated[int | None, typer.Option(min=1, help="Nodes per random effect, with --method agq.")] = None,
    starts: Annotated[
        str | None,
        typer.Option(
            metavar="pooled|groups|multi",
            help="Start from a fit without random effects to all data, or from fits of single groups.",
        ),
    ] = None,
    restricted: Annotated[
        bool,
        typer.Option("--restricted", help="Restricted likelihood: fixed effects integrated out (not agq, is, lme)."),
    ] = False,
    max_iterations: Annotated[
        int | None,
        typer.Option(min=0, show_default="500", help="Of the minimiser; of saem (5000) or imp (2000), of all phases."),
    ] = None,
    replicates: Annotated[
        int | None, typer.Option(min=1, help="Runs of saem or imp side by side, from dispersed starts.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of saem or imp; 0 where none is given.")] = None,
    leave_out_bad_groups: Annotated[
        bool,
        typer.Option("--leave-out-bad-groups", help="Go on without groups that aren't finite at the start."),
    ] = False,
    no_cache: NoCache = False,
) -> None:
    """Fit a model file to a table and write summary, estimates, random effects, the fit and pictures."""
    with _exit_codes(model):
        _cache(no_cache)
        from jaxnlme.fitting.fit import fit
        from jaxnlme.frontends.cli.model_file import data_of, load_model_file, model_of

        options = {"max_iterations": max_iterations, "replicates": replicates, "seed": seed}
        options_given = {name: value for name, value in options.items() if value is not None}
        methods, fit_options = _methods(_split(method), agq_nodes, options_given)
        _make_folder(out)
        module = load_model_file(model)
        nlme_model = model_of(module, model)
        data = data_of(module, model, table, {"group": group, "y": y, "x": _split(x), "v": _split(v)})
        result = fit(
            nlme_model,
            data,
            methods,
            restricted=restricted,
            starts=starts,
            on_bad_group="leave out" if leave_out_bad_groups else "stop",
            **fit_options,
        )
        _finish(result, out)


@app.command()
def doctor(no_cache: NoCache = False) -> None:
    """Print devices, precision, versions and the compilation cache, and time a small fit."""
    with _exit_codes():
        from jaxnlme.frontends.cli.doctor import examine

        for line in examine(_cache(no_cache)):
            typer.echo(line)


def _cache(off: bool) -> Path | None:
    """Enable the compilation cache unless it is `off`: its folder, or None."""
    from jaxnlme.frontends.cache import enable_compilation_cache

    if off:
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        folder = enable_compilation_cache()
    for warning in caught:
        typer.echo(f"jaxnlme: {warning.message}", err=True)
    return folder


def _make_folder(out: Path) -> None:
    """Make the folder of the report and write a file there, before the time of a fit is spent. **Raises:** OptionError
    where that is not possible."""
    from jaxnlme.errors import OptionError

    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise OptionError(
            f"--out: the folder {out} cannot be made or written to ({reason}); name another one."
        ) from None


def _split(names: list[str]) -> list[str]:
    """Column names given one an option or with commas between them."""
    return [part.strip() for name in names for part in name.split(",") if part.strip()]


def _methods(names: list[str], agq_nodes: int | None, options_given: dict[str, int]) -> tuple[list, dict[str, Any]]:
    """The methods, and the options among `options_given` that are passed to `fit` itself.

    **Arguments:** `names`: methods in turn; `agq_nodes`: nodes per random effect of adaptive quadrature, or None;
    `options_given`: max_iterations, replicates and seed where the user gave them.
    **Raises:** OptionError for unknown methods, and for options that apply to none, or not to all, of the methods.
    """
    from jaxnlme.errors import OptionError
    from jaxnlme.estimators.pipeline import ESTIMATORS, LINEARISED, STOCHASTIC
    from jaxnlme.likelihood.approximations import AGQ, approximation

    method_named = f"the method here is {', '.join(names)}."
    simulates = [name.lower() in STOCHASTIC for name in names]
    if agq_nodes is not None and not any(name.lower() == "agq" for name in names):
        raise OptionError(f"--agq-nodes goes with --method agq; {method_named}")
    for option in ("replicates", "seed"):
        if option in options_given and not any(simulates):
            raise OptionError(f"--{option} goes with --method saem or imp; {method_named}")
    if "max_iterations" in options_given and any(simulates) and not all(simulates):
        raise OptionError(f"--max-iterations of saem or imp and of a minimiser are not the same; {method_named}")
    fit_options = {} if any(simulates) else options_given
    methods = []
    for name, is_simulation in zip(names, simulates, strict=True):
        if is_simulation:
            methods.append(STOCHASTIC[name.lower()](**options_given))
        elif name.lower() == "agq" and agq_nodes is not None:
            methods.append(AGQ(agq_nodes))
        else:
            known = {*LINEARISED, *ESTIMATORS}
            methods.append(name if name.lower() in known else approximation(name, sorted(known)))
    return methods, fit_options


def _finish(result: Fit, out: Path) -> None:
    """Print the summary and write the report; exit with code 1 if the fit did not converge."""
    from jaxnlme.frontends.cli.report import write_report

    typer.echo(str(result.summary()))
    files, note = write_report(result, out)
    typer.echo(f"\nWritten to {out.resolve()}: {', '.join(file.name for file in files)}")
    if note:
        typer.echo(note)
    if not result.converged:
        raise typer.Exit(1)


@contextmanager
def _exit_codes(model: Path | None = None) -> Iterator[None]:
    """Refusals are printed as one message, errors of the user's code with their traceback; both exit with code 2."""
    from jaxnlme.errors import JaxnlmeError

    try:
        yield
    except typer.Exit:
        raise
    except JaxnlmeError as error:
        typer.echo(f"jaxnlme: {error}", err=True)
        raise typer.Exit(2) from None
    except OSError as error:
        typer.echo(f"jaxnlme: {error}", err=True)
        raise typer.Exit(2) from None
    except Exception as error:
        from jaxnlme.frontends.cli.model_file import user_traceback

        text = None if model is None else user_traceback(error, model)
        if text is None:
            raise  # neither a refusal nor an error of the user's code: a bug in jaxnlme, shown in full
        typer.echo(f"jaxnlme: the code in {model} raised an error.\n{text}", err=True)
        raise typer.Exit(2) from None
