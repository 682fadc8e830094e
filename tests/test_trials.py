"""Trials: a process of its own for each, real signals, and what makes a kept result this one's."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import foretaste as ft
from foretaste.errors import TrialError, UsageError
from foretaste.evaluation import evaluate
from foretaste.evaluation.statistics import Tally
from foretaste.experiments import comparison, trials
from foretaste.experiments.results import Result
from foretaste.experiments.trials import (
    Trial,
    TrialRunner,
    read_split,
    split_fingerprint,
    write_split,
)
from tests.processes import wait_for
from tests.test_comparison import results, working_on

SLOW = ft.ALS(n_factors=4, iterations=100_000)


@pytest.fixture(scope="module")
def parts(ratings):
    return ft.split(ratings, "random", test=0.25, seed=2)


def parent_of(number: int) -> int:
    """The process that started a process."""
    return int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[1])


def kill_what_starts_trials(folder: Path, done: str) -> threading.Thread:
    """Kill the process that forks, once a result is there and another trial is being worked on."""

    def kill() -> None:
        wait_for(lambda: bool(results(folder, done)))
        wait_for(lambda: len(working_on(folder)) == 2)
        os.kill(next(n for n in working_on(folder) if parent_of(n) == os.getpid()), signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


def test_the_death_of_what_starts_the_trials_fails_one_model_and_the_next_goes_on(parts, tmp_path):
    killing = kill_what_starts_trials(tmp_path, "recent-popularity")
    models = {"slow": SLOW, "later": ft.Popularity()}
    lines: list[str] = []
    found = ft.compare_models(parts, models, k=5, seeds=1, folder=tmp_path, say=lines.append)
    killing.join()
    assert found.failed == {
        "slow": "the process that starts trials ended with signal 9: out of memory?"
    }
    assert lines[-2] == f"slow: failed. {found.failed['slow']}"
    assert "later" in found.runs
    assert not working_on(tmp_path)  # the trial that it had started ended with it
    assert not results(tmp_path, "slow")


def test_what_dies_twice_in_a_row_is_the_end_with_the_reason(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "START", "import os; os.kill(os.getpid(), 9)")
    lines: list[str] = []
    with pytest.raises(TrialError) as raised:
        ft.compare_models(parts, ["als"], seeds=1, folder=tmp_path, say=lines.append)
    assert str(raised.value) == (
        f"{tmp_path}: the process that starts trials ended twice in a row, now with signal 9: out "
        "of memory? See what it wrote above, free memory, and run the same again: what is finished "
        "is kept."
    )
    assert len(lines) <= 1
    assert not list(tmp_path.glob("parts/*"))


def test_no_trial_is_blamed_where_what_starts_them_died_between_two(parts, tmp_path):
    one, other = (Trial("popularity", {}, parts, k=k) for k in (3, 5))
    with TrialRunner(tmp_path) as runner:
        first = runner.run({"one": one})["one"]
        starting = runner._process
        assert starting is not None
        os.kill(starting.pid, signal.SIGKILL)
        assert starting.stdout is not None
        assert starting.stdout.read() == ""  # it is gone
        second = runner.run({"other": other})["other"]
    assert (first.error, second.error) == ("", "")
    assert second.tallies is not None
    assert "ndcg@5" in second.tallies


def test_a_trial_finds_what_evaluate_finds_and_is_kept(parts, tmp_path):
    trial = Trial("ease", {"l2": 5.0}, parts, k=3, relevance_threshold=2.0)
    report = ft.evaluate(
        ft.fit(ft.EASE(l2=5.0), parts.train, progress=False), parts, k=3, relevance_threshold=2.0
    )
    lines: list[str] = []
    with TrialRunner(tmp_path) as runner:
        found = runner.run({"a model": trial}, lines.append)["a model"]
    assert {n: t.value for n, t in (found.tallies or {}).items()} == pytest.approx(
        {n: m.value for n, m in report.metrics.items()}
    )
    assert len(lines) == 1
    assert lines[0].startswith(f"a model: ndcg@3 {report.metrics['ndcg@3'].value:.4f}, fitted in ")
    assert not list(tmp_path.glob("parts/*"))  # what the process read is not left behind
    with TrialRunner(tmp_path) as runner:
        again = runner.run({"under another name": trial})
        assert runner._process is not None  # the name is part of where it lies
        again = runner.run({"a model": trial})["a model"]
    assert again.seconds == found.seconds
    assert again.variety == found.variety
    assert again.lists is not None
    assert found.lists is not None
    assert again.lists.equals(found.lists)


def variants(parts: ft.Split) -> dict[str, Trial]:
    """A trial, and one for each thing that could change its result."""
    trial = Trial("ease", ft.EASE().hyperparameters(), parts)
    x = parts.test.interactions
    shorter = parts.test.take(np.arange(len(x)) > 0)
    times = replace(parts.train.interactions, time_r=None)
    found = {
        "a trial": trial,
        "model": replace(trial, model="als"),
        "fields": replace(trial, fields={"l2": 1.0}),
        "seed": replace(trial, seed=1),
        "measure": replace(trial, measure="users"),
        "k": replace(trial, k=3),
        "relevance_threshold": replace(trial, relevance_threshold=1.0),
        "device": replace(trial, device="cpu"),
        "share": replace(trial, share=0.5),
    }
    assert set(found) == {f.name for f in fields(Trial)} - {"split"} | {"a trial"}
    changed = {
        "protocol": replace(parts, protocol="by hand"),
        "train": replace(parts, train=replace(parts.train, interactions=times)),
        "history": replace(parts, history=parts.test),
        "test": replace(parts, test=shorter),
        "a history that is not the train part": replace(parts, history=replace(parts.train)),
    }
    return found | {name: replace(trial, split=split) for name, split in changed.items()}


def test_everything_that_could_change_a_result_is_in_the_fingerprint(parts, monkeypatch):
    found = {name: trial.fingerprint for name, trial in variants(parts).items()}
    monkeypatch.setattr(trials, "__version__", "0.0.1")
    found["version"] = Trial("ease", ft.EASE().hyperparameters(), parts).fingerprint
    assert len(set(found.values())) == len(found)
    monkeypatch.undo()
    again = {name: trial.fingerprint for name, trial in variants(parts).items()}
    assert again == {name: found[name] for name in again}


def test_a_split_is_read_as_it_was_written(parts, ratings, tmp_path):
    for place, split in enumerate((parts, ft.split(ratings, "users", seed=1))):
        folder = tmp_path / str(place)
        write_split(folder, split)
        read = read_split(folder)
        assert split_fingerprint(read) == split_fingerprint(split)
        assert (read.history is read.train) == (split.history is split.train)


def test_a_result_is_read_as_it_was_saved_nan_included(tmp_path):
    tally = Tally(np.array([1.0, 0.0]), np.array([2.0, 0.0]), root=True)
    result = Result(
        tallies={"rmse": tally}, variety={"novelty": math.nan, "coverage": 0.5}, seconds=1.5,
        curve=({"epoch": 1},), notes=("a note",), users=pl.Series("user", ["a", "b"]),
    )  # fmt: skip
    result.save(tmp_path, "this")
    assert Result.read(tmp_path, "another") is None
    read = Result.read(tmp_path, "this")
    assert read is not None
    assert read.tallies is not None
    assert read.variety is not None
    assert read.users is not None
    assert read.tallies["rmse"].root
    np.testing.assert_array_equal(read.tallies["rmse"].total_b, tally.total_b)
    np.testing.assert_array_equal(read.tallies["rmse"].weight_b, tally.weight_b)
    assert math.isnan(read.variety["novelty"])
    assert read.variety["coverage"] == 0.5
    assert read.users.to_list() == ["a", "b"]
    assert (read.curve, read.notes, read.seconds) == (({"epoch": 1},), ("a note",), 1.5)
    next(tmp_path.glob("tallies-*")).write_bytes(b"half a fi")
    assert Result.read(tmp_path, "this") is None


THREADS = """
import foretaste.experiments.trial_process, pathlib
for task in pathlib.Path("/proc/self/task").iterdir():
    print((task / "comm").read_text().strip())
"""


def test_what_forks_has_started_no_thread_that_a_fork_would_wait_for():
    own = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # OpenBLAS mends itself after a fork
    done = subprocess.run(
        [sys.executable, "-c", THREADS], capture_output=True, text=True, check=True, env=own
    )
    names = done.stdout.split()
    assert names.count("python") == 1  # OpenMP's would have the name of the program
    assert not [name for name in names if re.fullmatch(r"polars-\d+", name)]


def test_where_there_is_no_fork_the_error_says_what_works(monkeypatch):
    monkeypatch.delattr(os, "fork")
    with pytest.raises(UsageError) as raised:
        TrialRunner()
    assert str(raised.value) == (
        "trials run in processes of their own by os.fork, which this system does not have. Use "
        "Linux, macOS or WSL; evaluate and compare work everywhere."
    )


def test_the_peak_of_memory_is_0_where_no_module_can_tell(monkeypatch):
    def gone(self, *args):
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "read_text", gone)
    assert evaluate.peak_memory() > 2**20
    monkeypatch.setitem(sys.modules, "resource", None)
    assert evaluate.peak_memory() == 0


def test_the_old_names_say_what_to_call_now(parts, monkeypatch):
    monkeypatch.setattr(comparison, "compare_models", lambda *given, **options: (given, options))
    with pytest.warns(DeprecationWarning, match="run_comparison goes with foretaste 0.3. Use com"):
        assert ft.run_comparison(parts, ["ease"], k=3) == ((parts, ["ease"]), {"k": 3})
