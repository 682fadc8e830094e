"""Learning-rate schedules: the factor by which a base rate is multiplied at each step."""

from __future__ import annotations

import math


def constant(step: int, total: int) -> float:
    """The base rate throughout."""
    return 1.0


def cosine_restarts(step: int, period: int, floor: float = 0.1) -> float:
    """From 1 to `floor` along a cosine, begun anew every `period` steps (Loshchilov, Hutter 2017)."""
    return floor + (1 - floor) * (1 + math.cos(math.pi * (step % period) / period)) / 2


def one_cycle(step: int, total: int, warm_up: float = 0.25, floor: float = 0.01) -> float:
    """Linearly up for the first part, then down to `floor` along a cosine (Smith 2018)."""
    rise = max(1, round(warm_up * total))
    if step < rise:
        return max(floor, (step + 1) / rise)
    return floor + (1 - floor) * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise))) / 2
