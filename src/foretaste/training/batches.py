"""Batches: what a training loop reads, in an order that depends on the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from foretaste.training.engine import Engine


class Batches(Protocol):
    """The batches of every epoch, of which each process of a run takes its part.

    An epoch is a function of the seed and its number: whoever asks again, from whatever batch on,
    gets the same batches. It does not know how many processes there are until one asks.
    """

    @property
    def n_samples(self) -> int:
        """The number of samples in an epoch, over all processes."""
        ...

    @property
    def per_epoch(self) -> int:
        """The number of batches in an epoch, over all processes."""
        ...

    def epoch(
        self, number: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterable[tuple[Any, ...]]:
        """Return the batches of one epoch, or the part of them that one process takes.

        Args:
            number: The number of the epoch, from 0.
            start: The first batch to return, counted over all processes, as in `per_epoch`.
            rank: The number of the process, from 0; batch b goes to rank b % world.
            world: The number of processes. Where it does not divide the batches, the first ranks
                get one more than the others.
        """
        ...


def turns(per_epoch: int, start: int, rank: int, world: int) -> range:
    """Return the numbers of the batches that one process takes, in order.

    Args:
        per_epoch: The number of batches in the epoch.
        start: The first batch that counts.
        rank: The number of the process, from 0; batch b goes to rank b % world.
        world: The number of processes.
    """
    return range(start + (rank - start) % world, per_epoch, world)


@dataclass(frozen=True, eq=False)
class ShuffledBatches(Batches):
    """Parallel tensors over samples, in shuffled batches; the last batch may be smaller.

    Args:
        columns: Tensors whose first axis is the sample.
        size: The number of samples in a batch.
        engine: The seed of the order, and the device that batches are put on.
    """

    columns: tuple[Tensor, ...]
    size: int
    engine: Engine

    @property
    def n_samples(self) -> int:
        """The number of samples in an epoch: all of them."""
        return len(self.columns[0])

    @property
    def per_epoch(self) -> int:
        """The number of batches in an epoch."""
        return -(-self.n_samples // self.size)

    def epoch(
        self, number: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> list[tuple[Tensor, ...]]:
        """Return the batches of one epoch, as views of columns that are gathered once."""
        order = torch.randperm(self.n_samples, generator=self.engine.generator("order", number))
        device = self.engine.torch_device
        shuffled = [column[order].to(device).split(self.size) for column in self.columns]
        batches = list(zip(*shuffled, strict=True))
        return [batches[b] for b in turns(self.per_epoch, start, rank, world)]
