"""Batches: tensors gathered in an order that depends on the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foretaste.training.engine import Engine


@dataclass(frozen=True, eq=False)
class Batches:
    """Parallel tensors over samples, served in shuffled batches, of which the last may be smaller.

    Args:
        columns: Tensors whose first axis is the sample, (samples, ...).
        size: Samples in a batch.
        engine: Gives the device and the order.
    """

    columns: tuple[Tensor, ...]
    size: int
    engine: Engine

    @property
    def n_samples(self) -> int:
        """The number of samples, all of which are served in each epoch."""
        return len(self.columns[0])

    @property
    def per_epoch(self) -> int:
        """The number of batches in an epoch."""
        return -(-self.n_samples // self.size)

    def epoch(self, number: int, start: int = 0) -> Iterable[tuple[Any, ...]]:
        """Return the batches of an epoch, tuples of views into columns that are gathered once.

        Args:
            number: The number of the epoch, from 0, which gives the order.
            start: The first batch to return, from 0.
        """
        order = torch.randperm(self.n_samples, generator=self.engine.generator("order", number))
        device = self.engine.torch_device
        shuffled = [column[order].to(device).split(self.size) for column in self.columns]
        return list(zip(*shuffled, strict=True))[start:]
