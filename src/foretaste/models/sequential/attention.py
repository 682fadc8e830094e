"""Causal attention with learned distances, and the softmax over a catalogue, each as one step.

PyTorch would keep every matrix between the products of these, and pass over each several times.
Here each is one node of the graph with its gradient written out, which takes matrix products and
little else; `tests/test_sasrec.py` compares both with the plain way.

Axes: b histories, h heads, l positions of a history, c channels of a head, t targets, i items,
d factors, n distances between positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK_TARGETS = 1024  # whose logits are in memory at a time: they stay near the cores


class CausalAttention(torch.autograd.Function):
    """softmax(q k^T / sqrt(c) + bias of the distance) v, where no position sees a later one."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias_hn: Tensor) -> Tensor:
        """Attend.

        Args:
            ctx: Keeps what the gradient needs: the inputs and the probabilities.
            q: Queries, (b, h, l, c).
            k: Keys, (b, h, l, c).
            v: Values, (b, h, l, c).
            bias_hn: What is added for each distance, 0 first; the last stands for all larger ones.
        """
        length = q.shape[2]
        S_bhll = torch.matmul(q * q.shape[3] ** -0.5, k.transpose(2, 3))
        S_bhll += by_distance(bias_hn, length)
        P_bhll = torch.softmax(S_bhll, dim=3)
        ctx.save_for_backward(q, k, v, P_bhll)
        ctx.n_distances = bias_hn.shape[1]
        return P_bhll @ v

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the gradients by q, k, v and the bias."""
        (dO,) = grads
        q, k, v, P = ctx.saved_tensors
        dv = P.transpose(2, 3) @ dO
        dS = dO @ v.transpose(2, 3)
        # The gradient of a softmax: P (dP - sum P dP), and sum P dP is sum O dO.
        dS -= ((P @ v) * dO).sum(dim=3, keepdim=True)
        dS *= P
        scale = q.shape[3] ** -0.5
        dq, dk = (dS @ k) * scale, (dS.transpose(2, 3) @ q) * scale
        return dq, dk, dv, per_distance(dS.sum(dim=0), ctx.n_distances)


def by_distance(bias_hn: Tensor, length: int) -> Tensor:
    """Return what is added to the score of each pair of positions: (h, l, l), -inf for later ones.

    Args:
        bias_hn: What is added for each distance; the last stands for all larger ones.
        length: The number of positions l.
    """
    place_l = torch.arange(length, device=bias_hn.device)
    back_ll = place_l[:, None] - place_l
    bias_hll = bias_hn[:, back_ll.clamp(0, bias_hn.shape[1] - 1)]
    return bias_hll.masked_fill(back_ll < 0, -torch.inf)


def per_distance(x_hll: Tensor, n_distances: int) -> Tensor:
    """Return sums over the pairs of positions of each distance: (h, n); the rest is `by_distance`.

    Args:
        x_hll: A number for each pair of positions, the later first.
        n_distances: How many distances are told apart.
    """
    place_l = torch.arange(x_hll.shape[1], device=x_hll.device)
    back_ll = (place_l[:, None] - place_l).clamp(min=-1)
    back_p = back_ll.clamp(max=n_distances - 1).flatten()
    total_hn = x_hll.new_zeros(len(x_hll), n_distances)
    return total_hn.index_add_(1, back_p[back_p >= 0], x_hll.flatten(1)[:, back_p >= 0])


class SoftmaxLoss(torch.autograd.Function):
    """The mean of -log softmax(x W^T)[target], chunk by chunk, without all logits in memory."""

    @staticmethod
    def forward(
        ctx: Any, x_td: Tensor, W_id: Tensor, target_t: Tensor, shift_i: Tensor | None
    ) -> Tensor:
        """Return the loss, and work out its gradient on the way.

        Args:
            ctx: Keeps the gradients.
            x_td: What the targets are predicted from: (t, d).
            W_id: Vectors of the items: (i, d).
            target_t: The items that are to be found: (t,).
            shift_i: What is subtracted from the logits of each item, or None: (i,).
        """
        total = x_td.new_zeros((), dtype=torch.float64)
        dx_td, dW_id = torch.empty_like(x_td), torch.zeros_like(W_id)
        buffer = x_td.new_empty(min(CHUNK_TARGETS, len(x_td)), len(W_id))
        for start in range(0, len(x_td), CHUNK_TARGETS):
            x_cd = x_td[start : start + CHUNK_TARGETS]
            target_c1 = target_t[start : start + CHUNK_TARGETS, None]
            logit_ci = torch.mm(x_cd, W_id.T, out=buffer[: len(x_cd)])
            if shift_i is not None:
                logit_ci -= shift_i
            chosen_c1 = logit_ci.gather(1, target_c1)
            top_c1 = logit_ci.max(dim=1, keepdim=True).values
            # The logits become their own gradient, p - y, where they lie.
            p_ci = logit_ci.sub_(top_c1).exp_()
            sum_c1 = p_ci.sum(dim=1, keepdim=True)
            total += (sum_c1.log() + top_c1 - chosen_c1).sum()
            p_ci.div_(sum_c1)
            p_ci.scatter_add_(1, target_c1, p_ci.new_full(target_c1.shape, -1.0))
            torch.mm(p_ci, W_id, out=dx_td[start : start + CHUNK_TARGETS])
            dW_id.addmm_(p_ci.T, x_cd)
        ctx.gradients = dx_td.div_(len(x_td)), dW_id.div_(len(x_td))
        return (total / len(x_td)).to(x_td.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Return the gradients by x and W, which the way there has found."""
        dx_td, dW_id = ctx.gradients
        del ctx.gradients
        return dx_td.mul_(grads[0]), dW_id.mul_(grads[0]), None, None
