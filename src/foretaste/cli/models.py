"""Commands that fit models: train and evaluate."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Collection, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from foretaste.bundle import refuse_foreign
from foretaste.cli.options import (
    Device,
    Diversity,
    EventWeights,
    Fields,
    Json,
    Length,
    Reader,
    Relevance,
    Seed,
    Share,
    reads_ratings,
)
from foretaste.cli.show import byte_meter, emit, say, say_progress, seconds, show_reports
from foretaste.cli.values import LEARN, fields_from
from foretaste.data.dataset import Dataset
from foretaste.data.splitting import Split, split
from foretaste.errors import UsageError
from foretaste.evaluation.evaluate import Report
from foretaste.evaluation.evaluate import evaluate as measure
from foretaste.experiments.entrants import baselines as baselines_of
from foretaste.experiments.event_weights import learn_event_weights, reweighed
from foretaste.experiments.recipes import evaluate_recipe, load_recipe
from foretaste.experiments.report.pictures import learning_curve
from foretaste.models import MODELS, model_named
from foretaste.models.base import configure
from foretaste.recommending.fitting import fit
from foretaste.recommending.recommender import Recommender
from foretaste.training.checkpoints import Checkpoints

COMPARED = ("rmse", "recall", "ndcg", "hit_rate")
ModelName = Annotated[str, typer.Option(help=f"One of {', '.join(MODELS)}.")]


@reads_ratings
def train(
    read_ratings: Reader,
    model: ModelName = "embedding-net",
    out: Annotated[Path, typer.Option(help="Folder of the bundle.")] = Path("bundle"),
    settings: Fields = None,
    event_weights: EventWeights = None,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start anew: drop the checkpoint of an earlier run.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fit a model to all of a table and save it as a bundle.

    If it is killed, the same command goes on exactly where it was. Ctrl-C keeps the best epoch so
    far.

    Example: foretaste train ratings.csv --model embedding-net --out bundle
    """
    chosen = configure(model_named(model), fields_from(settings))
    ratings = read_ratings()
    refuse_foreign(out)  # before the hours of training, not after
    learned = None
    if event_weights == LEARN:
        learned = learn_event_weights(ratings, chosen, seed=seed, progress=say_progress)
        ratings = ratings.with_event_weights(learned.weights)
    run = training_folder(out)
    if fresh:
        shutil.rmtree(run, ignore_errors=True)
    recommender = fit(
        chosen, ratings, seed=seed, device=device, precision=precision, folder=run, progress=True
    )
    if learned is not None:
        recommender.training["event_weights"] = learned.summary()
    pictures = finish(recommender, out, run)
    if as_json:
        emit({"bundle": out, "model": model, **recommender.training, "curve": pictures})
        return
    say(f"{ratings!r}: {model} trained in {seconds(recommender.training['seconds'])}.")
    if learned is not None:
        say(learned.sentence)
    if recommender.training.get("interrupted"):
        say(
            "Stopped by Ctrl-C: the best epoch so far is kept; the same command goes on from there."
        )
    for note in recommender.training.get("notes", ()):
        say(f"Note: {note}")
    for picture in pictures:
        say(f"Learning curve: {picture}")
    say(f"Bundle: {out}")
    say(f"Next: {shlex.join(_next(out, ratings))}")


def _next(out: Path, ratings: Dataset) -> list[str]:
    """Return a command that asks the new bundle; a catalogue without ratings has no user."""
    if len(ratings):
        return ["foretaste", "recommend", str(out), "--user", str(ratings.users.values[0])]
    return ["foretaste", "similar", str(out), str(ratings.items.values[0])]


def training_folder(out: Path) -> Path:
    """Return the folder beside a bundle for its checkpoint, run log and learning curve.

    Args:
        out: The folder of the bundle.
    """
    return out.with_name(out.name + ".training")


def finish(recommender: Recommender, out: Path, run: Path) -> list[Path]:
    """Save a bundle, draw its learning curve, and drop the checkpoint of a complete run.

    Args:
        recommender: What was fitted.
        out: The folder of the bundle.
        run: The folder of the checkpoint and the curve.

    Returns:
        Paths of the pictures; none for a model without a learning curve.
    """
    recommender.save(out)
    if not recommender.training.get("interrupted"):
        Checkpoints(run).drop()
    curve = getattr(recommender.model, "curve_", None)
    if not curve or curve[0]["validation"] is None:
        return []
    title = f"{recommender.model.name} on {recommender.dataset.name}"
    return learning_curve(curve, run / "curve", title=title)


@reads_ratings
def evaluate(
    read_ratings: Reader,
    source: Annotated[str | None, typer.Argument(help="A table, as for `train`.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="A recipe: data, split, model and target.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A model to measure beside the baselines; repeatable.")
    ] = None,
    how: Annotated[
        str,
        typer.Option("--split", help="random, leave-last, next-item, time, users, or canonical."),
    ] = "random",
    test: Share = 0.2,
    k: Length = 10,
    diversity: Diversity = 0.0,
    relevance_threshold: Relevance = None,
    settings: Fields = None,
    event_weights: EventWeights = None,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure models on held-out data, with 95 % intervals, beside the baselines.

    With --recipe the data, split, model and target are the recipe's; exit code 1 if it misses it.

    Example: foretaste evaluate --recipe ml-1m-embedding-net --json
    """
    if (recipe is None) == (source is None):
        raise UsageError("give a table or --recipe.", fix="foretaste evaluate --help shows both.")
    if recipe is not None:
        _evaluate_recipe(recipe, device, as_json)
        return
    names = model or ["embedding-net"]
    chosen = [configure(model_named(name), fields_from(settings)) for name in names]
    ratings = read_ratings()
    parts, learned = split(ratings, how, test=test, seed=seed), None
    if event_weights == LEARN:
        learned = learn_event_weights(parts.train, chosen[0], seed=seed, progress=say_progress)
        parts = reweighed(parts, learned.weights, learned.target)
    measured = partial(measure, k=k, relevance_threshold=relevance_threshold)
    reports = baselines(parts, k, relevance_threshold)
    for candidate in chosen:
        recommender = fit(candidate, parts.train, seed=seed, device=device, progress=True)
        reports[candidate.name] = measured(recommender, parts)
        if diversity:  # what it costs, beside the plain lists
            label = f"{candidate.name}, diversity {diversity:g}"
            reports[label] = measured(recommender, parts, ratings=False, diversity=diversity)
    if as_json:
        more = {} if learned is None else {"event_weights": learned.summary()}
        emit({"reports": {name: report.summary() for name, report in reports.items()}} | more)
        return
    show_comparison(parts, reports)
    if learned is not None:
        say(learned.sentence)


def baselines(parts: Split, k: int, relevance_threshold: float | None = None) -> dict[str, Report]:
    """Return reports of the baselines that suit the data.

    Args:
        parts: The split.
        k: Length of the lists.
        relevance_threshold: Lowest rating that a list should find; None for the default.
    """
    measured = partial(measure, k=k, relevance_threshold=relevance_threshold)
    return {
        label: measured(fit(model, parts.train, progress=False), parts)
        for label, model in baselines_of(parts.train).items()
    }


def _trimmed(report: Report, kept: Collection[str] = COMPARED) -> Report:
    """Return a report with the metrics that fit a terminal; --json has them all."""
    names = [n for n in report.metrics if n in kept or n.partition("@")[0] in kept]
    return replace(report, metrics={name: report.metrics[name] for name in names})


def show_comparison(parts: Split, reports: dict[str, Report]) -> None:
    """Print the protocol, then a table with a line for each model and a column for each metric.

    Args:
        parts: The split.
        reports: Reports by the names of models.
    """
    say(f"{parts.train.name}: {parts.protocol}; {len(parts.test):,} test interactions.")
    show_reports({name: _trimmed(report) for name, report in reports.items()})
    show_notes(reports.values())
    say("Grey: 95 % bootstrap intervals over users. Rankings are over the full catalogue.")


def show_notes(reports: Iterable[Report]) -> None:
    """Print the notes of reports, each once.

    Args:
        reports: Reports.
    """
    for note in dict.fromkeys(note for report in reports for note in report.notes):
        say(f"Note: {note.removesuffix('.')}.")


def _evaluate_recipe(name: str, device: str, as_json: bool) -> None:
    """Run a recipe, print what came out, and exit with 0 where the target is met."""
    recipe = load_recipe(name)
    with byte_meter(f"fetching {recipe.data}") as meter:
        result = evaluate_recipe(recipe, device=device, progress=True, meter=meter)
    if as_json:
        emit(result.summary())
    else:
        say(f"{recipe.title}: {result.report.protocol}.")
        show_reports({recipe.model: _trimmed(result.report, {t.metric for t in recipe.targets})})
        show_notes([result.report])
        for target in recipe.targets:
            value = result.report.metrics[target.metric].value
            goal = (
                f"at most {target.at_most}"
                if target.at_most is not None
                else f"at least {target.at_least}"
            )
            verdict = "met" if target.met(value) else "MISSED"
            say(f"{target.metric} {value:.4f}, target {goal}: {verdict}. {target.source}")
    raise typer.Exit(0 if result.met else 1)
