"""The command line: parse, call one function, print. The only part that prints."""

from __future__ import annotations

import json
import sys

import typer

from foretaste.cli import data, models, serve
from foretaste.cli.cold import cold_start
from foretaste.cli.compare import compare
from foretaste.cli.demo import demo
from foretaste.errors import ForetasteError, UsageError

app = typer.Typer(
    name="foretaste",
    help="From a file of ratings or clicks to recommendations people can trust.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    demo, data.fetch, data.check, models.train, models.evaluate, compare, cold_start,
    models.recommend, models.predict, models.similar, models.explain, models.add_items,
    serve.serve, serve.retrain,
    data.doctor,
):  # fmt: skip
    app.command()(command)
app.add_typer(serve.keys, name="keys")


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
