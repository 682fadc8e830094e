"""Losses and the errors they are judged by."""

from __future__ import annotations

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
    score_bc: Tensor, log_chance_c: Tensor, user_t: Tensor, candidate_t: Tensor
) -> Tensor:
    """Mean over targets of -log softmax over the catalogue, from a sample of it, a scalar.

    log_chance_c: log of the chance that a candidate is in the sample.  Subtracted, it makes the sum
    of exponentials an unbiased estimate of the one over all items (log-Q correction, Bengio and
    Senécal 2008; Yi et al. 2019).  Targets are pairs (row b, candidate c).
    """
    log_sum_b = torch.logsumexp(score_bc - log_chance_c, dim=1)
    lost_t = log_sum_b[user_t] - score_bc[user_t, candidate_t]
    return lost_t.sum() / max(len(lost_t), 1)  # a batch without a target teaches nothing
