from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import foretaste as ft
from foretaste.data.dataset import Dataset

torch.set_num_threads(1)  # small tensors: a second thread only waits


def synthetic(
    n_users: int = 60, n_items: int = 40, n_rows: int = 900, seed: int = 0, times: bool = True
) -> Dataset:
    """Ratings with user, item and taste effects, whole stars from 1 to 5; ids are strings."""
    rng = np.random.default_rng(seed)
    pair = rng.choice(n_users * n_items, size=n_rows, replace=False)
    user, item = pair // n_items, pair % n_items
    taste = rng.normal(size=(n_users, 2)) @ rng.normal(size=(2, n_items))
    value = 3.4 + rng.normal(size=n_users)[user] * 0.5 + rng.normal(size=n_items)[item] * 0.7
    value = np.clip(np.round(value + taste[user, item] * 0.6), 1, 5)
    frame = pl.DataFrame(
        {
            "user": [f"u{u}" for u in user],
            "item": [f"i{i}" for i in item],
            "rating": value.astype(np.float32),
            "time": rng.integers(1_500_000_000, 1_600_000_000, n_rows),
        }
    )
    return ft.from_frame(frame if times else frame.drop("time"))


@pytest.fixture(scope="session")
def ratings() -> Dataset:
    return synthetic()


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The development data, for tests of real files; skipped where it is not at hand."""
    folder = Path(os.environ.get("FORETASTE_DATA", ""))
    if not (folder / "ml-100k" / "u.data").is_file():
        pytest.skip("FORETASTE_DATA does not hold ml-100k")
    return folder
