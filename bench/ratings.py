"""Time to the RMSE that myFM ends at, on MovieLens 1M (the article's split), myFM beside ours."""

from __future__ import annotations

import sys
import time
import types

import numpy as np
import scipy.sparse as sp

import foretaste as ft
from foretaste.errors import ForetasteError

RANK, SWEEPS = 16, 200  # myFM's; TARGETS.md measured it so
OURS = {"n_factors": 24, "drift_seconds": [], "burn_in": 30, "samples": 16, "keep_every": 2}


def myfm_module() -> types.ModuleType:
    """The package; myfm 0.4 asks pkg_resources for its version, which setuptools 81 dropped."""
    version = types.SimpleNamespace(version="")
    fake = types.ModuleType("pkg_resources")
    vars(fake).update(DistributionNotFound=ImportError, get_distribution=lambda name: version)
    sys.modules.setdefault("pkg_resources", fake)
    import myfm

    return myfm


def flipped(row_n: np.ndarray, other_n: np.ndarray, rows: int, others: int) -> sp.csr_matrix:
    """Who a row is, and the others it has rated, of unit length: SVD++ features of every row."""
    marks = sp.csr_matrix((np.ones(len(row_n)), (row_n, other_n)), (rows, others))
    lengths = np.sqrt(np.maximum(marks.getnnz(1), 1))
    return sp.hstack([sp.eye(rows), sp.diags(1 / lengths) @ marks]).tocsr()


def myfm_rmse(parts: ft.Split) -> float:
    """RMSE of myFM with flipped features; what the test has and train has not is unknown to it."""
    myfm, x, blocks, asked = myfm_module(), parts.train.interactions, [], []
    sides = [(x.user_r, parts.train.users), (x.item_r, parts.train.items)]
    rows = [(parts.test.interactions.user_r, parts.test.users)]
    rows += [(parts.test.interactions.item_r, parts.test.items)]
    for (row_n, ids), (other_n, others), (test_n, test_ids) in zip(
        sides, sides[::-1], rows, strict=True
    ):
        features = flipped(row_n, other_n, len(ids), len(others))
        features = sp.vstack([features, sp.csr_matrix((1, features.shape[1]))]).tocsr()
        known_n = ids.find(test_ids.values)[test_n]
        test_rows = np.where(known_n < 0, len(ids), known_n)
        blocks.append(myfm.RelationBlock(row_n.tolist(), features))
        asked.append(myfm.RelationBlock(test_rows.tolist(), features))
    shapes = [len(ids) for pair in (sides, sides[::-1]) for _, ids in pair]
    model = myfm.MyFMRegressor(rank=RANK)
    model.fit(None, x.value_r.astype(float), X_rel=blocks, n_iter=SWEEPS, group_shapes=shapes)
    rated_n = np.clip(model.predict(None, asked, n_workers=2), *parts.train.scale)
    return float(np.sqrt(np.mean((rated_n - parts.test.interactions.value_r) ** 2)))


def our_rmse(parts: ft.Split) -> float:
    """RMSE of a short chain."""
    fitted = ft.fit(ft.BayesianMF(**OURS), parts.train, progress=False)
    return ft.evaluate(fitted, parts, ranking=False).metrics["rmse"].value


def main() -> None:
    try:
        parts = ft.split(ft.load_dataset("ml-1m"), "article")
    except ForetasteError as error:
        print(f"BayesianMF beside myFM: left out, {error.what}")
        return
    sweeps = OURS["burn_in"] + OURS["samples"] * OURS["keep_every"]
    print("ratings, MovieLens 1M, the article's split, fit and predict:")
    rmse, wall, cpu = [], [], []
    for name, measure in (
        (f"BayesianMF, {OURS['factors']} factors, {sweeps} sweeps", our_rmse),
        (f"myFM, flipped, {RANK} factors, {SWEEPS} sweeps", myfm_rmse),
    ):
        started, busy = time.perf_counter(), time.process_time()
        rmse.append(measure(parts))
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - busy)
        print(f"  {name}: RMSE {rmse[-1]:.4f}, {wall[-1]:.1f} s, {cpu[-1]:.1f} s of processors")
    reached = "reached" if rmse[0] <= rmse[1] else "NOT reached"
    print(
        f"  its RMSE {reached} {wall[1] / wall[0]:.1f} times sooner, {cpu[1] / cpu[0]:.1f} by CPU"
    )


if __name__ == "__main__":
    main()
