"""Every model of MODELS through every door, in milliseconds, so that no outlier hides.

    python -m bench.doors [ml-100k] [ml-1m] [MODEL ...] [--whole] [--processor]

One line for each model: a list of a known user and of a new one, lists of 500 users, the table of
5,000 pairs of a test set beside the rating part of `evaluate` on the same pairs, similar items,
reasons, and all of `evaluate`; then two doors of the same recommender, saved and loaded again.
Each is the median of up to five runs after one that does not count, of different users where there
is one; a door that takes longer than the limit is given up.  Below the table: what stands out.

Where fitting is slow, models are fitted with SHORT fields, of which no door's time depends, unless
`--whole`.  Items have no plots and votes of others: those columns are made up from what there is.
The module uses public names alone, and so it runs beside other versions of the package.
"""

from __future__ import annotations

import argparse
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import polars as pl
import torch

import foretaste as ft

DATA = "ml-100k", "ml-1m"
RUNS, ENOUGH = 5, 2.0  # runs of a door, and seconds after which there are no more
HISTORY, LISTS, PAIRS = 20, 500, 5_000
OUTLIER = 5.0  # times the median of all models through the same door
RELOADED = 1.5  # times: a fitted and a reloaded model do the same work
DRAWS = {"ml-100k": 100, "ml-1m": 14}  # that the defaults of bayesian-mf end with
SHORT: dict[str, dict[str, Any]] = {
    "embedding-net": {"epochs": 1, "refit": False},
    "item2vec": {"epochs": 1},
    "two-tower": {"epochs": 1},
}
SWEEPS = {"burn_in": 5, "keep_every": 1, "tolerance": 0.0}
DOORS = (
    "one list", "new user", f"{LISTS} lists", f"{PAIRS:,} pairs", "their ratings", "similar",
    "explain", "evaluate", "loaded: one", f"loaded: {LISTS}",
)  # fmt: skip


Clock = Callable[[], float]


class GaveUpError(Exception):
    """A door took longer than the limit."""


@dataclass
class Line:
    """What one model took: seconds by door, infinite where it was given up.

    What a model cannot do has no entry.
    """

    model: str
    fit_seconds: float
    seconds: dict[str, float] = field(default_factory=dict)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise GaveUpError in the block when the time is up."""

    def stop(*_: object) -> None:
        raise GaveUpError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def timed(door: Callable[[int], object], limit: float, clock: Clock) -> float:
    """Median seconds of `door(n)` for n = 1, 2, ...; the first call warms up and does not count.

    A call that takes more than ENOUGH seconds is not repeated, and the first is all there is.
    """
    seconds, started = [], clock()
    try:
        with within(limit):
            for n in range(RUNS + 1):
                before = clock()
                door(n)
                seconds.append(clock() - before)
                if clock() - started > ENOUGH:
                    break
    except GaveUpError:
        return median(seconds[1:] or seconds) if seconds else float("inf")
    return median(seconds[1:] or seconds)


def short(model: str, data: str) -> dict[str, Any]:
    """Fields that fit a model quickly and change nothing at its doors: as many draws, too."""
    sweeps: dict[str, Any] = SWEEPS | {"samples": DRAWS[data]}
    chains: dict[str, dict[str, Any]] = {"bayesian-mf": sweeps, "hybrid": {"rater_fields": sweeps}}
    return (SHORT | chains).get(model, {})


def split_of(name: str) -> ft.Split:
    """A data set whose items have every column that a model asks for, 80/20 at random."""
    load = getattr(ft, "load_dataset", None) or vars(ft)["load_data"]  # its name in 0.1.0
    ratings = load(name)
    table, x = ratings.item_frame, ratings.interactions
    votes_i = np.bincount(x.item_r, minlength=len(table))
    mean_i = np.bincount(x.item_r, x.value_r, len(table)) / votes_i.clip(1)
    words = [pl.col(c).cast(pl.String).fill_null("") for c in ("title", "genres")]
    made = {"vote_count": pl.Series(votes_i), "vote_average": pl.Series(mean_i)}
    table = table.with_columns(pl.concat_str(words, separator=" ").alias("overview"), **made)
    return ft.split(ratings.with_items(table), "random", test=0.2, seed=0)


def through(name: str, fields: dict[str, Any], parts: ft.Split, limit: float, clock: Clock) -> Line:
    """Fit a model with these fields, and time it at every door that it has."""
    train = parts.train
    started = clock()
    fitted = ft.fit(ft.MODELS[name](**fields), train, progress=False)
    line = Line(name, clock() - started)
    draw = np.random.default_rng(0)
    users = draw.permutation(train.users.values.to_numpy()).tolist()
    count_i = np.bincount(train.interactions.item_r, minlength=len(train.items))
    popular = train.items.values.gather(np.argsort(-count_i, kind="stable")[:200])
    items = draw.permutation(popular.to_numpy()).tolist()
    known = {"item": train.items.values, "user": train.users.values}
    table = parts.test.frame()
    ids = dict(zip(known, table.columns[:2][::-1], strict=True))
    table = table.filter(*(pl.col(ids[c]).is_in(known[c].implode()) for c in known))
    table = table.sample(min(PAIRS, len(table)), seed=0)
    asked = table[ids["user"]].to_list(), table[ids["item"]].to_list()
    marked_r = np.zeros(len(parts.test), dtype=bool)
    marked_r[draw.permutation(len(parts.test))[:PAIRS]] = True
    few = ft.Split(train, train, parts.test.take(marked_r), "pairs")
    with tempfile.TemporaryDirectory() as folder:
        loaded = ft.load(fitted.save(f"{folder}/bundle"))
    calls: dict[str, Callable[[int], object]] = {
        "one list": lambda n: fitted.recommend(users[n]),
        "loaded: one": lambda n: loaded.recommend(users[n]),
        "new user": lambda n: fitted.recommend(history=items[n : n + HISTORY]),
        f"{LISTS} lists": lambda n: fitted.recommend(users=users[n : n + LISTS]),
        f"loaded: {LISTS}": lambda n: loaded.recommend(users=users[n : n + LISTS]),
        "similar": lambda n: fitted.similar(items[n]),
        "explain": lambda n: fitted.explain(users[n], item=items[n]),
        "evaluate": lambda _: ft.evaluate(fitted, parts),
    }
    if hasattr(fitted.model, "predict"):
        calls[f"{PAIRS:,} pairs"] = lambda _: fitted.predict(*asked)
        calls["their ratings"] = lambda _: ft.evaluate(fitted, few, ranking=False)
    for door, call in calls.items():
        line.seconds[door] = timed(call, limit, clock)
    return line


def cell(seconds: float | None, limit: float) -> str:
    """Milliseconds, where the door was given up the limit, and a dash where there is none."""
    if seconds is None:
        return "-"
    if seconds == float("inf"):
        return f"> {1000 * limit:,.0f}"
    return f"{1000 * seconds:,.0f}" if seconds >= 0.1 else f"{1000 * seconds:,.1f}"


def outliers(lines: list[Line], limit: float) -> Iterator[str]:
    """What stands out: a sentence for each door at which a model is far slower than most."""
    for door in DOORS:
        taken = {line.model: line.seconds[door] for line in lines if door in line.seconds}
        middle = median(taken.values()) if taken else 0.0
        for model, seconds in taken.items():
            if len(taken) > 2 and seconds > OUTLIER * middle:
                yield f"{model}: {door} takes {cell(seconds, limit)} ms, {1000 * middle:,.1f} in \
the median of the models"
    for line in lines:
        took = line.seconds
        for ours, other, factor in (
            ("one list", "loaded: one", RELOADED),
            (f"{LISTS} lists", f"loaded: {LISTS}", RELOADED),
            (f"{PAIRS:,} pairs", "their ratings", 1.2),
        ):
            if ours in took and took[ours] > factor * took[other] and took[ours] > 0.01:
                pair = f"{cell(took[ours], limit)} ms, {other} {cell(took[other], limit)}"
                yield f"{line.model}: {ours} takes {pair}"


def main(arguments: list[str] | None = None) -> None:
    """Print a table for each data set, by default for both and all models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="data sets and models; none: all of them")
    parser.add_argument("--whole", action="store_true", help="fit with every default")
    parser.add_argument("--limit", type=float, default=20.0, help="seconds of a door")
    parser.add_argument("--processor", action="store_true", help="processor time, all threads")
    asked = parser.parse_args(arguments)
    clock = time.process_time if asked.processor else time.perf_counter
    unknown = [name for name in asked.names if name not in (*DATA, *ft.MODELS)]
    if unknown:
        parser.error(f"no data set or model {', '.join(unknown)}")
    models = [name for name in ft.MODELS if name in asked.names] or list(ft.MODELS)
    for name in [name for name in DATA if name in asked.names] or DATA:
        parts = split_of(name)
        kind = "processor milliseconds" if asked.processor else "milliseconds"
        print(
            f"{name}, {len(parts.train):,} ratings to learn from and {len(parts.test):,} to test: "
            f"{kind}, {torch.get_num_threads()} threads"
        )
        print("  ".join(["model".ljust(20), "fit s".rjust(6), *(d.rjust(13) for d in DOORS)]))
        lines: list[Line] = []
        for model in models:
            try:
                fields = {} if asked.whole else short(model, name)
                line = through(model, fields, parts, asked.limit, clock)
            except ft.ForetasteError as error:
                print(f"{model:20}  {error}", flush=True)
                continue
            lines.append(line)
            cells = [cell(line.seconds.get(door), asked.limit).rjust(13) for door in DOORS]
            print("  ".join([f"{model:20}", f"{line.fit_seconds:6.1f}", *cells]), flush=True)
        for model in () if asked.whole else models:
            if fields := short(model, name):
                print(f"  {model} was fitted with {fields}: its doors take as long")
        for sentence in outliers(lines, asked.limit):
            print(f"  ! {sentence}")
        print()


if __name__ == "__main__":
    main()
