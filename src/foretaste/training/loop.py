"""The training loop: epochs of gradient steps, early stopping, checkpoints, exact resume.

Random numbers depend on epoch and step (`Engine.generator`), and no generator is carried along. A
checkpoint therefore needs only weights, optimizer state and counters, and a run that resumes from
any step repeats bit for bit. The module does not know users and items.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from foretaste.errors import ModelError
from foretaste.training.batches import Batches
from foretaste.training.checkpoints import Checkpoints
from foretaste.training.engine import Engine

Tensors = dict[str, Tensor]


class Dropout(nn.Dropout):
    """`torch.nn.Dropout` with a generator of its own, so that no global random state is read.

    A random number of 64 bits serves four units, which makes it several times as fast as that of
    torch; p is rounded to a multiple of 2^-16.
    """

    generator: torch.Generator | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Zero each unit with probability p in training, and scale the others by 1 / (1 - p).

        Args:
            input: Units, of any shape.
        """
        dropped = min(round(self.p * 65_536), 65_535)
        if not self.training or dropped == 0:
            return input
        n = input.numel()
        bits = torch.empty(n // 4 + 1, dtype=torch.int64)
        uniform = bits.random_(-(2**63), None, generator=self.generator).view(torch.int16)[:n]
        # Four 16-bit numbers lie in one of 64 bits. They are signed, so the limit moves down by
        # 2^15.
        keep = (uniform >= dropped - 32_768).view(input.shape).to(input.device)
        return input * keep / (1 - dropped / 65_536)


def seed_dropout(network: nn.Module, generator: torch.Generator) -> None:
    """Let every Dropout of a network draw from one generator.

    Args:
        network: The network.
        generator: The generator.
    """
    for module in network.modules():
        if isinstance(module, Dropout):
            module.generator = generator


def cosine_restarts(step: int, period: int, lowest: float = 0.1) -> float:
    """Return the factor of the learning rate: from 1 down along a cosine, again in every period.

    Source: SGDR (Loshchilov and Hutter 2017).

    Args:
        step: The number of the step, from 0.
        period: Steps in a period.
        lowest: The factor at the end of a period.
    """
    return lowest + (1 - lowest) * (1 + math.cos(math.pi * (step % period) / period)) / 2


def one_cycle(step: int, total: int, warm_up: float = 0.1, lowest: float = 0.01) -> float:
    """Return the factor of the learning rate: linearly up to 1, then down along a cosine.

    Source: Smith (2018).

    Args:
        step: The number of the step, from 0.
        total: Steps in the whole training.
        warm_up: The fraction of steps in which the factor rises.
        lowest: The lowest factor.
    """
    rise = max(1, round(warm_up * total))
    if step < rise:
        return max(lowest, (step + 1) / rise)
    fall = math.pi * (step - rise) / max(1, total - rise)
    return lowest + (1 - lowest) * (1 + math.cos(fall)) / 2


@dataclass
class Progress:
    """Where a run is: the next batch to take, and the best epoch so far.

    Args:
        epoch: The number of the current epoch, from 0.
        batch: The number of the next batch in it, from 0.
        samples: Samples served in the current epoch; an epoch may draw some of them only.
        loss_sum: The sum of the loss over these samples.
        seconds: Seconds of training, in earlier processes and in this one.
        best: The lowest validation error.
        best_epoch: The epoch with that error, from 0; -1 before the first.
        curve: What was measured in each epoch.
        interrupted: Whether Ctrl-C ended the run.
    """

    epoch: int = 0
    batch: int = 0
    samples: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    best: float = float("inf")
    best_epoch: int = -1
    curve: list[dict[str, Any]] = field(default_factory=list)
    interrupted: bool = False


@dataclass(eq=False)
class Loop:
    """Trains a network in place and leaves the weights of the best epoch in it.

    Args:
        network: The network.
        optimizer: What updates its weights.
        batches: The samples.
        loss: Returns the loss of the columns of a batch, a scalar.
        validate: Returns the error to minimise, on data carved from train; None keeps the last
            epoch.
        rate: Returns the factor of the learning rate at a step, from 0.
        epochs: The largest number of epochs.
        patience: The number of epochs without improvement after which training stops.
        engine: Gives device, precision, random numbers, progress and the folder of checkpoints.
        identity: Names the run; a checkpoint of another run is refused.
        phase: Names this loop within the run.
        fallback: Whether the caller has other weights to go on with. Without them Ctrl-C before
            the end of the first epoch is an error.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    batches: Batches
    loss: Callable[..., Tensor]
    validate: Callable[[], float] | None
    rate: Callable[[int], float]
    epochs: int
    patience: int
    engine: Engine
    identity: str
    phase: str = "train"
    fallback: bool = False

    def run(self) -> Progress:
        """Train to the end, to early stopping or to Ctrl-C, and return how it went.

        Raises:
            ModelError: Training diverged, or was interrupted before there was anything to keep.
            CheckpointError: A checkpoint is of another run or damaged, or cannot be written.
        """
        # Whatever is resumed, the rates are set from these: the optimizer's own are those of the
        # last step.
        base_rates = [group["lr"] for group in self.optimizer.param_groups]
        state, best = self._resume()
        generator = torch.Generator()
        seed_dropout(self.network, generator)
        per_epoch = self.batches.per_epoch
        done = state.epoch * per_epoch + state.batch
        label = f"{self.phase}, resumed" if done else self.phase
        with self.engine.meter(label, self.epochs * per_epoch) as meter:
            meter.advance(done)
            try:
                while state.epoch < self.epochs and self._hopeful(state):
                    self._epoch(state, base_rates, generator, meter, best)
                    if self._finish_epoch(state):
                        best = self._weights()
                    # The log goes first: killed between the two, the epoch is repeated and logged
                    # again; the other way round it would be missing from the log.
                    Checkpoints(self.engine.folder).log(self.phase, state.curve)
                    self._save(state, best)
            except KeyboardInterrupt:
                state.interrupted = True
                if not best and not self.fallback:
                    raise ModelError(
                        "interrupted before the first epoch was done: nothing to keep yet.",
                        fix="Run the same command again to go on from the last checkpoint.",
                    ) from None
                for last in state.curve[-1:]:
                    last["interrupted"] = True
        if best:
            self.network.load_state_dict(best)
        self.network.eval()
        return state

    def _hopeful(self, state: Progress) -> bool:
        """Return whether the error improved within the last epochs of patience."""
        return state.epoch - state.best_epoch - 1 < self.patience

    def _epoch(
        self, state: Progress, base_rates: list[float], generator: torch.Generator, meter: Any,
        best: Tensors,
    ) -> None:  # fmt: skip
        """Train for the rest of the current epoch, with a checkpoint every few seconds."""
        self.network.train()
        started = saved = time.monotonic()
        for columns in self.batches.epoch(state.epoch, state.batch):
            step = state.epoch * self.batches.per_epoch + state.batch
            # A seed for each step, so that a resumed epoch drops the units that the whole one would
            # have.
            generator.manual_seed(self.engine.generator("step", step).initial_seed())
            for group, base in zip(self.optimizer.param_groups, base_rates, strict=True):
                group["lr"] = base * self.rate(step)
            self.optimizer.zero_grad(set_to_none=True)
            with self.engine.autocast():
                loss = self.loss(*columns)
            loss.backward()
            self.optimizer.step()
            state.samples += len(columns[0])
            # The mean of the batch times its size: the last batch of an epoch is smaller.
            state.loss_sum += float(loss.detach()) * len(columns[0])
            state.batch += 1
            meter.advance(1, self._note(state))
            if time.monotonic() - saved > self.engine.save_every:
                saved = time.monotonic()
                state.seconds, started = state.seconds + saved - started, saved
                self._save(state, best)
        state.seconds += time.monotonic() - started

    def _finish_epoch(self, state: Progress) -> bool:
        """Validate, extend the curve, move to the next epoch; return whether this was the best."""
        self.network.eval()
        with torch.no_grad(), self.engine.autocast():
            error = None if self.validate is None else self.validate()
        if not math.isfinite(state.loss_sum if error is None else error):
            raise ModelError(
                f"training diverged in epoch {state.epoch + 1}: the error is not a finite number.",
                fix="Lower the learning rate, and start again with --fresh.",
            )
        samples = max(state.samples, 1)  # an epoch may draw none
        seconds = state.seconds - (state.curve[-1]["seconds"] if state.curve else 0.0)
        state.curve.append(
            {
                "epoch": state.epoch + 1,
                "train_loss": state.loss_sum / samples,
                "validation": error,
                "learning_rate": self.optimizer.param_groups[0]["lr"],
                "seconds": state.seconds,
                "samples_per_second": samples / max(seconds, 1e-9),
            }
        )
        # Without validation every epoch counts as the best so far, and the last one is kept.
        improved = error is None or error < state.best
        if improved:
            state.best, state.best_epoch = error or 0.0, state.epoch
        state.epoch, state.batch = state.epoch + 1, 0
        state.samples, state.loss_sum = 0, 0.0
        return improved

    def _note(self, state: Progress) -> str:
        """Return what the progress line shows beside the bar."""
        if not state.curve:
            return "epoch 1"
        last = state.curve[-1]
        rate = f"epoch {state.epoch + 1}, {last['samples_per_second']:,.0f} samples/s"
        if self.validate is None:
            return rate
        return f"{rate}, validation {last['validation']:.4f} (best {state.best:.4f})"

    def _weights(self) -> Tensors:
        # A copy: the optimizer goes on writing into the tensors of the network.
        return {key: tensor.detach().clone() for key, tensor in self.network.state_dict().items()}

    def _save(self, state: Progress, best: Tensors) -> None:
        """Write a checkpoint of weights, best weights, optimizer state and counters."""
        moments = {
            f"optimizer.{index}.{name}": tensor
            for index, entry in self.optimizer.state_dict()["state"].items()
            for name, tensor in entry.items()
        }
        weights = {f"weights.{key}": tensor for key, tensor in self.network.state_dict().items()}
        kept = {f"best.{key}": tensor for key, tensor in best.items()}
        Checkpoints(self.engine.folder).save(
            moments | weights | kept, vars(state), self.phase, self.identity
        )

    def _resume(self) -> tuple[Progress, Tensors]:
        """Restore the last checkpoint and return its state and best weights, or a fresh start."""
        found = Checkpoints(self.engine.folder).load(self.phase, self.identity)
        if found is None:
            return Progress(), {}
        tensors, values = found
        parts: dict[str, Tensors] = {"weights": {}, "best": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, key = name.partition(".")
            parts[part][key] = tensor
        self.network.load_state_dict(parts["weights"])
        moments: dict[int, Tensors] = {}
        for name, tensor in parts["optimizer"].items():
            index, _, key = name.partition(".")
            moments.setdefault(int(index), {})[key] = tensor
        # Param groups are rebuilt from the fields, which the identity holds equal; only moments are
        # loaded.
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        return Progress(**values), parts["best"]


def all_epochs(
    network: nn.Module, batches: Batches, loss: Callable[..., Tensor], learning_rate: float,
    epochs: int, engine: Engine, identity: str,
) -> Progress:  # fmt: skip
    """Train by Adam through one cycle of the learning rate, to the end and without validation.

    Args:
        network: The network, trained in place, on the device of the engine.
        batches: The samples.
        loss: Returns the loss of the columns of a batch, a scalar.
        learning_rate: The highest learning rate.
        epochs: The number of epochs.
        engine: As in `Loop`.
        identity: Names the run; a checkpoint of another run is refused.

    Returns:
        How it went.
    """
    network.to(engine.torch_device)
    total = epochs * batches.per_epoch
    return Loop(
        network=network,
        optimizer=torch.optim.Adam(network.parameters(), learning_rate, fused=True),
        batches=batches,
        loss=loss,
        validate=None,
        rate=lambda step: one_cycle(step, total),
        epochs=epochs,
        patience=epochs,
        engine=engine,
        identity=identity,
    ).run()
