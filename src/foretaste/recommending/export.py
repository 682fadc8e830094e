"""Lists for every user of a Recommender, streamed to a Parquet file."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source

from foretaste.bundle import atomic_write
from foretaste.data.histories import histories_of
from foretaste.errors import DataError
from foretaste.recommending.ranking import CHUNK_USERS
from foretaste.recommending.recommender import Recommender
from foretaste.recommending.request import Id, allowed_items
from foretaste.training.engine import Engine


def recommend_all(
    recommender: Recommender, out: str | Path, k: int = 10, *, where: str | None = None,
    exclude: Sequence[Id] = (), exclude_seen: bool = True, diversity: float = 0.0,
    progress: bool | None = None,
) -> Path:  # fmt: skip
    """Write the k best items of every user: columns user, item, score, rank.

    Users pass through in chunks, so memory does not grow with their number.  The file takes its
    name once it is complete: killed half-way, an older one is still there, and two runs at once do
    not mix.  progress: show a bar on standard error (by default on a terminal).
    """
    out = Path(out)
    users, items = recommender.dataset.users, recommender.dataset.items
    allowed_i = allowed_items(recommender.dataset, where, exclude, None)
    show = sys.stderr.isatty() if progress is None else progress

    def lists(*_: Any) -> Iterator[pl.DataFrame]:
        with Engine(progress=sys.stderr if show else None).meter("users", len(users)) as meter:
            for start in range(0, len(users), CHUNK_USERS):
                rows = np.arange(start, min(start + CHUNK_USERS, len(users)))
                batch = histories_of(recommender.dataset, rows, recommender.dataset)
                found = recommender.lists(
                    batch, k, exclude_seen=exclude_seen, allowed_i=allowed_i, diversity=diversity
                )
                user_n, place_n = (found.item_bk >= 0).numpy().nonzero()
                yield pl.DataFrame(
                    {
                        "user": users[rows[user_n]],
                        "item": items[found.item_bk.numpy()[user_n, place_n]],
                        "score": found.score_bk.numpy()[user_n, place_n],
                        "rank": (place_n + 1).astype(np.int32),
                    }
                )
                meter.advance(len(rows))

    schema = {"user": users.values.dtype, "item": items.values.dtype}
    schema |= {"score": pl.Float32(), "rank": pl.Int32()}
    try:
        atomic_write(out, register_io_source(lists, schema=schema).sink_parquet)
    except OSError as error:
        raise DataError(
            f"cannot be written ({error.strerror}).", where=out, fix="Name a file in a folder."
        ) from None
    return out
