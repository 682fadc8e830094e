"""What a trial found, and how it is kept in a folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from foretaste import bundle
from foretaste.data.splitting import Split
from foretaste.errors import BundleError
from foretaste.evaluation.statistics import Tally, number

EXAMPLES = 3
QUICK = 5.0  # seconds to fit


@dataclass(frozen=True, eq=False)
class Result:
    """What a trial found. It does not know which trial that was, nor what follows from it.

    Attributes:
        error: Why there is nothing else; "" where all went well.
        tallies: Metric to the sums behind it; of a cold start, "METRIC CASE" to these.
        segments: Group of users or items to the sums behind recall at k within it.
        variety: Coverage, novelty, diversity and head_share of the lists; NaN where nobody has one.
        ceilings: Ranking metric to the best value that the data allow.
        lists: user and item ids of the `example_users`, best first.
        curve: What the training loop recorded of each epoch.
        random: Whether another seed gives another model.
        fit_seconds: Wall clock of the fit.
        score_seconds: Wall clock of scoring, listing and measuring.
        seconds: Wall clock of the whole trial.
        peak_memory_bytes: Of its process.
        notes: What a reader of the numbers should know.
        protocol: Of a cold start: what was held out.
        users: Of a cold start: ids in the order of the sums.
    """

    error: str = ""
    tallies: Mapping[str, Tally] | None = None
    segments: Mapping[str, Tally] | None = None
    variety: Mapping[str, float] | None = None
    ceilings: Mapping[str, float] | None = None
    lists: pl.DataFrame | None = None
    curve: tuple[dict[str, Any], ...] = ()
    random: bool = False
    fit_seconds: float = 0.0
    score_seconds: float = 0.0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    notes: tuple[str, ...] = ()
    protocol: str = ""
    users: pl.Series | None = None

    @property
    def worth_repeating(self) -> bool:
        """Whether other seeds tell something: gradients leave a learning curve; or it is quick."""
        return self.random and bool(self.curve or self.fit_seconds < QUICK)

    def save(self, folder: Path, fingerprint: str) -> None:
        """Keep the result in a folder, in one step.

        Args:
            folder: Where; an older result there is replaced.
            fingerprint: Of the trial that this is the result of.
        """
        values: dict[str, Any] = {"fingerprint": fingerprint}
        tables: dict[str, pl.DataFrame] = {}
        for name, value in vars(self).items():
            if isinstance(value, pl.DataFrame):
                tables[name] = value
            elif isinstance(value, pl.Series):
                tables[name] = value.alias("user").to_frame()
            elif name in ("tallies", "segments") and value is not None:
                values[f"{name}_roots"] = {metric: t.root for metric, t in value.items()}
                tables[name] = _table(value)
            elif isinstance(value, Mapping):  # JSON has no NaN
                values[name] = {key: number(v) for key, v in value.items()}
            else:
                values[name] = value
        bundle.write(folder, values, {}, tables)

    @classmethod
    def read(cls, folder: Path, fingerprint: str) -> Result | None:
        """Return what `save` kept.

        Args:
            folder: Where it was kept.
            fingerprint: Of the trial whose result is wanted.

        Returns:
            The result; None where there is none, a damaged one, or one of another trial.
        """
        try:
            kept = bundle.read(folder)
        except BundleError:
            return None
        values, tables = kept.values, kept.tables
        if values.pop("fingerprint", None) != fingerprint:
            return None
        for name in ("tallies", "segments"):
            if roots := values.pop(f"{name}_roots", None):
                values[name] = _tallies(roots, tables[name])
        for name in ("variety", "ceilings"):
            if values[name] is not None:
                values[name] = {k: math.nan if v is None else v for k, v in values[name].items()}
        values |= {name: tuple(values[name]) for name in ("curve", "notes")}
        users = tables["users"]["user"] if "users" in tables else None
        return cls(**values | {"lists": tables.get("lists"), "users": users})


def _table(tallies: Mapping[str, Tally]) -> pl.DataFrame:
    columns = {f"t{n}": t.total_b for n, t in enumerate(tallies.values())}
    return pl.DataFrame(columns | {f"w{n}": t.weight_b for n, t in enumerate(tallies.values())})


def _tallies(roots: Mapping[str, bool], table: pl.DataFrame) -> dict[str, Tally]:
    return {
        name: Tally(table[f"t{n}"].to_numpy(), table[f"w{n}"].to_numpy(), root)
        for n, (name, root) in enumerate(roots.items())
    }


def example_users(split: Split) -> np.ndarray:
    """Return test users with a middling history, whose lists a result keeps.

    Args:
        split: What they are tested on.

    Returns:
        Rows in the test part, EXAMPLES at most.
    """
    rows = split.history.users.find(split.test.users.values)
    length_b = np.where(rows < 0, 0, np.diff(split.history.pointers)[rows])
    ranked = np.argsort(length_b, kind="stable")
    places = np.linspace(0, len(ranked) - 1, EXAMPLES + 2)[1:-1].round().astype(int)
    return np.unique(ranked[places])
