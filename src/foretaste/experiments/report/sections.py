"""The report of a comparison as sections of words, tables and drawings, before it is a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl

from foretaste.data.dataset import Dataset
from foretaste.data.splitting import Split
from foretaste.evaluation.cold_start import ColdStart
from foretaste.evaluation.evaluate import relevant_rows
from foretaste.evaluation.statistics import Interval
from foretaste.experiments.comparison import Comparison
from foretaste.experiments.conclusion import FEW, conclusion, metric_name, ranked, rivals
from foretaste.experiments.report.drawings import (
    accuracy_against_cost,
    curves,
    interval_plot,
    new_users,
    rank_lines,
)
from foretaste.experiments.results import example_users
from foretaste.experiments.trials import CASES, METRIC
from foretaste.models.base import default_threshold

NOBODY = "–"  # where a number would stand: nothing is known
SHOWN = 5  # items of each list of an example user
NEW_USERS = (
    "People who were not in training, of whom the models are shown a few interactions, drawn at "
    "random; the same items are to be found in every column."
)
NEW_ITEMS = (
    "Items that nobody in training had: among themselves, and competing with known ones. What "
    "known items lose to them is the step to the last column."
)
NEW_ITEMS_HEADS = ["new among new", "known among known", "new among all", "known among all"]
Cell = str | tuple[str, str]  # the second is quiet: an interval, a remark


@dataclass(frozen=True)
class Section:
    """A heading, sentences, a table (first column words, the rest numbers), a drawing.

    picture: an <svg> element of ours.  Everything else is plain text, to be escaped.  marked: rows
    to stand out.  prose: the table holds words in all columns.
    """

    title: str
    words: Sequence[str] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[Cell]] = ()
    picture: str = ""
    marked: Sequence[int] = ()
    prose: bool = False
    notes: Sequence[str] = field(default_factory=tuple)


def sections(comparison: Comparison) -> list[Section]:
    """All of the report, the verdict first."""
    said = conclusion(comparison)
    verdict = Section(f"Which recommender for {comparison.parts.train.name}?", said)
    found = [verdict, _models(comparison), _cost(comparison), _intervals(comparison)]
    found += [_pairs(comparison), _segments(comparison), *_cold(comparison), _variety(comparison)]
    curve_of = {m: runs[0].curve for m, runs in comparison.runs.items() if runs[0].curve}
    if curve_of:
        words = ["Error on validation data carved from train; the kept epoch is the lowest point."]
        found.append(Section("Learning curves", words, picture=curves(curve_of)))
    return [*found, _stability(comparison), *_examples(comparison), *_cards(comparison)]


def _value(found: Interval | None, digits: int = 3) -> Cell:
    if found is None or not found.known:
        return NOBODY
    return f"{found.value:.{digits}f}", f"{found.low:.{digits}f}–{found.high:.{digits}f}"


def _interval(row: Mapping[str, Any], value: str = "value") -> Interval | None:
    """The interval of a line of a table; None where nobody was measured."""
    return None if row[value] is None else Interval(row[value], row["low"], row["high"])


def _models(comparison: Comparison) -> Section:
    k = comparison.k
    names = [f"ndcg@{k}", f"recall@{k}", f"hit_rate@{k}", f"mrr@{k}"]
    if any("rmse" in found for found in comparison.values.values()):
        names.append("rmse")
    costs = {row["model"]: row for row in comparison.costs().iter_rows(named=True)}
    rows: list[list[Cell]] = []
    for label, found in comparison.values.items():
        cost = costs[label]
        rows.append(
            [
                (label, "floor") if label in comparison.baselines else label,
                *(_value(found.get(name)) for name in names),
                f"{cost['fit_seconds']:.1f} s",
                f"{cost['score_seconds']:.1f} s",
                f"{cost['peak_memory_mib']:,.0f} MiB",
            ]
        )
    best_possible = [
        f"{comparison.ceilings[n]:.3f}" if n in comparison.ceilings else "" for n in names
    ]
    rows.append([("ceiling", "best possible"), *best_possible, "", "", ""])
    best = next(iter(comparison.values))
    equals = [best, *rivals(comparison, best, comparison.metric)]
    return Section(
        "The models",
        ["In grey: 95 % bootstrap intervals over users. Highlighted: the best lists, and those "
         "that chance alone could have put behind them."],
        ["model", *map(metric_name, names), "fit", "lists and metrics", "peak memory"],
        rows,
        marked=[n for n, label in enumerate(comparison.values) if label in equals],
        notes=[f"{label} failed: {why}" for label, why in comparison.failed.items()]
        + [f"Not in, until named: {', '.join(names)}." for names in [comparison.left_out] if names],
    )  # fmt: skip


def _cost(comparison: Comparison) -> Section:
    words = "Up is better, left is cheaper. Baselines are grey; bars are 95 % intervals."
    return Section("Accuracy against cost", [words], picture=accuracy_against_cost(comparison))


def _intervals(comparison: Comparison) -> Section:
    words = (
        f"{metric_name(comparison.metric)} with its 95 % interval over users. Intervals that "
        "overlap do not say that models are equal: the paired differences below are what decides."
    )
    return Section("How sure is that?", [words], picture=interval_plot(comparison))


def _pairs(comparison: Comparison) -> Section:
    best, metric = next(iter(comparison.values)), comparison.metric
    frame = comparison.pairs.filter((pl.col("metric") == metric) & (pl.col("a") == best))
    rows: list[list[Cell]] = [
        [
            row["b"], (f"{row['difference']:+.3f}", f"{row['low']:+.3f} to {row['high']:+.3f}"),
            _p(row["p_holm"]), "chance" if row["better"] is None else "real",
        ]
        for row in frame.iter_rows(named=True)
    ]  # fmt: skip
    words = (
        f"{best} less each other model in {metric_name(metric)}, from 1,000 resamples of users, "
        f"the same for both; p corrected (Holm) for all pairs of {len(comparison.values)}."
    )
    return Section(
        "Paired differences", [words], ["against", "difference", "p", "the lead is"], rows
    )


def _p(value: float | None) -> str:
    if value is None:  # there were no two resamples to tell
        return NOBODY
    return "below 0.001" if value < 0.001 else f"{value:.3f}"


def _segments(comparison: Comparison) -> Section:
    frame = comparison.segments()
    names = frame["segment"].unique(maintain_order=True).to_list()
    rows: list[list[Cell]] = []
    for label in comparison.values:
        own = {row["segment"]: row for row in frame.filter(model=label).iter_rows(named=True)}
        rows.append([label, *(_value(_interval(own[n], "recall")) for n in names)])
    heads = [name.partition(":")[0] for name in names]
    notes = [f"{head}: {name.partition(': ')[2]}." for head, name in zip(heads, names, strict=True)]
    words = [f"recall@{comparison.k} within each group."]
    return Section("Who is served well?", words, ["model", *heads], rows, notes=notes)


def _cold(comparison: Comparison) -> list[Section]:
    """New users and new items, where they were measured or something kept them from it."""
    found = []
    for kind, title, best_at, words, heads in (
        (
            "users",
            "New users: what a few interactions are worth",
            FEW,
            NEW_USERS,
            [*CASES["users"], f"{FEW} of all"],
        ),
        ("items", "New items: told by their columns alone", "cold", NEW_ITEMS, NEW_ITEMS_HEADS),
    ):
        cold, notes = comparison.cold.get(kind), list(comparison.not_cold.get(kind, ()))
        if cold is None:
            found += [Section(title, ["Not measured here."], notes=notes)] if notes else []
            continue
        metric = f"{METRIC[kind]}@{comparison.k}"
        value = {
            (row["model"], row["case"]): _interval(row)
            for row in cold.frame().filter(metric=metric).iter_rows(named=True)
        }
        rows: list[list[Cell]] = []
        order = ranked(cold, metric, best_at)
        for label in order:
            name = (label, "floor") if label in comparison.baselines else label
            rows.append([name, *(_value(value[label, case]) for case in CASES[kind])])
            if kind == "users":
                own = label not in comparison.baselines
                rows[-1].append(_share(cold, metric, label) if own else NOBODY)
        drawn = kind == "users" and any(m is not None for m in value.values())
        picture = new_users(comparison, cold, metric, order) if drawn else ""
        said = [f"{metric_name(metric)}. {words}"]
        notes = [f"Held out of the training data: {cold.protocol}.", *notes]
        found.append(Section(title, said, ["model", *heads], rows, picture, notes=notes))
    return found


def _share(cold: ColdStart, metric: str, label: str) -> Cell:
    found = cold.ratio(metric, (label, FEW), (label, "all"))
    if not found.known:
        return NOBODY
    return f"{found.value:.0%}", f"{found.low:.0%}–{found.high:.0%}"


def _variety(comparison: Comparison) -> Section:
    forms = ["{:.1%}", "{:.1f} bits", "{:.2f}", "{:.0%}"]
    rows: list[list[Cell]] = [
        [
            label,
            *(
                NOBODY if value is None else words.format(value)
                for value, words in zip(values, forms, strict=True)
            ),
        ]
        for label, *values in comparison.variety().iter_rows()
    ]
    notes = [
        "coverage: share of the catalogue in someone's list.",
        "novelty: how rare a listed item is among users; 10 bits is one user of 1,024.",
        "diversity: 1 less the mean cosine of two items of a list by who has them.",
        "head items: share of the lists that goes to the few items with half of all interactions.",
    ]
    header = ["model", "coverage", "novelty", "diversity", "head items"]
    return Section("Beyond accuracy", header=header, rows=rows, notes=notes)


def _stability(comparison: Comparison) -> Section:
    frame = comparison.seeds()
    moving = {label: len(runs) for label, runs in comparison.runs.items() if len(runs) > 1}
    if not moving:
        return Section("Seeds", ["Every model ran once: none of them was run with several seeds."])
    spread = frame.group_by("model").agg(gap=pl.col("value").max() - pl.col("value").min())
    widest = spread.sort("gap").row(-1)
    places = dict(frame.group_by("model").agg(pl.col("rank").n_unique()).iter_rows())
    same = max(places.values()) == 1
    first = places[next(iter(comparison.values))] == 1
    words = [
        f"{len(moving)} of {len(comparison.runs)} models depend on their seed and ran with "
        f"{max(moving.values())}.",
        "The order was the same every time."
        if same
        else f"The first place was {'the same every time' if first else 'not always the same'}; "
        "where lines cross, the seed decided.",
        f"The widest spread is {widest[1]:.3f}, of {widest[0]}.",
    ]
    return Section("Rank stability over seeds", words, picture=rank_lines(comparison))


def titles_of(dataset: Dataset, ids: pl.Series) -> list[str]:
    """Titles of items where the data have them, else their ids."""
    table = dataset.item_table
    if table is None or "title" not in table.columns:
        return [str(i) for i in ids]
    rows = dataset.items.find(ids)
    titles = table["title"]
    return [
        str(i) if row < 0 or titles[int(row)] is None else str(titles[int(row)])
        for i, row in zip(ids, rows, strict=True)
    ]


def _liked(dataset: Dataset, user: object, border: float, last: int) -> pl.Series:
    """The items that a user liked, newest first; all of them where none reaches the border."""
    row = int(dataset.users.find([user])[0])
    if row < 0:
        return dataset.items.values.head(0)
    start, end = dataset.pointers[row], dataset.pointers[row + 1]
    x = dataset.interactions
    rows = np.arange(start, end)[::-1]
    liked = rows[relevant_rows(dataset, dataset, border)[rows]]
    return dataset.items[x.item_r[liked][:last]]


def _examples(comparison: Comparison) -> list[Section]:
    parts = comparison.parts
    found = []
    for row in example_users(parts):
        user = parts.test.users.values[int(row)]
        found.append(_example(comparison, parts, user))
    return found


def _example(comparison: Comparison, parts: Split, user: object) -> Section:
    border = default_threshold(parts.train, None)
    history = _liked(parts.history, user, border, SHOWN)
    hidden = _liked(parts.test, user, border, len(parts.test))
    wanted = {str(i) for i in hidden}
    rows: list[list[Cell]] = []
    for label in comparison.values:
        lists = comparison.runs[label][0].lists
        if lists is None:
            continue
        listed = lists.filter(pl.col("user") == user)["item"].head(SHOWN)
        named = titles_of(parts.train, listed)
        hits = [str(i) in wanted for i in listed]
        cells: list[Cell] = [(t, "liked") if hit else t for t, hit in zip(named, hits, strict=True)]
        rows.append([label, *cells, *[""] * (SHOWN - len(cells))])
    liked = "; ".join(titles_of(parts.history, history)) or "nothing so far"
    looked_for = "; ".join(titles_of(parts.test, hidden.head(SHOWN))) or "nothing"
    more = f" and {len(hidden) - SHOWN} more" if len(hidden) > SHOWN else ""
    return Section(
        f"Example: user {user}",
        [f"Liked lately: {liked}.", f"To be found: {looked_for}{more}."],
        ["model", *(str(place) for place in range(1, SHOWN + 1))], rows, prose=True,
    )  # fmt: skip


def _cards(comparison: Comparison) -> list[Section]:
    parts = comparison.parts
    train, test = parts.train, parts.test
    lengths = np.diff(train.pointers)
    rows: list[list[Cell]] = [
        ["train", f"{len(train):,}", f"{len(train.users):,}", f"{len(train.items):,}"],
        ["test", f"{len(test):,}", f"{len(test.users):,}", f"{len(test.items):,}"],
    ]
    notes = [f"Split: {parts.protocol}.", *_facts(train, lengths)]
    notes += [
        f"{note[0].upper()}{note[1:]}." for note in next(iter(comparison.runs.values()))[0].notes
    ]
    notes.append(f"Fingerprint of the training data: {train.fingerprint[:16]}.")
    header = ["part", "interactions", "users", "items"]
    fields = {label: model.hyperparameters() for label, model in comparison.models.items()}
    settings: list[list[Cell]] = [
        [label, ", ".join(f"{n}={v}" for n, v in own.items()) or "none"]
        for label, own in fields.items()
    ]
    measured = [
        "Rankings are over the full catalogue, items already seen removed; ties count by "
        "expectation. Recall divides by the smaller of k and the number of relevant items.",
        "Time is of one fit, and of scoring, listing and measuring all test users. Peak memory is "
        "of the whole process: Python, libraries and data included.",
    ]
    return [
        Section("The data", header=header, rows=rows, notes=notes),
        Section("Settings", measured, ["model", "fields"], settings, prose=True),
    ]


def _facts(train: Dataset, lengths: np.ndarray) -> list[str]:
    share = len(train) / (len(train.users) * len(train.items))
    said = [
        f"{np.median(lengths):,.0f} interactions per user in the middle; {share:.2%} of all pairs."
    ]
    if train.explicit:
        said.append(f"Ratings from {train.scale[0]:g} to {train.scale[1]:g}.")
    time_r = train.interactions.time_r
    if time_r is not None:
        first, last = (
            datetime.fromtimestamp(t / 1000, UTC).date() for t in (time_r.min(), time_r.max())
        )
        said.append(f"Training data from {first} to {last}.")
    return [*said, *(f"Reading: {note}." for note in train.report.notes)]
