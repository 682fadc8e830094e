"""Losses and the errors they are judged by."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

Pairs = tuple[Tensor, Tensor]


def squared_error(predicted_b: Tensor, rating_b: Tensor) -> Tensor:
    """Mean squared error of a batch, a scalar."""
    return (predicted_b - rating_b).square().mean()


def root_mean_square(error_p: Tensor) -> float:
    """Square root of the mean squared error over pairs, accumulated in double."""
    return float(torch.sqrt(error_p.double().square().mean()))


def skip_gram(
    positive_bc: Tensor, real_bc: Tensor, negative_bn: Tensor, negatives: float
) -> Tensor:
    """Skip-gram with negative sampling (Mikolov 2013, equation 4), mean over pairs, a scalar.

    positive_bc: centre times context, real where real_bc is True.  negative_bn: centre times N
    contexts of noise that the whole batch shares, which stand for `negatives` of each pair.
    """
    pairs_b = real_bc.sum(dim=1)
    noise_b = logsigmoid(-negative_bn).mean(dim=1) * negatives * pairs_b
    found_b = (logsigmoid(positive_bc) * real_bc).sum(dim=1)
    return -(found_b + noise_b).sum() / pairs_b.sum().clamp(min=1)


def sampled_softmax(
    score_bc: Tensor, log_chance_c: Tensor | None, wanted: Pairs, never: Pairs
) -> Tensor:
    """Mean over targets of -log softmax over the catalogue, from a sample of it, a scalar.

    score_bc: overwritten.  log_chance_c: log of the chance that a candidate is in the sample.
    Subtracted, it makes the sum of exponentials an unbiased estimate of the one over all items
    (log-Q correction, Bengio and Senécal 2008; Yi et al. 2019); None where all are there.  wanted,
    never: rows b and columns c of the targets, and of what is no candidate of its row.
    """
    lost = _SampledSoftmax.apply(score_bc, log_chance_c, wanted, never)
    assert isinstance(lost, Tensor)
    return lost


class _SampledSoftmax(torch.autograd.Function):
    """The scores become their own gradient in place: one pass of softmax, and one of a product."""

    @staticmethod
    def forward(
        ctx: Any, score_bc: Tensor, log_chance_c: Tensor | None, wanted: Pairs, never: Pairs
    ) -> Tensor:
        if log_chance_c is not None:
            score_bc.sub_(log_chance_c)
        wanted_t, never_t = (row * score_bc.shape[1] + column for row, column in (wanted, never))
        score_bc.view(-1).index_fill_(0, never_t, torch.finfo(score_bc.dtype).min)
        share_bc = torch.softmax(score_bc, dim=1, out=score_bc)
        share_t, n_targets = share_bc.view(-1)[wanted_t], max(len(wanted_t), 1)
        lost_t = -share_t.clamp(min=torch.finfo(share_t.dtype).tiny).log()
        if log_chance_c is not None:
            lost_t -= log_chance_c[wanted[1]]
        # a row's gradient is its softmax times its targets' number, less one at each target
        share_bc.mul_(torch.bincount(wanted[0], minlength=len(share_bc))[:, None] / n_targets)
        share_bc.view(-1).index_add_(0, wanted_t, torch.full_like(share_t, -1 / n_targets))
        ctx.save_for_backward(share_bc)
        return lost_t.sum() / n_targets  # a batch without a target teaches nothing

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (grad_bc,) = ctx.saved_tensors
        if grads[0] != 1:  # one pass less where the loss is all there is
            grad_bc.mul_(grads[0])
        return grad_bc, None, None, None
