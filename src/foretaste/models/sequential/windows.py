"""Windows: the batches of sequence models, histories cut into pieces of similar length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foretaste.training.batches import Batches, turns
from foretaste.training.engine import Engine


@dataclass(frozen=True, eq=False)
class Windows(Batches):
    """All entries of all histories as targets, each once in an epoch, in windows of some length.

    A window is a run of targets of one user, each predicted from the entries of the window before
    it; the first from the entry before the window, or from the start of a history.  Where a history
    is cut, is drawn anew in every epoch.  Windows of similar length share a batch and are padded at
    the end, where causal attention does not look.

    Attributes:
        item_r: Items of the entries, users one after the other: (entries,).
        gap_r: Bucket of the time since the entry before: (entries,).
        pointers: Where each history starts: (users + 1,).
        n_items: The number of items, which stands before the first entry.
        length: Targets in a window at most.
        size: Targets in a batch, about.
        engine: The seed of cuts and order, and the device that batches are put on.
    """

    item_r: np.ndarray
    gap_r: np.ndarray
    pointers: np.ndarray
    n_items: int
    length: int
    size: int
    engine: Engine

    @property
    def n_samples(self) -> int:
        """The number of targets in an epoch: every entry."""
        return len(self.item_r)

    @property
    def per_epoch(self) -> int:
        """The number of batches in an epoch."""
        return max(1, round(self.n_samples / self.size))

    def epoch(
        self, number: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, ...]]:
        """Serve targets, the groups of windows that they lie in, and where.

        Yields:
            The targets (t,); their places in the flattened groups (t,); and for each group, the
            items before each position (b, l) and their gaps (b, l).
        """
        rng = self.engine.rng("windows", number)
        first_w, length_w = self._cut(rng)
        # By length, windows of one length in any order; then whole runs of them are batches.
        order_w = np.lexsort((rng.random(len(first_w)), length_w))
        cumulated_w = np.cumsum(length_w[order_w])
        border = np.searchsorted(
            cumulated_w, np.arange(1, self.per_epoch) * (cumulated_w[-1] / self.per_epoch)
        )
        parts = np.split(order_w, border)
        order_b = rng.permutation(self.per_epoch)
        for batch in turns(self.per_epoch, start, rank, world):
            chosen_w = parts[order_b[batch]]
            yield self._batch(first_w[chosen_w], length_w[chosen_w])

    def _cut(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return where the windows of an epoch begin, and how long they are: (w,) each."""
        length_u = np.diff(self.pointers)
        phase_u = rng.integers(0, self.length, len(length_u))
        phase_u = np.where(length_u <= self.length, 0, phase_u)
        # The first window ends at the phase, all others but the last are whole.
        n_u = np.where(length_u > 0, 1 + (length_u - 1 + phase_u) // self.length, 0)
        user_w = np.repeat(np.arange(len(length_u)), n_u)
        number_w = np.arange(len(user_w)) - np.repeat(np.cumsum(n_u) - n_u, n_u)
        begin_w = np.maximum(number_w * self.length - phase_u[user_w], 0)
        end_w = np.minimum((number_w + 1) * self.length - phase_u[user_w], length_u[user_w])
        return self.pointers[:-1][user_w] + begin_w, end_w - begin_w

    def _batch(self, first_w: np.ndarray, length_w: np.ndarray) -> tuple[Tensor, ...]:
        longest = int(length_w.max())
        place_wl = first_w[:, None] + np.arange(longest)
        real_wl = np.arange(longest) < length_w[:, None]
        target_wl = np.minimum(place_wl, len(self.item_r) - 1)
        starts = np.isin(first_w, self.pointers)
        before_wl = np.maximum(target_wl - 1, 0)
        item_wl = self.item_r[before_wl]
        gap_wl = self.gap_r[before_wl]
        item_wl[starts, 0], gap_wl[starts, 0] = self.n_items, 0
        place_t = np.flatnonzero(real_wl.ravel())
        parts = self.item_r[target_wl.ravel()[place_t]], place_t, item_wl, gap_wl
        device = self.engine.torch_device
        return tuple(torch.from_numpy(np.ascontiguousarray(x)).long().to(device) for x in parts)
