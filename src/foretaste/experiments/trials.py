"""One model, one seed, one process: what it is asked, what it leaves in the folder.

A process of its own makes the peak memory the model's, and its death a line in the report instead
of the end of the comparison.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from foretaste import bundle
from foretaste.bundle import __version__
from foretaste.data.dataset import Dataset, from_tables
from foretaste.data.splitting import Split
from foretaste.errors import BundleError, ForetasteError
from foretaste.evaluation.beyond_accuracy import ceilings, segments, variety
from foretaste.evaluation.cold_start import evaluate_cold_items, evaluate_cold_users
from foretaste.evaluation.evaluate import Served, evaluate
from foretaste.evaluation.statistics import Tally, number
from foretaste.models import model_named
from foretaste.models.base import configure
from foretaste.recommending.recommender import fit

PARTS = ("train", "history", "test")
EXAMPLES = 3
QUICK = 5.0  # seconds to fit


@dataclass(frozen=True, eq=False)
class Run:
    """What one process found.  error: why there is nothing else.

    tallies, segments: sums behind each metric.  lists: user and item ids of the example users,
    best first.  random: whether another seed gives another model.  seconds: of the whole process.
    Of a cold start there are only protocol, users, and tallies named "METRIC CASE".
    """

    seed: int
    error: str = ""
    tallies: Mapping[str, Tally] | None = None
    segments: Mapping[str, Tally] | None = None
    variety: Mapping[str, float] | None = None
    ceilings: Mapping[str, float] | None = None
    lists: pl.DataFrame | None = None
    curve: tuple[dict[str, Any], ...] = ()
    random: bool = False
    fit_seconds: float = 0.0
    score_seconds: float = 0.0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    notes: tuple[str, ...] = ()
    protocol: str = ""
    users: pl.Series | None = None

    @property
    def worth_repeating(self) -> bool:
        """Whether other seeds tell something: gradients leave a learning curve; or it is quick."""
        return self.random and bool(self.curve or self.fit_seconds < QUICK)


def write_parts(folder: Path, parts: Split) -> None:
    """The three parts of a split as bundles."""
    for name in PARTS:
        about, tables = getattr(parts, name).tables()
        bundle.write(folder / name, about | {"protocol": parts.protocol}, {}, tables)


def read_parts(folder: Path) -> Split:
    """The inverse of `write_parts`."""
    found = {name: bundle.read(folder / name) for name in PARTS}
    data = {name: from_tables(part.values, part.tables) for name, part in found.items()}
    if data["history"].fingerprint == data["train"].fingerprint:
        data["history"] = data["train"]  # as `split` makes it: users keep their training rows
    return Split(**data, protocol=found["train"].values["protocol"])


def fingerprint(task: Mapping[str, Any]) -> str:
    """SHA-256 of everything that a result depends on."""
    text = json.dumps([__version__, task], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_run(folder: Path, task: Mapping[str, Any]) -> Run | None:
    """A finished run of this very task; None where there is none, or a damaged one."""
    try:
        kept = bundle.read(folder)
    except BundleError:
        return None
    values = kept.values
    if values.pop("fingerprint", None) != fingerprint(task):
        return None
    if values["error"]:
        return Run(seed=values["seed"], error=values["error"])
    tables = kept.tables
    for name in {"tallies", "segments"} & set(tables):
        values[name] = _tallies(values.pop(f"{name}_roots"), tables[name])
    values |= {name: tuple(values[name]) for name in ("curve", "notes") if name in values}
    for name in {"variety", "ceilings"} & set(values):
        values[name] = {n: math.nan if v is None else v for n, v in values[name].items()}
    users = tables["users"]["user"] if "users" in tables else None
    return Run(**values, lists=tables.get("lists"), users=users)


def _tallies(roots: Mapping[str, bool], table: pl.DataFrame) -> dict[str, Tally]:
    return {
        name: Tally(table[f"t{n}"].to_numpy(), table[f"w{n}"].to_numpy(), root)
        for n, (name, root) in enumerate(roots.items())
    }


def _table(tallies: Mapping[str, Tally]) -> pl.DataFrame:
    columns = {f"t{n}": t.total_b for n, t in enumerate(tallies.values())}
    return pl.DataFrame(columns | {f"w{n}": t.weight_b for n, t in enumerate(tallies.values())})


def example_users(parts: Split) -> np.ndarray:
    """Rows of test users with a middling history, in the test part: at most EXAMPLES."""
    rows = parts.history.users.find(parts.test.users.values)
    length_b = np.where(rows < 0, 0, np.diff(parts.history.pointers)[rows])
    ranked = np.argsort(length_b, kind="stable")
    places = np.linspace(0, len(ranked) - 1, EXAMPLES + 2)[1:-1].round().astype(int)
    return np.unique(ranked[places])


def carry_out(task: Mapping[str, Any], parts: Split) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fit, evaluate, and everything else that a report tells: JSON values and tables."""
    model = configure(model_named(task["model"]), task["fields"])
    fitted = fit(model, parts.train, seed=task["seed"], device=task["device"], progress=True)
    k = task["k"]
    report = evaluate(fitted, parts, k=k, relevance_threshold=task["relevance_threshold"])
    assert report.served is not None
    split_up = segments(parts, report.served, k)
    values = {
        "variety": {n: number(v) for n, v in variety(parts.train, report.served, k).items()},
        "ceilings": {n: number(v) for n, v in ceilings(report.served, k).items()},
        "curve": [dict(point) for point in getattr(model, "curve_", [])],
        "random": fitted.training["random"],
        "fit_seconds": report.fit_seconds,
        "score_seconds": report.score_seconds,
        "peak_memory_bytes": report.peak_memory_bytes,
        "notes": list(report.notes),
        "tallies_roots": {name: tally.root for name, tally in report.tallies.items()},
        "segments_roots": {name: tally.root for name, tally in split_up.items()},
    }
    tables = {
        "tallies": _table(report.tallies),
        "segments": _table(split_up),
        "lists": _example_lists(parts, report.served),
    }
    return values, tables


def _example_lists(parts: Split, served: Served) -> pl.DataFrame:
    rows = example_users(parts)
    item_bk = served.lists.item_bk[rows].numpy()
    listed_bk = item_bk >= 0
    return pl.DataFrame(
        {
            "user": parts.test.users[np.repeat(rows, listed_bk.sum(axis=1))],
            "item": parts.train.items[item_bk[listed_bk]],
        }
    )


def carry_out_cold(
    task: Mapping[str, Any], train: Dataset
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measure a cold start of one model: JSON values and tables."""
    model = configure(model_named(task["model"]), task["fields"])
    measure = evaluate_cold_items if task["cold"] == "items" else evaluate_cold_users
    found = measure(
        {model.name: model}, train, k=task["k"], test=task["share"], seed=task["seed"],
        device=task["device"],
    )  # fmt: skip
    tallies = {
        f"{metric} {case}": tally
        for (_, case), of_case in found.tallies.items()
        for metric, tally in of_case.items()
    }
    roots = {name: tally.root for name, tally in tallies.items()}
    tables = {"tallies": _table(tallies), "users": pl.DataFrame({"user": found.users})}
    return {"protocol": found.protocol, "tallies_roots": roots}, tables


def work(folder: Path, out: Path, task: dict[str, Any]) -> None:
    """Carry a task out and leave the result, in one step; an error on purpose is one too."""
    started = time.monotonic()
    values, tables = {"error": ""}, {}
    try:
        parts = read_parts(folder)
        cold = "cold" in task
        found, tables = carry_out_cold(task, parts.train) if cold else carry_out(task, parts)
        values |= found
    except (ForetasteError, MemoryError, RuntimeError) as error:  # torch's are RuntimeErrors
        said = str(error) or type(error).__name__
        values["error"] = said if isinstance(error, ForetasteError) else said.splitlines()[0]
    values |= {"seed": task["seed"], "seconds": time.monotonic() - started}
    bundle.write(out, values | {"fingerprint": fingerprint(task)}, {}, tables)


def serve(folder: str) -> None:
    """Fork a process for each task of standard input, and answer with its exit status.

    A fork starts in a tenth of a second, an import of torch takes seconds. Standard input that ends
    means that the comparison was killed: the work ends too.
    """
    for line in sys.stdin:
        out, task = json.loads(line)
        child = os.fork()
        if not child:
            os.close(0)
            _exit_after(lambda out=out, task=task: work(Path(folder), Path(out), task))
        status = 0
        while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if select.select([0], [], [], 0.02)[0]:
                os.kill(child, signal.SIGKILL)
                os._exit(1)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _exit_after(job: Callable[[], None]) -> None:
    try:
        job()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
