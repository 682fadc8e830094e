"""Commands that fit a model or ask one: train, evaluate, recommend, predict, similar."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from foretaste.bundle import refuse_foreign
from foretaste.cli.options import (
    Bundle,
    Device,
    Fields,
    Json,
    Length,
    Reader,
    Seed,
    Share,
    fields_from,
    history_from,
    reads_ratings,
    user_features_from,
)
from foretaste.cli.show import byte_meter, emit, say, seconds, show_frame, show_reports
from foretaste.data.dataset import Dataset
from foretaste.data.splitting import Split, split
from foretaste.errors import UsageError
from foretaste.evaluation.evaluate import Report
from foretaste.evaluation.evaluate import evaluate as measure
from foretaste.experiments.entrants import baselines as baselines_of
from foretaste.experiments.recipes import evaluate_recipe, load_recipe
from foretaste.experiments.report.pictures import learning_curve
from foretaste.models import MODELS, model_named
from foretaste.models.base import configure
from foretaste.recommending.fitting import fit, load
from foretaste.recommending.recommender import Recommender
from foretaste.recommending.request import Request
from foretaste.training.checkpoints import Checkpoints

COMPARED = ("rmse", "recall", "ndcg", "hit_rate")
ModelName = Annotated[str, typer.Option(help=f"One of {', '.join(MODELS)}.")]
User = Annotated[str | None, typer.Option(help="A user of the training data.")]
Diversity = Annotated[
    float, typer.Option(help="0 to 1: trade relevance for lists that repeat themselves less.")
]
HistoryText = Annotated[
    str | None,
    typer.Option("--history", help="A stranger: item ids (liked), or id=rating, between commas."),
]

UserFeatures = Annotated[
    str | None,
    typer.Option(help="What else is known of a stranger, by the users' columns: gender=F,age=25."),
]


@reads_ratings
def train(
    read_ratings: Reader,
    model: ModelName = "embedding-net",
    out: Annotated[Path, typer.Option(help="Folder of the bundle.")] = Path("bundle"),
    settings: Fields = None,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget a checkpoint of an earlier run.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fit a model to all of a table and save it as a bundle.

    Killed half-way, the same command goes on exactly where it was; Ctrl-C keeps the best so far.

    Example: foretaste train ratings.csv --model embedding-net --out bundle
    """
    chosen = configure(model_named(model), fields_from(settings))
    ratings = read_ratings()
    refuse_foreign(out)  # before the hours of training, not after
    run = training_folder(out)
    if fresh:
        shutil.rmtree(run, ignore_errors=True)
    recommender = fit(
        chosen, ratings, seed=seed, device=device, precision=precision, folder=run, progress=True
    )
    pictures = finish(recommender, out, run)
    if as_json:
        emit({"bundle": out, "model": model, **recommender.training, "curve": pictures})
        return
    say(f"{ratings!r}: {model} trained in {seconds(recommender.training['seconds'])}.")
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
    """A command that asks the new bundle; a catalogue has no user to ask for."""
    if len(ratings):
        return ["foretaste", "recommend", str(out), "--user", str(ratings.users.values[0])]
    return ["foretaste", "similar", str(out), str(ratings.items.values[0])]


def training_folder(out: Path) -> Path:
    """Where the checkpoint, the run log and the learning curve of a bundle lie: beside it."""
    return out.with_name(out.name + ".training")


def finish(recommender: Recommender, out: Path, run: Path) -> list[Path]:
    """Save the bundle, draw the curve, and drop the checkpoint of a run that is complete."""
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
        list[str] | None, typer.Option(help="Models beside the baselines; repeatable.")
    ] = None,
    how: Annotated[
        str, typer.Option("--split", help="random, leave-last, time, users, or canonical.")
    ] = "random",
    test: Share = 0.2,
    k: Length = 10,
    diversity: Diversity = 0.0,
    settings: Fields = None,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure models on data they have not seen, with 95 % intervals, beside the baselines.

    With --recipe the data, split, model and target are the recipe's; exit status 1 if it misses.

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
    parts = split(ratings, how, test=test, seed=seed)
    reports = baselines(parts, k)
    for candidate in chosen:
        recommender = fit(candidate, parts.train, seed=seed, device=device, progress=True)
        reports[candidate.name] = measure(recommender, parts, k=k)
        if diversity:  # what it costs, beside the plain lists
            label = f"{candidate.name}, diversity {diversity:g}"
            reports[label] = measure(recommender, parts, k=k, ratings=False, diversity=diversity)
    if as_json:
        emit({"reports": {name: report.summary() for name, report in reports.items()}})
        return
    show_comparison(parts, reports)


def baselines(parts: Split, k: int) -> dict[str, Report]:
    """Reports of the models that anything must beat, as far as they apply to the data."""
    return {
        label: measure(fit(model, parts.train, progress=False), parts, k=k)
        for label, model in baselines_of(parts.train).items()
    }


def _trimmed(report: Report, kept: Collection[str] = COMPARED) -> Report:
    """Only the metrics that fit a terminal; --json has them all."""
    names = [n for n in report.metrics if n in kept or n.partition("@")[0] in kept]
    return replace(report, metrics={name: report.metrics[name] for name in names})


def show_comparison(parts: Split, reports: dict[str, Report]) -> None:
    """The protocol in words, then models down and metrics across."""
    say(f"{parts.train.name}: {parts.protocol}; {len(parts.test):,} test interactions.")
    show_reports({name: _trimmed(report) for name, report in reports.items()})
    show_notes(reports.values())
    say("Grey: 95 % bootstrap intervals over users. Rankings are over the full catalogue.")


def show_notes(reports: Iterable[Report]) -> None:
    """What a reader of the numbers should know, each thing once."""
    for note in dict.fromkeys(note for report in reports for note in report.notes):
        say(f"Note: {note.removesuffix('.')}.")


def _evaluate_recipe(name: str, device: str, as_json: bool) -> None:
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


def recommend(
    bundle: Bundle,
    user: User = None,
    history: HistoryText = None,
    user_features: UserFeatures = None,
    k: Annotated[int, typer.Option("--k", "-k", help="How many.")] = 10,
    where: Annotated[str | None, typer.Option(help="SQL on item columns: year >= 1990")] = None,
    exclude: Annotated[
        str | None, typer.Option(help="Item ids never to list, between commas.")
    ] = None,
    include_seen: Annotated[
        bool, typer.Option("--include-seen", help="List seen items too.")
    ] = False,
    diversity: Diversity = 0.0,
    all_users: Annotated[
        bool, typer.Option("--all-users", help="For every user, into the file --out.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="A Parquet file: user, item, score, rank.")
    ] = None,
    as_json: Json = False,
) -> None:
    """The best items for a user, for a stranger with a history, or for everyone into a file.

    Example: foretaste recommend bundle --history "50,172,181"
    """
    if all_users != (out is not None) or (all_users and (user or history)):
        raise UsageError(
            "--all-users and --out go together, without --user and --history.",
            fix="Write --all-users --out recommendations.parquet.",
        )
    if out is not None:
        recommender, started = load(bundle), time.monotonic()
        recommender.export(
            out, k, where=where, exclude=list(history_from(exclude or "")),
            exclude_seen=not include_seen, diversity=diversity, progress=True,
        )  # fmt: skip
        users, took = len(recommender.dataset.users), time.monotonic() - started
        if as_json:
            emit({"out": out, "users": users, "seconds": took})
        else:
            say(f"{out}: lists of {users:,} users in {seconds(took)}.")
        return
    _one_asked(user, history)
    recommender = load(bundle)
    (answer,) = recommender.answer(
        [
            Request(
                user, history=None if history is None else history_from(history),
                user_features=user_features_from(user_features) or None, k=k, where=where,
                exclude=list(history_from(exclude or "")), exclude_seen=not include_seen,
                diversity=diversity,
            )
        ]
    )  # fmt: skip
    show_frame(recommender.frame(answer), as_json, unknown=answer.unknown)


def predict(
    bundle: Bundle,
    items: Annotated[str, typer.Option("--items", "--item", help="Item ids, between commas.")],
    user: User = None,
    history: HistoryText = None,
    user_features: UserFeatures = None,
    as_json: Json = False,
) -> None:
    """The ratings that a user, or a stranger with a history, would give to items.

    Example: foretaste predict bundle --user 42 --items 50,172
    """
    _one_asked(user, history)
    asked = list(history_from(items))
    if user is not None:
        frame = load(bundle).predict(
            [user], asked, user_features=user_features_from(user_features) or None
        )
    else:
        frame = load(bundle).predict(
            items=asked,
            history=history_from(str(history)),
            user_features=user_features_from(user_features),
        )
    show_frame(frame, as_json)


def _one_asked(user: str | None, history: str | None) -> None:
    if (user is None) == (history is None):
        raise UsageError(
            "give either --user or --history.", fix="A stranger is a history: --history 50=5,172=3."
        )


def similar(
    bundle: Bundle,
    item: Annotated[str, typer.Argument(help="An item id.")],
    k: Annotated[int, typer.Option("--k", "-k", help="How many.")] = 10,
    as_json: Json = False,
) -> None:
    """The items nearest to one, by cosine of the model's item vectors.

    Example: foretaste similar bundle 50
    """
    show_frame(load(bundle).similar(item, k=k), as_json)


def add_items(
    bundle: Bundle,
    items: Annotated[Path, typer.Argument(help="A table of new items: id and what is known.")],
    out: Annotated[Path, typer.Option(help="Folder of the new bundle.")],
    as_json: Json = False,
) -> None:
    """Take new items into a bundle, placed by their columns; nothing is trained again.

    Example: foretaste add-items bundle new-films.csv --out bundle2
    """
    refuse_foreign(out)
    known = load(bundle)
    grown = known.with_items(items)
    grown.save(out)
    rows = slice(len(known.dataset.items), None)
    added = grown.dataset.items.values[rows].to_list()
    if as_json:
        emit({"bundle": out, "added": added, "items": len(grown.dataset.items)})
        return
    say(f"{len(added):,} items added, {len(grown.dataset.items):,} in all.")
    say(f"Bundle: {out}")
    say(f"Next: {shlex.join(['foretaste', 'similar', str(out), str(added[0])])}")


def explain(
    bundle: Bundle,
    item: Annotated[str, typer.Option(help="The item to be explained.")],
    user: User = None,
    history: HistoryText = None,
    user_features: UserFeatures = None,
    as_json: Json = False,
) -> None:
    """Why an item is listed, or is not: what its score loses without each item of the history.

    Example: foretaste explain bundle --user 42 --item 181
    """
    _one_asked(user, history)
    past, told = (
        None if history is None else history_from(history),
        user_features_from(user_features),
    )
    recommender = load(bundle)
    carried = recommender.explain(user, history=past, item=item, user_features=told)
    place = recommender.place(Request(user, history=past, user_features=told), item)
    if as_json:
        emit({"place": vars(place), "rows": carried.to_dicts()})
        return
    say(f"{item}: score {place.score:.4f}. {place.why}")
    show_frame(carried.head(10), as_json)
