"""Losses and the errors they are judged by."""

from __future__ import annotations

import torch
from torch import Tensor


def squared_error(predicted_b: Tensor, rating_b: Tensor) -> Tensor:
    """Mean squared error of a batch, a scalar."""
    return (predicted_b - rating_b).square().mean()


def root_mean_square(error_p: Tensor) -> float:
    """Square root of the mean squared error over pairs, accumulated in double."""
    return float(torch.sqrt(error_p.double().square().mean()))
