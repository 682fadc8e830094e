"""Lists for every user, streamed to a Parquet file."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source

from foretaste.bundle import atomic_write
from foretaste.data.dataset import Dataset
from foretaste.errors import DataError
from foretaste.recommending.answering import Answer
from foretaste.recommending.ranking import CHUNK_USERS
from foretaste.recommending.request import K, Request
from foretaste.training.engine import Engine


def write_lists(
    answer: Callable[[Sequence[Request]], list[Answer]], dataset: Dataset, asked: Request,
    path: Path, progress: bool | None,
) -> Path:  # fmt: skip
    """Write the lists of every user to a file: columns user, item, score, rank.

    Args:
        answer: Answers requests; see `Recommender.answer`.
        dataset: Whose users and items they are.
        asked: The request that is made for each chunk of users.
        path: The file; it takes its name once it is complete.
        progress: Whether to show a bar on standard error; None for on a terminal.

    Raises:
        DataError: Where the file cannot be written.
    """
    users, items = dataset.users, dataset.items
    show = sys.stderr.isatty() if progress is None else progress

    def lists(*_: Any) -> Iterator[pl.DataFrame]:
        with Engine(progress=sys.stderr if show else None).meter("users", len(users)) as meter:
            for start in range(0, len(users), CHUNK_USERS):
                some = users.values[start : start + CHUNK_USERS]
                (found,) = answer([replace(asked, users=some.to_list())])
                user_n, place_n = (found.lists.item_bk >= 0).numpy().nonzero()
                yield pl.DataFrame(
                    {
                        "user": some.gather(user_n),
                        "item": items[found.lists.item_bk.numpy()[user_n, place_n]],
                        "score": found.lists.score_bk.numpy()[user_n, place_n],
                        "rank": (place_n + 1).astype(np.int32),
                    }
                )
                meter.advance(len(some))

    schema = {"user": users.values.dtype, "item": items.values.dtype}
    schema |= {"score": pl.Float32(), "rank": pl.Int32()}
    try:
        atomic_write(path, register_io_source(lists, schema=schema).sink_parquet)
    except OSError as error:
        raise DataError(
            f"cannot be written ({error.strerror}).", where=path, fix="Name a file in a folder."
        ) from None
    return path


def recommend_all(recommender: Any, out: str | Path, k: int = K, **options: Any) -> Path:
    """Call `Recommender.export`, which replaces this function in the next release.

    Args:
        recommender: Whose lists they are.
        out: The file.
        k: Length of a list.
        options: The other arguments of `Recommender.export`.
    """
    warnings.warn(
        "foretaste.recommend_all is now Recommender.export; the old name goes with the next "
        "release.", DeprecationWarning, stacklevel=2,
    )  # fmt: skip
    return recommender.export(out, k, **options)
