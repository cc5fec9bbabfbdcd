"""The `dynse` command: its subcommands, and how any failure becomes one line and an exit code.

Only here do errors turn into exit codes: 0 all done, 1 an input failed, 2 usage or something that
the whole run needs cannot be used, 130 interrupted.
Nothing heavy is imported at module level, so that `dynse --help` answers at once.
"""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from typing import Annotated, Any

import typer

from .. import __version__
from ..audio.errors import DynseError, UnusableError
from .enhance import enhance
from .evaluate import evaluate
from .export import export
from .fit_probes import fit_probes
from .models import models
from .probe import probe
from .progress import abandon, say
from .train import train

app = typer.Typer(
    name="dynse",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Speech enhancement that prunes its own channels frame by frame.",
)


# Newer typers carry a click of their own: take the base class from what typer raises.
_ClickException: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dynse {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


app.command()(enhance)
app.command()(probe)
app.command("fit-probes")(fit_probes)
app.command()(train)
app.command()(evaluate)
app.command()(models)
app.command()(export)


def main() -> None:
    """Run the command line; never returns."""
    _open_what_is_closed()
    code = _run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError:
        # Told already; Python would try again at its exit, complain and end with 120.
        _deserted()
        code = code or 1
    try:
        sys.stderr.flush()
    except OSError:
        abandon(sys.__stderr__, 2)
    sys.exit(code)


def _open_what_is_closed() -> None:
    """Let descriptors 0 to 2 be what they should be, if dynse is started without one of them.

    Otherwise the first file to be opened would take its place, and get to hear the messages of C
    libraries; Python's print would send messages for stderr to stdout. Reading stdin then finds
    nothing, writing to stdout fails, messages vanish.
    """
    for number, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # the lowest free number
    sys.stdin = sys.stdin or open(0)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w")  # noqa: SIM115


def _run(arguments: list[str]) -> int:
    try:
        code = app(arguments, prog_name="dynse", standalone_mode=False)
        if isinstance(code, int) and code:
            return code
        sys.stdout.flush()
        return 0
    except _ClickException as error:
        with suppress(OSError):
            error.show()
        return int(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _say("interrupted", 130)
    except BrokenPipeError:
        return _deserted()
    except SystemExit as error:
        # What typer makes of a closed pipe.
        if isinstance(error.__context__, BrokenPipeError):
            return _deserted()
        raise
    except DynseError as error:
        return _say(str(error), 2 if isinstance(error, UnusableError) else 1)
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        return _say(f"{name}{error.strerror or error}", 1)
    except Exception as error:
        if {"-v", "--verbose"} & set(arguments):
            say(traceback.format_exc().rstrip("\n"))
        return _say(f"internal error, {type(error).__name__}: {error} (-v shows where)", 1)


def _deserted() -> int:
    """The reader of a pipe has gone: nothing to tell anybody."""
    abandon(sys.__stdout__, 1)
    return 0


def _say(message: str, code: int) -> int:
    say(f"dynse: {message}")
    return code
