"""Trials: one model, one seed, one split, measured in a process of its own and kept in a folder.

A process of its own makes the peak memory the model's, and its death a result instead of the end
of everything. Trials know nothing of comparisons, conclusions or reports, which are made of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import polars as pl

from foretaste import __version__, bundle
from foretaste.data.building import from_tables
from foretaste.data.splitting import Split
from foretaste.errors import TrialError, UsageError
from foretaste.evaluation.evaluate import K
from foretaste.evaluation.statistics import number
from foretaste.experiments.results import Result
from foretaste.training.engine import Engine

PARTS = ("train", "history", "test")
METRIC = {"split": "ndcg", "users": "ndcg", "items": "recall"}  # at k: what each is judged by
CASES = {
    "users": ("0", "1", "3", "10", "all"),  # interactions shown
    "items": ("cold", "warm", "cold in all", "warm in all"),  # what must be found among what
}
SHARE = 0.2  # of users, or of items, that a cold start holds out of train
START = "import foretaste.experiments.trial_process as process; process.serve()"
Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Trial:
    """What is measured: a model by its name and fields, on a split, with a seed.

    It says nothing of where it runs or what the result is for.

    Attributes:
        model: Name of a model in MODELS.
        fields: All hyperparameters of the model, as JSON values.
        split: What is learned from and tested on; a cold start uses the train part alone.
        seed: Of the fit, and of what a cold start holds out.
        measure: "split" for the test part; "users" or "items" for new ones held out of train.
        k: Length of the lists.
        relevance_threshold: Lowest test rating that counts as relevant; None for the default.
        device: Where to fit.
        share: Fraction of users or items that a cold start holds out.

    Example:
        >>> import foretaste as ft
        >>> import polars as pl
        >>> from foretaste.experiments.trials import Trial
        >>> ratings = ft.from_frame(pl.DataFrame({"user": [1, 1, 2, 2], "item": [1, 2, 1, 3]}))
        >>> split = ft.split(ratings, test=0.25)
        >>> trial = Trial("popularity", ft.Popularity().hyperparameters(), split)
        >>> trial.fingerprint == Trial(trial.model, trial.fields, split, seed=1).fingerprint
        False
    """

    model: str
    fields: Mapping[str, Any]
    split: Split
    seed: int = Engine.seed
    measure: str = "split"
    k: int = K
    relevance_threshold: float | None = None
    device: str = Engine.device
    share: float = SHARE

    @property
    def metric(self) -> str:
        """The metric that models are ordered by in such a trial."""
        return f"{METRIC[self.measure]}@{self.k}"

    @property
    def task(self) -> dict[str, Any]:
        """All of it but the split, as JSON values."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "split"}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that could change the result: fields, all data, the version."""
        text = json.dumps([__version__, self.task, split_fingerprint(self.split)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def split_fingerprint(split: Split) -> str:
    """Return the SHA-256 of the protocol and of all parts of a split.

    Args:
        split: Any split.

    Returns:
        64 hexadecimal digits.
    """
    parts = [getattr(split, name).fingerprint for name in PARTS]
    same = split.history is split.train  # then users keep their training rows
    return hashlib.sha256(json.dumps([split.protocol, same, *parts]).encode()).hexdigest()


def write_split(folder: Path, split: Split) -> None:
    """Write the parts of a split as bundles, for `read_split` in another process.

    Args:
        folder: Where; a history that is the train part is not written again.
        split: What to write.
    """
    for name in PARTS[1:] if split.history is not split.train else PARTS[2:]:
        bundle.write(folder / name, *_files(getattr(split, name)))
    values, tensors, tables = _files(split.train)
    bundle.write(folder / "train", values | {"protocol": split.protocol}, tensors, tables)


def _files(part: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, pl.DataFrame]]:
    values, tables = part.tables()
    return values, {}, tables


def read_split(folder: Path) -> Split:
    """Return what `write_split` wrote; users of train keep their training rows in the history."""
    found = {name: bundle.read(folder / name) for name in PARTS if (folder / name).exists()}
    data = {name: from_tables(part.values, part.tables) for name, part in found.items()}
    history = data.get("history", data["train"])
    return Split(data["train"], history, data["test"], found["train"].values["protocol"])


class TrialRunner:
    """Runs lists of trials, one after another, and keeps every result that is finished.

    A trial that the folder holds already is not run again. One process imports torch and forks for
    each trial: a fork starts in a tenth of a second, an import of torch takes seconds. It does not
    know what the trials are for.

    Example:
        >>> import foretaste as ft
        >>> import polars as pl
        >>> from foretaste.experiments.trials import Trial, TrialRunner
        >>> ratings = ft.from_frame(pl.DataFrame({"user": [1, 1, 2, 2], "item": [1, 2, 1, 3]}))
        >>> split = ft.split(ratings, test=0.25)
        >>> with TrialRunner() as runner:
        ...     found = runner.run({"all like it": Trial("popularity", {}, split, k=1)})
        >>> found["all like it"].error
        ''
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        """Prepare; nothing is started or written before the first trial that is missing.

        Args:
            folder: Where results are kept; None keeps them until the end of the `with` block.

        Raises:
            UsageError: The system has no fork.
        """
        if not hasattr(os, "fork"):
            raise UsageError(
                "trials run in processes of their own by os.fork, which this system does not have.",
                fix="Use Linux, macOS or WSL; evaluate and compare work everywhere.",
            )
        self._open = contextlib.ExitStack()
        self._folder = None if folder is None else Path(folder)
        self._process: subprocess.Popen[str] | None = None
        self._splits: set[Path] = set()
        self._deaths = 0  # of that process, since it last finished a trial

    def __enter__(self) -> Self:
        """Make a folder where none was given."""
        self._place = self._folder or Path(self._open.enter_context(tempfile.TemporaryDirectory()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """End the process and the trial that it works on; finished results stay."""
        self._end()
        self._open.close()

    def run(self, trials: Mapping[str, Trial], say: Say | None = None) -> dict[str, Result]:
        """Run the trials that have no kept result, in order.

        Args:
            trials: By name; the name stands in the lines of progress.
            say: Takes a line for each trial.

        Returns:
            A result for each name; one with an `error` where the model or its process failed.

        Raises:
            TrialError: The process that starts the trials died twice with no trial finished
                between: something else is wrong than one model.
        """
        found = {}
        for name, trial in trials.items():
            found[name] = self._run(name, trial)
            if say is not None:
                say(f"{name}: {progress_line(trial, found[name])}")
        return found

    def _run(self, name: str, trial: Trial) -> Result:
        """The kept result of a trial, or a new one."""
        readable = re.sub(r"[^\w.=-]+", "_", name)[:80]
        out = self._place / "runs" / f"{readable}-{trial.fingerprint[:12]}"
        kept = Result.read(out, trial.fingerprint)
        if kept is not None and not kept.error:
            return kept
        status = self._ask(
            {
                "out": str(out), "split": str(self._written(trial.split)),
                "fingerprint": trial.fingerprint, "trial": trial.task,
            }
        )  # fmt: skip
        if isinstance(status, str):
            return Result(error=status)
        done = Result.read(out, trial.fingerprint)
        if status == 0 and done is not None:
            return done
        return Result(error=f"its process ended with {_ended(status)}")

    def _written(self, split: Split) -> Path:
        """Where the split lies for the process; not longer than this runner is open."""
        folder = self._place / "parts" / split_fingerprint(split)[:16]
        if folder not in self._splits:
            self._open.callback(shutil.rmtree, folder, ignore_errors=True)
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
            write_split(folder, split)
            self._splits.add(folder)
        return folder

    def _ask(self, task: Mapping[str, Any]) -> int | str:
        """Exit status of the process of a task; words where what starts it ended itself."""
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if select.select([process.stdout], [], [], 0)[0]:  # nothing was asked: it is the end
                raise BrokenPipeError
            print(json.dumps(task), file=process.stdin, flush=True)
        except BrokenPipeError:  # it died between two trials: no trial is to blame
            self._bury()
            return self._ask(task)
        if answer := process.stdout.readline():
            self._deaths = 0
            return int(answer)
        return f"the process that starts trials ended with {self._bury()}"

    def _bury(self) -> str:
        """How the process ended, which is the end of all where it just did."""
        how = _ended(self._end())
        self._deaths += 1
        if self._deaths > 1:
            raise TrialError(
                f"the process that starts trials ended twice in a row, now with {how}",
                where=self._place,
                fix="See what it wrote above, free memory, and run the same again: what is "
                "finished is kept.",
            )
        return how

    def _start(self) -> subprocess.Popen[str]:
        # -P: nothing that lies in the working directory is imported.  The folder is there for
        # `ps` alone.  A session of its own: Ctrl-C is ours to handle
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", START, str(self._place)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        return self._process

    def _end(self) -> int:
        """Kill the process, with the trial it has started; its own exit status."""
        if self._process is None:
            return 0
        ended, self._process = self._process, None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(ended.pid, signal.SIGKILL)  # before `wait`: until then the number is its own
        with contextlib.suppress(BrokenPipeError), ended:
            pass
        return ended.returncode


def _ended(status: int) -> str:
    if status >= 0:
        return f"exit status {status}."
    return f"signal {-status}" + (": out of memory?" if status == -signal.SIGKILL else ".")


def progress_line(trial: Trial, result: Result) -> str:
    """Return what a trial came to, in a few words.

    Args:
        trial: What was measured.
        result: What was found.

    Returns:
        The first metric, in each case of a cold start; or why there is none.
    """
    if result.error:
        return f"failed. {result.error}"
    of = {name: t.value for name, t in (result.tallies or {}).items()}
    if trial.measure == "split":
        memory = f"{result.peak_memory_bytes / 2**20:,.0f} MiB"
        return (
            f"{trial.metric} {of[trial.metric]:.4f}, fitted in {result.fit_seconds:.1f} s, {memory}"
        )
    value = {case: number(of[f"{trial.metric} {case}"]) for case in CASES[trial.measure]}
    words = (f"{case} –" if m is None else f"{case} {m:.4f}" for case, m in value.items())
    return f"{trial.metric} {', '.join(words)}"
