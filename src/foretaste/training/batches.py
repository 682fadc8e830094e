"""Batches: gathered tensors in an order that depends on the seed and the epoch only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foretaste.training.engine import Engine


@dataclass(frozen=True, eq=False)
class Batches:
    """Parallel tensors over samples, served in shuffled batches; the last one may be smaller.

    columns: tensors whose first axis is the sample.
    """

    columns: tuple[Tensor, ...]
    size: int
    engine: Engine

    @property
    def n_samples(self) -> int:
        """Samples in an epoch: all of them."""
        return len(self.columns[0])

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch."""
        return -(-self.n_samples // self.size)

    def epoch(self, number: int, start: int = 0) -> Iterable[tuple[Any, ...]]:
        """The batches of one epoch from `start` on, as views of columns gathered once."""
        order = torch.randperm(self.n_samples, generator=self.engine.generator("order", number))
        device = self.engine.torch_device
        shuffled = [column[order].to(device).split(self.size) for column in self.columns]
        return list(zip(*shuffled, strict=True))[start:]
