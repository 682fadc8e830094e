"""The process in which trials run: it forks for each, and measures what was asked.

It takes tasks as lines of JSON on standard input, and leaves results in folders.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from foretaste.data.dataset import Dataset
from foretaste.data.splitting import Split
from foretaste.errors import ForetasteError
from foretaste.evaluation.beyond_accuracy import ceilings, segments, variety
from foretaste.evaluation.cold_start import evaluate_cold_items, evaluate_cold_users
from foretaste.evaluation.evaluate import Served, evaluate
from foretaste.experiments.results import Result, example_users
from foretaste.experiments.trials import read_split
from foretaste.models import model_named
from foretaste.models.base import Model, configure
from foretaste.recommending.fitting import fit


def serve() -> None:
    """Fork for each task of standard input, and answer with the exit status of the fork.

    This process imports torch and polars but computes nothing with them. A fork has none of the
    threads of its parent: had OpenMP (torch) or rayon (polars) started theirs here, the first
    parallel loop of a trial would wait for them forever.

    Standard input that ends means that whoever asked is gone: the work ends too.
    """
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _work_and_exit(json.loads(line))
        # WNOWAIT only looks; between two looks the pipe is watched, so that a parent that was
        # killed takes the trial with it instead of leaving it to run for an hour.
        while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if select.select([0], [], [], 0.02)[0]:
                os.kill(child, signal.SIGKILL)
                os._exit(1)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _work_and_exit(task: Mapping[str, Any]) -> None:
    """Work as a fork that leaves its parent's pipes alone: their end must show the parent's."""
    os.close(0)
    os.dup2(2, 1)
    # where memory runs out, this process goes, no other
    with contextlib.suppress(OSError), Path("/proc/self/oom_score_adj").open("w") as file:
        file.write("500")
    try:
        work(task)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    # _exit: the handlers of the parent, whose buffers and files were copied, must not run twice.
    os._exit(0)


def work(task: Mapping[str, Any]) -> None:
    """Carry a task out and keep its result; an error on purpose is one too.

    Args:
        task: out (the result's folder), split (the folder of its parts), fingerprint, trial (the
            fields of a Trial but its split).
    """
    started, trial = time.monotonic(), task["trial"]
    found: dict[str, Any]
    try:
        split = read_split(Path(task["split"]))
        model = configure(model_named(trial["model"]), trial["fields"])
        if trial["measure"] == "split":
            found = _measured(model, split, trial)
        else:
            found = _cold(model, split.train, trial)
    except (ForetasteError, MemoryError, RuntimeError) as error:  # torch's are RuntimeErrors
        said = str(error) or type(error).__name__
        found = {"error": said if isinstance(error, ForetasteError) else said.splitlines()[0]}
    seconds = time.monotonic() - started
    Result(**found, seconds=seconds).save(Path(task["out"]), task["fingerprint"])


def _measured(model: Model, split: Split, trial: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the Result on the test part: what the lists were worth, and what averages hide."""
    k = trial["k"]
    fitted = fit(model, split.train, seed=trial["seed"], device=trial["device"], progress=True)
    report = evaluate(fitted, split, k=k, relevance_threshold=trial["relevance_threshold"])
    assert report.served is not None
    return {
        "tallies": report.tallies,
        "segments": segments(split, report.served, k),
        "variety": variety(split.train, report.served, k),
        "ceilings": ceilings(report.served, k),
        "lists": _example_lists(split, report.served),
        "curve": tuple(dict(point) for point in getattr(fitted.model, "curve_", [])),
        "random": fitted.training["random"],
        "fit_seconds": report.fit_seconds,
        "score_seconds": report.score_seconds,
        "peak_memory_bytes": report.peak_memory_bytes,
        "notes": report.notes,
    }


def _example_lists(split: Split, served: Served) -> pl.DataFrame:
    rows = example_users(split)
    item_bk = served.lists.item_bk[rows].numpy()
    listed_bk = item_bk >= 0
    return pl.DataFrame(
        {
            "user": split.test.users[np.repeat(rows, listed_bk.sum(axis=1))],
            "item": split.train.items[item_bk[listed_bk]],
        }
    )


def _cold(model: Model, train: Dataset, trial: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the Result of a cold start."""
    measure = evaluate_cold_items if trial["measure"] == "items" else evaluate_cold_users
    found = measure(
        {model.name: model}, train, k=trial["k"], test=trial["share"], seed=trial["seed"],
        device=trial["device"],
    )  # fmt: skip
    tallies = {
        f"{metric} {case}": tally
        for (_, case), of_case in found.tallies.items()
        for metric, tally in of_case.items()
    }
    return {"protocol": found.protocol, "users": found.users, "tallies": tallies}
