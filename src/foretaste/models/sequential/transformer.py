"""The network of SASRec: blocks of causal attention over the entries of histories."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foretaste.models.sequential.attention import CausalAttention
from foretaste.training.loop import Dropout

GAP_BUCKETS = 24  # of the time since the entry before: 0 s, 1 s, then by powers of two and a half


class Block(nn.Module):
    """Attention, then a layer at each position; each is added to what went in through a gate.

    The norms come first (pre-norm), the layer is a SwiGLU (Shazeer 2020), and what a branch adds
    is multiplied by a sigmoid of its input (LiGR, arXiv 2502.03417), so that blocks can be stacked.

    Args:
        width: The number of factors d.
        heads: The number of heads, which divides the width.
        distances: How many distances between positions are told apart.
        dropout: Probability with which training drops a unit of a branch.
    """

    def __init__(self, width: int, heads: int, distances: int, dropout: float) -> None:
        """Make the layers, their weights as torch draws them."""
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_layer = (
            nn.LayerNorm(width, dtype=torch.float32) for _ in range(2)
        )
        self.qkv = nn.Linear(width, 3 * width, bias=False, dtype=torch.float32)
        self.out = nn.Linear(width, width, bias=False, dtype=torch.float32)
        self.bias_hn = nn.Parameter(torch.zeros(heads, distances, dtype=torch.float32))
        self.up = nn.Linear(width, 4 * width, bias=False, dtype=torch.float32)
        self.down = nn.Linear(2 * width, width, bias=False, dtype=torch.float32)
        self.gate_seen = nn.Linear(width, width, dtype=torch.float32)
        self.gate_layer = nn.Linear(width, width, dtype=torch.float32)
        self.drop = Dropout(dropout)

    def forward(self, x_bld: Tensor) -> Tensor:
        """Return the next vectors of each position.

        Args:
            x_bld: Vectors of the positions of b histories of one length, padded at the end.
        """
        b, length, d = x_bld.shape
        qkv = self.qkv(self.norm_attention(x_bld)).view(b, length, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        seen = CausalAttention.apply(q, k, v, self.bias_hn)
        branch = self.out(seen.transpose(1, 2).reshape(b, length, d))
        x_bld = x_bld + torch.sigmoid(self.gate_seen(x_bld)) * self.drop(branch)
        gate, value = self.up(self.norm_layer(x_bld)).chunk(2, dim=2)
        branch = self.down(nn.functional.silu(gate) * value)
        return x_bld + torch.sigmoid(self.gate_layer(x_bld)) * self.drop(branch)


class Transformer(nn.Module):
    """Vectors of what comes next, at every position of a history.

    Args:
        n_items: How many items there are.
        width: The number of factors d.
        n_blocks: How many blocks are stacked.
        heads: The number of heads.
        distances: How many distances between positions are told apart.
        dropout: Probability with which training drops a unit.
        generator: Draws the weights; None for weights that are loaded afterwards.
    """

    def __init__(
        self, n_items: int, width: int, n_blocks: int, heads: int, distances: int, dropout: float,
        generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        """Make the table of items, the start, the gaps and the blocks."""
        super().__init__()
        # The row after the items stands before the first entry: an empty history has a vector too.
        self.items = nn.Parameter(torch.zeros(n_items + 1, width, dtype=torch.float32))
        self.gaps = nn.Parameter(torch.zeros(GAP_BUCKETS, width, dtype=torch.float32))
        self.popularity = nn.Parameter(torch.zeros(n_items, dtype=torch.float32))
        self.blocks = nn.ModuleList(
            Block(width, heads, distances, dropout) for _ in range(n_blocks)
        )
        self.norm = nn.LayerNorm(width, dtype=torch.float32)
        self.drop = Dropout(dropout)
        if generator is not None:
            with torch.no_grad():
                for weight in self.parameters():
                    if weight.dim() == 2 and weight.shape[1] > 1:
                        weight.normal_(std=0.5 * weight.shape[1] ** -0.5, generator=generator)
                for block in self.blocks:
                    assert isinstance(block, Block)
                    block.bias_hn.zero_()
                    for gate in (block.gate_seen, block.gate_layer):
                        gate.weight.zero_()
                        gate.bias.zero_()
                self.gaps.zero_()

    def table(self) -> Tensor:
        """Return what the vector of a position and a one are multiplied with: (items, d + 1)."""
        return torch.cat([self.items[:-1], self.popularity[:, None]], dim=1)

    def forward(self, item_bl: Tensor, gap_bl: Tensor) -> Tensor:
        """Return the vector of what follows each position: (b, l, d).

        Args:
            item_bl: Items of the entries; the number of items stands before the first.
            gap_bl: The bucket of the time from the entry before.
        """
        x_bld = self.items[item_bl] * self.items.shape[1] ** 0.5 + self.gaps[gap_bl]
        x_bld = self.drop(x_bld)
        for block in self.blocks:
            x_bld = block(x_bld)
        return self.norm(x_bld)


def gap_buckets(time_h: Tensor | None, first_h: Tensor) -> Tensor:
    """Return the bucket of the time that has passed since the entry before: (entries,).

    Args:
        time_h: Milliseconds, (entries,), or None, which is one bucket of its own.
        first_h: Whether an entry is the first of its history: (entries,).
    """
    if time_h is None:
        return torch.zeros(len(first_h), dtype=torch.int64)
    seconds_h = time_h.diff(prepend=time_h[:1]).double() / 1000
    bucket_h = 2 + (seconds_h.clamp(min=1).log2() / 1.3).floor().long()
    bucket_h = torch.where(seconds_h < 1, 1, bucket_h).clamp(max=GAP_BUCKETS - 1)
    return torch.where(first_h, 0, bucket_h)
