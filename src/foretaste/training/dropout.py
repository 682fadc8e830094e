"""Dropout that draws from a generator of its own, so that a resumed run drops the same units."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Dropout(nn.Dropout):
    """`torch.nn.Dropout` with a `generator`: no global random state is read or seeded."""

    generator: torch.Generator | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Zero each unit with probability p in training, and scale the others by 1 / (1 - p)."""
        if not self.training or self.p == 0:
            return input
        keep = torch.empty(input.shape, dtype=input.dtype)
        keep.bernoulli_(1 - self.p, generator=self.generator)
        return input * keep.div_(1 - self.p).to(input.device)


def seed_dropout(network: nn.Module, generator: torch.Generator) -> None:
    """Let every Dropout of the network draw from `generator`."""
    for module in network.modules():
        if isinstance(module, Dropout):
            module.generator = generator
