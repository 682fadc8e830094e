"""Losses and the errors they are judged by."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


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
    user_bd: Tensor, item_cd: Tensor, temperature: float, log_chance_c: Tensor | None,
    wanted_t: Tensor, never_n: Tensor,
) -> Tensor:  # fmt: skip
    """Mean over targets of -log softmax of dot products over the catalogue, from a sample of it.

    temperature: divides the products.  log_chance_c: log of the chance that an item is in the
    sample.  Subtracted, it makes the sum of exponentials an unbiased estimate of the one over all
    items (log-Q correction, Bengio and Senécal 2008; Yi et al. 2019); None where all are there.
    wanted_t, never_n: places in the flattened scores (B, C), each once, of the targets, row by row,
    and of what is no candidate of its row.  Returns a scalar.
    """
    lost = _SampledSoftmax.apply(user_bd, item_cd, temperature, log_chance_c, wanted_t, never_n)
    assert isinstance(lost, Tensor)
    return lost


class _SampledSoftmax(torch.autograd.Function):
    """The scores become their own gradient in place; what weighs its rows weighs the users."""

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
        # a row's gradient is its targets' number times: its softmax less the targets' shares of 1
        start_b = torch.arange(len(share_bc) + 1, device=wanted_t.device) * share_bc.shape[1]
        n_b = torch.searchsorted(wanted_t, start_b).diff()
        part_t = (
            (1 / n_b.float()).to(share_t.dtype).repeat_interleave(n_b, output_size=len(wanted_t))
        )
        share_bc.view(-1).put_(wanted_t, share_t - part_t)
        weight_b1 = n_b.float()[:, None] / (n_targets * temperature)
        ctx.save_for_backward(share_bc, user_bd, item_cd, weight_b1)
        return lost_t.sum() / n_targets  # a batch without a target teaches nothing

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_bc, user_bd, item_cd, weight_b1 = ctx.saved_tensors
        weight_b1 = weight_b1 * grads[0]
        of_user_bd = grad_bc @ item_cd.to(grad_bc.dtype) * weight_b1
        of_item_cd = grad_bc.T @ (user_bd * weight_b1).to(grad_bc.dtype)
        return of_user_bd, of_item_cd, None, None, None, None
