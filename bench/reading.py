"""Rows a second from a ratings file to a Dataset beside polars, and the peak memory of a row.

    python bench/reading.py [ratings.dat]

Without a file: ML-1M from FORETASTE_DATA if it is there, else made-up rows of the same shape.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROUNDS = 7
THREADS = 2
TYPES = ("Int64", "Int64", "Float32", "Int64")

PEAK = """
import sys
import polars as pl
import foretaste
from foretaste.data.reading import read

def status(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024

pl.DataFrame({"a": [1]}).lazy().select(pl.col("a") + 1).collect()    # threads are up
open("/proc/self/clear_refs", "w").write("5")                        # the peak starts from here
before = status("VmRSS")
ratings = read(sys.argv[1])
print(status("VmHWM") - before, ratings.report.rows)
"""


def make_up(path: Path, rows: int, separator: str) -> None:
    """Rows of the shape of ML-1M: users in order, ratings 1 to 5, times within four years."""
    import numpy as np
    import polars as pl

    rng = np.random.default_rng(1)
    frame = pl.DataFrame(
        {
            "user": np.sort(rng.integers(1, rows // 166 + 2, rows)),
            "item": (rng.random(rows) ** 2 * 3952).astype(np.int64) + 1,
            "rating": rng.integers(1, 6, rows),
            "time": 956_703_932 + rng.integers(0, 90_000_000, rows),
        }
    )
    text = pl.concat_str([pl.col(c) for c in frame.columns], separator=separator)
    frame.select(text).write_csv(path, include_header=False, quote_style="never")


def fastest(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def speed(dat: Path, folder: Path) -> None:
    """Ours from the `::` file, polars typed from a plain CSV of the same rows."""
    import polars as pl

    from foretaste.data.reading import read

    alone = folder / "alone" / "ratings.dat"  # without movies.dat and users.dat beside it
    alone.parent.mkdir()
    alone.write_bytes(dat.read_bytes())
    csv = folder / "plain.csv"
    csv.write_bytes(dat.read_bytes().replace(b"::", b","))
    schema = {f"c{i}": getattr(pl, kind) for i, kind in enumerate(TYPES)}
    rows = len(read(alone))
    theirs = fastest(lambda: pl.read_csv(csv, has_header=False, schema=schema))
    for label, file in (("ratings.dat", alone), ("plain.csv", csv)):
        ours = fastest(lambda file=file: read(file))
        print(
            f"reading {label}: {rows / ours:,.0f} rows/s to a Dataset ({ours:.3f} s), polars alone "
            f"{rows / theirs:,.0f} rows/s ({theirs:.3f} s): {ours / theirs:.2f} times polars"
        )


def memory(file: Path) -> None:
    """Peak memory of a fresh process above what it takes to import foretaste."""
    out = subprocess.run(
        [sys.executable, "-c", PEAK, str(file)], capture_output=True, text=True, check=True
    ).stdout.split()
    peak, rows = int(out[0]), int(out[1])
    print(f"peak memory: {peak / rows:.0f} bytes a row over {rows:,} rows ({peak / 2**20:.0f} MiB)")


def main() -> None:
    os.environ.setdefault("POLARS_MAX_THREADS", str(THREADS))
    published = Path(os.environ.get("FORETASTE_DATA", "")) / "ml-1m" / "ratings.dat"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dat = Path(sys.argv[1]) if len(sys.argv) > 1 else published
        if not dat.is_file():
            dat = folder / "made-up.dat"
            make_up(dat, 1_000_000, "::")
        speed(dat, folder)
        memory(folder / "alone" / "ratings.dat")
        large = folder / "large.csv"
        make_up(large, 10_000_000, ",")
        memory(large)


if __name__ == "__main__":
    main()
