"""The whole comparison: every entrant in a process of its own, resumable, and the tables of it."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from foretaste.data.splitting import Split
from foretaste.errors import UsageError
from foretaste.evaluation.cold_start import ColdStart
from foretaste.evaluation.statistics import Interval, Tally, contrasts, intervals
from foretaste.experiments.entrants import baselines, entrants
from foretaste.experiments.trials import Run, read_run, write_parts
from foretaste.models.base import Model


@dataclass(frozen=True, eq=False)
class Comparison:
    """Several models on one split.

    runs: by label, one for each seed; failed: why a model has none.  left_out: models that did not
    take part, and why.  Values of a model with several seeds are means over them.  cold: of new
    "users" and new "items", where `add_cold_starts` measured them; not_cold: who stayed out, and
    why.
    """

    parts: Split
    k: int
    models: Mapping[str, Model]
    runs: Mapping[str, Sequence[Run]]
    failed: Mapping[str, str]
    left_out: Sequence[str]
    cold: Mapping[str, ColdStart] = field(default_factory=dict)
    not_cold: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """The metric that models are ordered by."""
        return f"ndcg@{self.k}"

    @cached_property
    def tallies(self) -> dict[str, dict[str, Tally]]:
        """Label to metric to the sums behind it, mean over seeds; the best model first."""
        found = {label: _mean([run.tallies or {} for run in r]) for label, r in self.runs.items()}
        return dict(sorted(found.items(), key=lambda item: -item[1][self.metric].value))

    @cached_property
    def values(self) -> dict[str, dict[str, Interval]]:
        """Label to metric to value and interval; the best model first."""
        return {label: intervals(tallies) for label, tallies in self.tallies.items()}

    @cached_property
    def ceilings(self) -> dict[str, float]:
        """The best value of each ranking metric that the data allow."""
        return dict(next(iter(self.runs.values()))[0].ceilings or {})

    @property
    def baselines(self) -> list[str]:
        """Labels of the models that any other has to beat."""
        return [label for label in baselines(self.parts.train) if label in self.runs]

    def frame(self) -> pl.DataFrame:
        """Model, metric, value, low, high, ceiling (null for rating errors)."""
        rows = [
            (label, name, m.value, m.low, m.high, self.ceilings.get(name))
            for label, found in self.values.items()
            for name, m in found.items()
        ]
        return _frame(rows, ["model", "metric", "value", "low", "high", "ceiling"], texts=2)

    @cached_property
    def pairs(self) -> pl.DataFrame:
        """Every pair of models on the first metric, and on RMSE where ratings are predicted."""
        return contrasts(self.tallies, [self.metric, "rmse"])

    def segments(self) -> pl.DataFrame:
        """Model, segment, recall at k of it, low, high."""
        rows = []
        for label in self.tallies:
            found = _mean([run.segments or {} for run in self.runs[label]])
            rows += [(label, s, m.value, m.low, m.high) for s, m in intervals(found).items()]
        return _frame(rows, ["model", "segment", "recall", "low", "high"], texts=2)

    def variety(self) -> pl.DataFrame:
        """Model, coverage, novelty, diversity, head_share."""
        names = ["coverage", "novelty", "diversity", "head_share"]
        rows = [
            (label, *(self._over_seeds(label, lambda r, n=name: (r.variety or {})[n])
                      for name in names))
            for label in self.tallies
        ]  # fmt: skip
        return _frame(rows, ["model", *names], texts=1)

    def costs(self) -> pl.DataFrame:
        """Model, fit_seconds, score_seconds, seconds of the process, its peak memory in MiB, seeds.

        Seconds are means over seeds, the peak is the highest.
        """
        rows = [
            (
                label,
                self._over_seeds(label, lambda r: r.fit_seconds),
                self._over_seeds(label, lambda r: r.score_seconds),
                self._over_seeds(label, lambda r: r.seconds),
                max(run.peak_memory_bytes for run in self.runs[label]) / 2**20,
                float(len(self.runs[label])),
            )
            for label in self.tallies
        ]
        names = ["fit_seconds", "score_seconds", "seconds", "peak_memory_mib", "seeds"]
        return _frame(rows, ["model", *names], texts=1)

    def seeds(self) -> pl.DataFrame:
        """Model, seed, value of the first metric and the model's rank among all with that seed.

        A model that no seed changes takes part in every ranking with its one value.
        """
        n_seeds = max(len(runs) for runs in self.runs.values())
        rows = []
        for seed in range(n_seeds):
            of = {
                label: (runs[min(seed, len(runs) - 1)].tallies or {})[self.metric].value
                for label, runs in self.runs.items()
            }
            ranked = sorted(of, key=lambda label: -of[label])
            rows += [(m, seed, of[m], ranked.index(m) + 1) for m in self.tallies]
        schema = {"model": pl.String, "seed": pl.Int64, "value": pl.Float64, "rank": pl.Int64}
        return pl.DataFrame(rows, schema=schema, orient="row")

    def _over_seeds(self, label: str, of: Callable[[Run], float]) -> float:
        return float(np.mean([of(run) for run in self.runs[label]]))


def run_comparison(
    parts: Split, models: Sequence[str | Model] | Mapping[str, Model] | None = None, *,
    k: int = 10, seeds: int = 3, relevance_threshold: float | None = None, device: str = "auto",
    folder: str | Path | None = None, say: Callable[[str], None] | None = None,
) -> Comparison:  # fmt: skip
    """Fit and evaluate models beside the baselines, each in a process of its own.

    models: names, models with fields of their own, or labels of such (default: the usual ones that
    data and time allow).  seeds: runs of a model that is trained by gradients, or whose seed
    matters and that fits in QUICK seconds.  folder: keeps every finished run, so that a comparison
    that was killed goes on with what is missing.  say: takes a line for each run.
    """
    if k < 1 or seeds < 1:
        raise UsageError(f"k={k}, seeds={seeds}.", fix="Both are at least 1.")
    chosen, left_out = entrants(parts.train, models)
    if folder is None:
        with tempfile.TemporaryDirectory() as kept:
            return run_comparison(
                parts, chosen, k=k, seeds=seeds, relevance_threshold=relevance_threshold, device=device,
                folder=kept, say=say,
            )  # fmt: skip
    place = Path(folder)
    shared = {
        "data": [getattr(parts, name).fingerprint for name in ("train", "history", "test")],
        "protocol": parts.protocol, "k": k, "relevance_threshold": relevance_threshold, "device": device,
    }  # fmt: skip
    runs: dict[str, list[Run]] = {}
    failed: dict[str, str] = {}
    write_parts(place / "parts", parts)
    with workshop(place / "parts") as ask:
        for label, model in chosen.items():
            task = {"model": model.name, "fields": model.hyperparameters(), **shared}
            found: list[Run] = []
            while not found or (len(found) < seeds and found[-1].worth_repeating):
                seed = len(found)
                out = place / "runs" / f"{file_name(label)}-{seed}"
                found.append(run(ask, out, task | {"seed": seed}))
                if say is not None:
                    say(_line(label, found[-1], f"ndcg@{k}"))
            if found[-1].error:
                failed[label] = found[-1].error
            else:
                runs[label] = found
    if not runs:
        raise UsageError(
            f"no model could be measured: {next(iter(failed.values()))}",
            fix="Mend that, or name other models.",
        )
    return Comparison(parts, k, chosen, runs, failed, left_out)


START = "import sys, foretaste.experiments.trials as runs; runs.serve(sys.argv[1])"
Ask = Callable[[Path, Mapping[str, Any]], int]


@contextlib.contextmanager
def workshop(parts: Path) -> Iterator[Ask]:
    """Takes where a run goes and its task, and gives the exit status; started when first asked."""
    # -P: nothing that lies in the working directory is imported
    command = [sys.executable, "-P", "-c", START, str(parts)]
    with contextlib.ExitStack() as stack:
        started: list[subprocess.Popen[str]] = []

        def ask(out: Path, task: Mapping[str, Any]) -> int:
            if not started:
                # a session of its own: Ctrl-C is ours to handle
                process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                    start_new_session=True,
                )  # fmt: skip
                started.append(stack.enter_context(process))
            stdin, stdout = started[0].stdin, started[0].stdout
            assert stdin is not None
            assert stdout is not None
            print(json.dumps([str(out), task]), file=stdin, flush=True)
            return int(stdout.readline() or 1)

        yield ask  # the end of its standard input ends the process, and what it is doing


def run(ask: Ask, out: Path, task: dict[str, Any]) -> Run:
    """The kept run of this task, or a new one."""
    kept = read_run(out, task)
    if kept is not None and not kept.error:
        return kept
    status = ask(out, task)
    done = read_run(out, task)
    if status == 0 and done is not None:
        return done
    how = f"exit status {status}"
    if status < 0:
        how = f"signal {-status}" + (": out of memory?" if status == -signal.SIGKILL else "")
    return Run(seed=task["seed"], error=f"its process ended with {how}")


def _line(label: str, run: Run, metric: str) -> str:
    if run.error:
        return f"{label}: failed. {run.error}"
    value = (run.tallies or {})[metric].value
    seed = f", seed {run.seed}" if run.random else ""
    return (
        f"{label}{seed}: {metric} {value:.4f}, fitted in {run.fit_seconds:.1f} s, "
        f"{run.peak_memory_bytes / 2**20:,.0f} MiB"
    )


def file_name(label: str) -> str:
    """A label as the name of a folder."""
    return re.sub(r"[^\w.=-]+", "_", label)[:100]


def _mean(tallies: Sequence[Mapping[str, Tally]]) -> dict[str, Tally]:
    """The mean of the sums of several runs on the same users."""
    return {
        name: Tally(np.mean([t[name].total_b for t in tallies], axis=0), first.weight_b, first.root)
        for name, first in tallies[0].items()
    }


def _frame(rows: Sequence[tuple[Any, ...]], names: Sequence[str], texts: int) -> pl.DataFrame:
    schema = {n: pl.String if i < texts else pl.Float64 for i, n in enumerate(names)}
    return pl.DataFrame(rows, schema=schema, orient="row").fill_nan(None)
