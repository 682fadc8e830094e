"""The command line: parse, call one function, print. The only part that prints.

A command's module is imported when the command is invoked: `foretaste --help` loads no torch.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

from foretaste import __version__
from foretaste.errors import ForetasteError, UsageError

COMMANDS = {  # name -> where it is, below this package; its line in the list
    "demo": (
        "demo:demo",
        "Fetch MovieLens 100K, check it, train the article's network and ours, measure, recommend.",
    ),
    "fetch": (
        "data:fetch",
        "Fetch a public data set: from its publisher, else from a mirror; checksums are verified.",
    ),
    "check": (
        "data:check",
        "Look a table over before anything is trained on it: counts, oddities, what models would cost.",
    ),
    "train": ("models:train", "Fit a model to all of a table and save it as a bundle."),
    "evaluate": (
        "models:evaluate",
        "Measure models on data they have not seen, with 95 % intervals, beside the baselines.",
    ),
    "compare": (
        "compare:compare",
        "Measure models side by side, each in a process of its own, and write a report.",
    ),
    "cold-start": (
        "cold:cold_start",
        "Measure models on items that nobody has rated, or on users who have said little.",
    ),
    "recommend": (
        "models:recommend",
        "The best items for a user, for a stranger with a history, or for everyone into a file.",
    ),
    "predict": (
        "models:predict",
        "The ratings that a user, or a stranger with a history, would give to items.",
    ),
    "similar": (
        "models:similar",
        "The items nearest to one, by cosine of the model's item vectors.",
    ),
    "explain": (
        "models:explain",
        "Why an item is listed, or is not: what its score loses without each item of the history.",
    ),
    "add-items": (
        "models:add_items",
        "Take new items into a bundle, placed by their columns; nothing is trained again.",
    ),
    "serve": ("serve:serve", "Serve recommendations over HTTP, and the page to see them on."),
    "retrain": (
        "serve:retrain",
        "Train again on the bundle's data and every event since; serve it if it is not worse.",
    ),
    "doctor": (
        "data:doctor",
        "What this installation has: versions, device, threads, where data lives.",
    ),
    "keys": ("serve:keys", "API keys of a service: create, list, revoke."),
}


class Commands(TyperGroup):
    """The commands by name and line alone; the one that is invoked is imported."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, (_, line) in COMMANDS.items():
            self.add_command(TyperCommand(name, help=line))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        """Find the command that the arguments name, and import it.

        Args:
            ctx: The context of the group.
            args: What was written behind `foretaste`.

        Returns:
            Its name, the command, and the arguments that are left.
        """
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and load(str(name)), rest


def load(name: str) -> Any:
    """Import a command.

    Args:
        name: One of COMMANDS.

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
    """Options that stand before the command."""


def main() -> None:
    """Run the command; exit with 0 (done), 1 (failed) or 2 (wrong usage), never with a traceback."""
    try:
        app()
    except ForetasteError as error:
        if "--json" in sys.argv:
            said = {"what": error.what, "where": error.where, "fix": error.fix}
            typer.echo(json.dumps({"error": said}))
        else:
            typer.secho("error: ", fg="red", nl=False, err=True)
            typer.echo(str(error), err=True)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except BrokenPipeError:  # `foretaste ... | head`
        sys.stderr.close()
        sys.exit(1)
    except MemoryError:
        typer.echo(
            "error: out of memory. Try a smaller model; `foretaste check` estimates.", err=True
        )
        sys.exit(1)
