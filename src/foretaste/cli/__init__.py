"""The command line: a command parses, calls one function, and prints; nothing else prints.

The module of a command is imported when it is invoked: `foretaste --help` loads no torch.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

from foretaste import __version__
from foretaste.cli.terminal import close_streams, explained, use_plain_characters
from foretaste.errors import ForetasteError, UsageError

COMMANDS = {  # name -> module and function below this package, line in the list of commands
    "demo": (
        "demo:demo",
        "Fetch MovieLens 100K, check it, train two networks, evaluate, recommend.",
    ),
    "fetch": (
        "data:fetch",
        "Fetch a public data set from its publisher, or from a mirror; checksums are verified.",
    ),
    "check": (
        "data:check",
        "Report on a table before training: counts, oddities, and what models would cost.",
    ),
    "train": ("models:train", "Fit a model to all of a table and save it as a bundle."),
    "evaluate": (
        "models:evaluate",
        "Measure models on held-out data, with 95 % intervals, beside the baselines.",
    ),
    "compare": (
        "compare:compare",
        "Measure models side by side, each in a process of its own, and write a report.",
    ),
    "cold-start": (
        "cold:cold_start",
        "Measure models on items without ratings, or on users with few interactions.",
    ),
    "recommend": (
        "ask:recommend",
        "List the best items for a user, for a new user with a history, or for everyone.",
    ),
    "predict": (
        "ask:predict",
        "Predict the ratings that a user, or a new user with a history, would give to items.",
    ),
    "similar": (
        "ask:similar",
        "List the items nearest to one, by cosine of the model's item vectors.",
    ),
    "explain": (
        "ask:explain",
        "Explain why an item is listed or not: what its score loses without items of the history.",
    ),
    "add-items": (
        "ask:add_items",
        "Add new items to a bundle, placed by their columns; nothing is trained again.",
    ),
    "serve": ("serve:serve", "Serve recommendations over HTTP, with a page to see them on."),
    "retrain": (
        "serve:retrain",
        "Train again on the bundle's data and every event since, and serve it if it is not worse.",
    ),
    "doctor": (
        "data:doctor",
        "Show what this installation has: versions, device, threads, and where data live.",
    ),
    "keys": ("serve:keys", "Create, list and revoke the API keys of a service."),
}


class Commands(TyperGroup):
    """Knows the commands by name and line; the one that is invoked is imported."""

    def __init__(self, **settings: Any) -> None:
        """List the commands.

        Args:
            settings: The settings of the group, as typer gives them.
        """
        super().__init__(**settings)
        for name, (_, line) in COMMANDS.items():
            self.add_command(TyperCommand(name, help=line))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        """Find the command that the arguments name, and import it.

        Args:
            ctx: The context of the group.
            args: The words behind `foretaste`.

        Returns:
            Its name, the command, and the arguments that are left.
        """
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and load(str(name)), rest


def load(name: str) -> Any:
    """Import a command.

    Args:
        name: A name in COMMANDS.

    Returns:
        The command, with its parameters, as typer makes it.
    """
    module, _, what = COMMANDS[name][0].partition(":")
    found = getattr(importlib.import_module(f"{__name__}.{module}"), what)
    alone = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)
    if isinstance(found, typer.Typer):
        alone.add_typer(found, name=name)
    else:
        alone.command(name)(found)
    return get_group(alone).commands[name]


app = typer.Typer(
    name="foretaste",
    cls=Commands,
    help="From a file of ratings or clicks to recommendations people can trust.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    """Print the version and end, where it was asked for."""
    if asked:
        typer.echo(f"foretaste {__version__}")
        raise typer.Exit


@app.callback()
def _all_commands(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Take the options that stand before the command."""


def main() -> None:
    """Run the command and exit with 0 (done), 1 (failed) or 2 (wrong usage).

    A deliberate error is printed without a traceback, and so is a full disk.
    """
    use_plain_characters()
    code = 0
    try:
        try:
            app()
        except ForetasteError as error:
            code = 2 if isinstance(error, UsageError) else 1
            _print_error(error)
        except MemoryError:
            code = 1
            typer.echo(
                "error: out of memory. Try a smaller model; `foretaste check` estimates.", err=True
            )
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # `foretaste ... | head`
        code = 1
    except OSError as error:  # a full disk, also where standard output goes
        code = 1
        with contextlib.suppress(OSError):
            typer.echo(f"error: {explained(error)}", err=True)
    finally:
        close_streams()
    sys.exit(code)


def _print_error(error: ForetasteError) -> None:
    """Print a deliberate error: as JSON to standard output, or as text to standard error."""
    if "--json" in sys.argv:
        answer = {"what": error.what, "where": error.where, "fix": error.fix}
        typer.echo(json.dumps({"error": answer}))
    else:
        typer.secho("error: ", fg="red", nl=False, err=True)
        typer.echo(str(error), err=True)
