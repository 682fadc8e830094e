"""Training resumes exactly: whatever ended it, and wherever; Ctrl-C keeps the best epoch."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

import foretaste as ft
from foretaste.errors import CheckpointError, ModelError, UsageError
from foretaste.training.checkpoints import Checkpoints
from foretaste.training.engine import Engine
from tests.conftest import synthetic
from tests.processes import (
    KILLED,
    killed_after,
    small_model,
    started,
    train,
    train_to_bundle,
    wait_for,
)

ARCHITECTURES = ["history", "article"]
NEVER = 1e9  # seconds


class Death(BaseException):
    """Ends a run at once, as a signal would: nothing in foretaste catches it."""


@pytest.fixture(scope="module")
def uninterrupted(ratings):
    """The tensors of a run that nothing disturbed, by architecture."""
    return {
        kind: small_model(architecture=kind).fit(ratings, Engine(seed=5)).state()[0]
        for kind in ARCHITECTURES
    }


def assert_same(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, expected[name]), f"{name} differs"


def epochs_logged(path: Path) -> list[int]:
    return [json.loads(line)["epoch"] for line in path.read_text().splitlines()]


def dies_at(event: int) -> Callable[..., None]:
    """A hook that raises when it is called for the event-th time."""
    calls = 0

    def hook(*_: object, **__: object) -> None:
        nonlocal calls
        calls += 1
        if calls == event:
            raise Death

    return hook


def lives(attempt: Callable[[], object], hook_up: Callable[[], object]) -> int:
    """Run `attempt` again and again, each life with a new deadly hook, until it is done."""
    for life in range(1, 500):
        handle = hook_up()
        try:
            attempt()
        except Death:
            continue
        finally:
            if hasattr(handle, "remove"):
                handle.remove()  # type: ignore[attr-defined]
        return life
    raise AssertionError("it never ends")


# -- exact resume


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("moment", ["before the step", "after the step"])
def test_killed_at_every_step_and_resumed_the_weights_are_the_same_bit_for_bit(
    architecture, moment, ratings, uninterrupted, tmp_path
):
    register = {
        "before the step": register_optimizer_step_pre_hook,
        "after the step": register_optimizer_step_post_hook,
    }[moment]
    model = small_model(architecture=architecture)
    engine = Engine(seed=5, folder=tmp_path, save_every=0)
    # each life gets one step further than the last: the second step kills it
    n_lives = lives(lambda: model.fit(ratings, engine), lambda: register(dies_at(2)))
    assert_same(model.state()[0], uninterrupted[architecture])
    n_choose, n_refit = (epochs_logged(tmp_path / f"{p}.jsonl") for p in ("choose", "refit"))
    assert n_choose == [1, 2, 3]
    assert n_refit == list(range(1, len(n_refit) + 1))
    assert n_lives == 7 * len(n_choose) + 8 * len(n_refit)  # 855 and 900 ratings in 128s


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("step", [1, 6, 8, 15, 21, 22, 26, 31])
def test_steps_since_the_last_checkpoint_are_repeated_exactly(
    architecture, step, ratings, uninterrupted, tmp_path
):
    model = small_model(architecture=architecture)
    engine = Engine(seed=5, folder=tmp_path, save_every=NEVER)  # only after each epoch
    handle = register_optimizer_step_post_hook(dies_at(step))
    try:
        with pytest.raises(Death):
            model.fit(ratings, engine)
    finally:
        handle.remove()
    assert_same(model.fit(ratings, engine).state()[0], uninterrupted[architecture])


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_every_renaming_of_a_checkpoint_or_log_nothing_is_lost(
    when, ratings, uninterrupted, tmp_path, monkeypatch
):
    rename = Path.replace

    def hook_up() -> None:
        die = dies_at(3)

        def replace(self: Path, target: Path) -> Path:
            if when == "before":
                die()
                return rename(self, target)
            renamed = rename(self, target)
            die()
            return renamed

        monkeypatch.setattr(Path, "replace", replace)

    model = small_model()
    engine = Engine(seed=5, folder=tmp_path, save_every=0)
    assert lives(lambda: model.fit(ratings, engine), hook_up) > 10
    assert_same(model.state()[0], uninterrupted["history"])
    assert epochs_logged(tmp_path / "choose.jsonl") == [1, 2, 3]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "choose.checkpoint", "choose.jsonl", "refit.checkpoint", "refit.jsonl",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_killed_with_sigkill_at_random_moments_the_weights_are_the_same_bit_for_bit(
    architecture, tmp_path
):
    fields = {"architecture": architecture, "epochs": 8, "batch_size": 32, "patience": 8}
    with started(train, fields, None, tmp_path / "whole.safetensors") as process:
        process.join()
        assert process.exitcode == 0
    rng = np.random.default_rng(1)
    out, folder = tmp_path / "killed.safetensors", tmp_path / "training"
    exits = [killed_after(rng.uniform(0, 0.35), train, fields, folder, out) for _ in range(16)]
    assert exits.count(KILLED) >= 6, "the moments are too late to test anything"
    assert epochs_logged(folder / "choose.jsonl"), "the moments are too early to test anything"
    assert set(exits) <= {KILLED, 0}
    with started(train, fields, folder, out) as process:
        process.join()
        assert process.exitcode == 0
    assert_same(load_file(out), load_file(tmp_path / "whole.safetensors"))
    assert epochs_logged(folder / "choose.jsonl") == list(range(1, 9))
    n_refit = epochs_logged(folder / "refit.jsonl")
    assert n_refit == list(range(1, len(n_refit) + 1))


def test_a_complete_run_is_not_trained_again(ratings, uninterrupted, tmp_path):
    engine = Engine(seed=5, folder=tmp_path)
    small_model().fit(ratings, engine)
    handle = register_optimizer_step_pre_hook(dies_at(1))
    try:
        again = small_model().fit(ratings, engine)
    finally:
        handle.remove()
    assert_same(again.state()[0], uninterrupted["history"])
    Checkpoints(tmp_path).drop()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["choose.jsonl", "refit.jsonl"]


def test_training_neither_reads_nor_moves_global_randomness(ratings, uninterrupted):
    torch.manual_seed(123)
    before = torch.get_rng_state()
    of_numpy = repr(np.random.get_state())
    model = small_model().fit(ratings, Engine(seed=5))
    assert torch.equal(torch.get_rng_state(), before)
    assert repr(np.random.get_state()) == of_numpy
    assert_same(model.state()[0], uninterrupted["history"])


# -- checkpoints that must not be used


@pytest.mark.parametrize("change", ["field", "seed", "data", "precision"])
def test_a_checkpoint_of_another_run_is_refused(change, ratings, tmp_path):
    small_model().fit(ratings, Engine(seed=5, folder=tmp_path))
    model = small_model(l2=0.11) if change == "field" else small_model()
    train_on = synthetic(seed=1) if change == "data" else ratings
    engine = Engine(
        seed=6 if change == "seed" else 5, folder=tmp_path,
        precision="bfloat16" if change == "precision" else "float32",
    )  # fmt: skip
    with pytest.raises(CheckpointError) as caught:
        model.fit(train_on, engine)
    assert str(caught.value) == (
        f"{tmp_path}/choose.checkpoint: the checkpoint is of another run: model, fields, seed, "
        "data or precision differ. Run what it was made with, or start again with --fresh, which "
        "removes it."
    )


def test_every_flipped_bit_of_a_checkpoint_is_noticed(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    tensors = {
        "weights.a": torch.arange(6.0).reshape(2, 3),
        "best.a": torch.zeros(0),
        "optimizer.0.step": torch.tensor(3.0),
    }
    checkpoints.save(tensors, {"epoch": 3}, "train", "this run")
    loaded = checkpoints.load("train", "this run")
    assert loaded is not None
    assert_same(loaded[0], tensors)
    assert loaded[1] == {"epoch": 3}
    path = tmp_path / "train.checkpoint"
    good = path.read_bytes()
    for bit in np.random.default_rng(1).choice(8 * len(good), size=800, replace=False):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with pytest.raises(CheckpointError, match="the checkpoint is damaged"):
            checkpoints.load("train", "this run")
    for length in range(0, len(good), 7):
        path.write_bytes(good[:length])
        with pytest.raises(CheckpointError, match="the checkpoint is damaged"):
            checkpoints.load("train", "this run")


def test_a_checkpoint_that_foretaste_did_not_write_is_damaged(tmp_path):
    save_file({"weights.a": torch.ones(2)}, tmp_path / "train.checkpoint")
    with pytest.raises(CheckpointError) as caught:
        Checkpoints(tmp_path).load("train", "this run")
    assert str(caught.value) == (
        f"{tmp_path}/train.checkpoint: the checkpoint is damaged. "
        "Start again with --fresh, which removes it."
    )


def test_what_a_killed_run_left_of_a_checkpoint_goes_with_the_next_one(tmp_path):
    for name in ("train.checkpoint.0123456789ab.new", "train.checkpoint.new", "foretaste.lock"):
        (tmp_path / name).write_text("half a checkpoint")
    (tmp_path / "other.checkpoint").write_text("of another phase")
    Checkpoints(tmp_path).save({"a": torch.ones(2)}, {}, "train", "this run")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["other.checkpoint", "train.checkpoint"]


def test_without_a_folder_nothing_is_kept():
    checkpoints = Checkpoints(None)
    checkpoints.save({"a": torch.ones(2)}, {}, "train", "this run")
    checkpoints.log("train", [{"epoch": 1}])
    checkpoints.drop()
    assert checkpoints.load("train", "this run") is None


def test_a_folder_that_cannot_be_made_is_named(ratings, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError) as caught:
        small_model().fit(ratings, Engine(folder=tmp_path / "file"))
    assert str(caught.value) == (
        f"{tmp_path}/file: cannot be written ([Errno 17] File exists: '{tmp_path}/file'). "
        "Make room, or choose another folder."
    )


def test_a_precision_that_does_not_exist_is_refused():
    with pytest.raises(UsageError) as caught:
        Engine(precision="float8")
    assert str(caught.value) == "precision='float8'. Use one of float32, bfloat16."


# -- Ctrl-C


def interrupted_at(step: int, model: ft.EmbeddingModel, ratings: ft.Dataset, engine: Engine):
    """Fit with Ctrl-C at the given optimizer step."""
    calls = 0

    def hook(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == step:
            os.kill(os.getpid(), signal.SIGINT)

    handle = register_optimizer_step_pre_hook(hook)
    try:
        return model.fit(ratings, engine)
    finally:
        handle.remove()


def test_ctrl_c_keeps_the_best_epoch_so_far_and_the_next_run_goes_on(ratings, tmp_path):
    fields = {"schedule": "cosine-restarts", "epochs": 5, "refit": False}
    engine = Engine(seed=5, folder=tmp_path)
    stopped = interrupted_at(7 * 3 + 4, small_model(**fields), ratings, engine)
    assert [line["epoch"] for line in stopped.curve_] == [1, 2, 3]
    assert stopped.curve_[-1]["interrupted"] is True
    three = small_model(**fields | {"epochs": 3}).fit(ratings, Engine(seed=5))
    assert_same(stopped.state()[0], three.state()[0])
    resumed = small_model(**fields).fit(ratings, engine)
    whole = small_model(**fields).fit(ratings, Engine(seed=5))
    assert_same(resumed.state()[0], whole.state()[0])
    assert not any(line.get("interrupted") for line in resumed.curve_)


def test_ctrl_c_before_the_first_epoch_has_nothing_to_keep(ratings, uninterrupted, tmp_path):
    engine = Engine(seed=5, folder=tmp_path, save_every=0)
    with pytest.raises(ModelError) as caught:
        interrupted_at(4, small_model(), ratings, engine)
    assert str(caught.value) == (
        "interrupted before the first epoch was done: nothing to keep yet. "
        "Run the same command again to go on from the last checkpoint."
    )
    again = small_model().fit(ratings, engine)
    assert_same(again.state()[0], uninterrupted["history"])


@pytest.mark.parametrize("step", [22, 25, 31])  # the 22nd is the first of the second training
def test_ctrl_c_in_the_second_training_keeps_the_network_of_the_first(
    step, ratings, uninterrupted, tmp_path
):
    engine = Engine(seed=5, folder=tmp_path)
    stopped = interrupted_at(step, small_model(), ratings, engine)
    assert stopped.curve_[-1]["interrupted"] is True
    chosen = small_model(refit=False).fit(ratings, Engine(seed=5))
    assert_same(stopped.state()[0], chosen.state()[0])
    assert_same(small_model().fit(ratings, engine).state()[0], uninterrupted["history"])


def test_a_process_that_gets_sigint_ends_well_with_its_best_epoch(tmp_path):
    fields = {"epochs": 10_000, "patience": 10_000}
    out, log = tmp_path / "bundle", tmp_path / "training" / "choose.jsonl"
    with started(train_to_bundle, fields, tmp_path / "training", out) as process:
        wait_for(lambda: log.exists() and len(log.read_text().splitlines()) > 2)
        os.kill(process.pid or 0, signal.SIGINT)
        process.join(60)
        assert process.exitcode == 0
    loaded = ft.load(out)
    assert loaded.training["interrupted"] is True
    assert len(loaded.recommend("u1", k=5)) == 5
