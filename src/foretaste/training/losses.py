"""Losses that training minimises, and the error that validation reports."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def squared_error(predicted_b: Tensor, rating_b: Tensor) -> Tensor:
    """Return the mean squared error of a batch, a scalar.

    Args:
        predicted_b: Predicted ratings, (batch,).
        rating_b: Ratings, (batch,).
    """
    return (predicted_b - rating_b).square().mean()


def root_mean_square(error_p: Tensor) -> float:
    """Return the root of the mean squared error, accumulated in double precision.

    Args:
        error_p: Predicted minus actual rating of each pair of a user and an item, (pairs,).
    """
    return float(torch.sqrt(error_p.double().square().mean()))


def skip_gram(
    positive_bc: Tensor, real_bc: Tensor, negative_bn: Tensor, negatives: float
) -> Tensor:
    """Return the loss of skip-gram with negative sampling, a scalar, the mean over pairs.

    Source: Mikolov et al. (2013), equation 4.

    Args:
        positive_bc: Dot product of each centre with each of its contexts, (batch, contexts).
        real_bc: Whether there is such a context, (batch, contexts) bool.
        negative_bn: Dot product of each centre with noise that the whole batch shares, (batch, n).
        negatives: The number of noise contexts of each pair that the shared ones stand for.
    """
    pairs_b = real_bc.sum(dim=1)
    noise_b = logsigmoid(-negative_bn).mean(dim=1) * negatives * pairs_b
    found_b = (logsigmoid(positive_bc) * real_bc).sum(dim=1)
    return -(found_b + noise_b).sum() / pairs_b.sum().clamp(min=1)


def sampled_softmax(
    user_bd: Tensor, item_cd: Tensor, temperature: float, log_chance_c: Tensor | None,
    wanted_t: Tensor, never_n: Tensor,
) -> Tensor:  # fmt: skip
    """Return the negative log softmax over all items, estimated from a sample: mean over targets.

    The log of the chance that an item is in the sample is subtracted from its score, which makes
    the sum of exponentials an unbiased estimate of that over all items (log-Q correction: Bengio
    and Senécal 2008; Yi et al. 2019).

    Args:
        user_bd: Vectors of users, (B, d).
        item_cd: Vectors of the items in the sample, (C, d).
        temperature: What dot products are divided by.
        log_chance_c: Log of that chance, (C,); None where all items are in the sample.
        wanted_t: Positions of the targets in the flattened scores (B, C), ascending, each once.
        never_n: Positions of what is not a candidate of its user, each once.
    """
    lost = _SampledSoftmax.apply(user_bd, item_cd, temperature, log_chance_c, wanted_t, never_n)
    assert isinstance(lost, Tensor)
    return lost


class _SampledSoftmax(torch.autograd.Function):
    """The loss with its gradient by hand: the scores become their own gradient in place.

    A matrix (B, C) of scores is the largest thing in memory, so there is only one of them; weights
    of its rows are multiplied into the smaller matrix of users.
    """

    @staticmethod
    def forward(
        ctx: Any, user_bd: Tensor, item_cd: Tensor, temperature: float,
        log_chance_c: Tensor | None, wanted_t: Tensor, never_n: Tensor,
    ) -> Tensor:  # fmt: skip
        none = user_bd.new_zeros(())
        score_bc = torch.addmm(none, user_bd, item_cd.T, beta=0, alpha=1 / temperature)
        if log_chance_c is not None:
            score_bc.sub_(log_chance_c)
        score_bc.view(-1).index_fill_(0, never_n, torch.finfo(score_bc.dtype).min)
        share_bc = torch.softmax(score_bc, dim=1, out=score_bc)
        share_t, n_targets = share_bc.view(-1)[wanted_t], max(len(wanted_t), 1)
        lost_t = -share_t.clamp(min=torch.finfo(share_t.dtype).tiny).log()
        if log_chance_c is not None:
            lost_t -= log_chance_c[wanted_t % score_bc.shape[1]]
        # The gradient of a row is its softmax minus 1/n at each of its n targets, n times.
        start_b = torch.arange(len(share_bc) + 1, device=wanted_t.device) * share_bc.shape[1]
        n_b = torch.searchsorted(wanted_t, start_b).diff()
        part_t = (
            (1 / n_b.float()).to(share_t.dtype).repeat_interleave(n_b, output_size=len(wanted_t))
        )
        share_bc.view(-1).put_(wanted_t, share_t - part_t)
        weight_b1 = n_b.float()[:, None] / (n_targets * temperature)
        ctx.save_for_backward(share_bc, user_bd, item_cd, weight_b1)
        return lost_t.sum() / n_targets  # 0 for a batch without a target

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_bc, user_bd, item_cd, weight_b1 = ctx.saved_tensors
        weight_b1 = weight_b1 * grads[0]
        of_user_bd = grad_bc @ item_cd.to(grad_bc.dtype) * weight_b1
        of_item_cd = grad_bc.T @ (user_bd * weight_b1).to(grad_bc.dtype)
        return of_user_bd, of_item_cd, None, None, None, None
