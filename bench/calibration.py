"""Pictures of a posterior on MovieLens 100K: one user's intervals, and whether intervals hold.

python -m bench.calibration docs/bayesian-mf-calibration.svg
"""

from __future__ import annotations

import sys
from statistics import NormalDist

import numpy as np
import torch
from matplotlib.figure import Figure

import foretaste as ft
from foretaste.data.histories import histories_of
from foretaste.experiments.recipes import load_recipe

LEVELS = np.arange(0.1, 1.0, 0.1)
SHOWN = 25  # ratings of one user


def rated(recipe: str) -> tuple[ft.Split, np.ndarray, np.ndarray]:
    """The test ratings of a recipe's split: predicted means and standard deviations."""
    chosen = load_recipe(recipe)
    parts = ft.split(ft.load_dataset(chosen.data), **chosen.split.model_dump())
    fitted, x = ft.fit(chosen.configured(), parts.train, progress=False), parts.test.interactions
    rows = parts.train.users.find(parts.test.users.values)
    found = fitted.model.predict(
        histories_of(parts.train, rows, parts.train),
        torch.from_numpy(x.user_r).long(),
        torch.from_numpy(parts.train.items.find(parts.test.items.values)[x.item_r]),
        time_p=torch.from_numpy(x.time_r),
    )
    return parts, found.mean_p.numpy(), found.std_p.numpy()


def main() -> None:
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    one, holds, spread = figure.subplots(1, 3)
    holds.plot([0, 1], [0, 1], "k:", linewidth=1)
    for recipe in ("ml-100k-u1-bayesian-mf", "ml-100k-u1-bayesian-mf-no-drift"):
        parts, mean_p, std_p = rated(recipe)
        error_p = np.abs(mean_p - parts.test.interactions.value_r)
        z = np.array([NormalDist().inv_cdf(0.5 + level / 2) for level in LEVELS])
        covered = (error_p[:, None] <= z * std_p[:, None]).mean(0)
        name = "without drift" if "no-drift" in recipe else "with drift"
        holds.plot(LEVELS, covered, "o-", label=name)
        print(name, dict(zip(LEVELS.round(1).tolist(), covered.round(3).tolist(), strict=True)))
        bins = np.array_split(np.argsort(std_p), 12)
        rms = [np.sqrt((error_p[b] ** 2).mean()) for b in bins]
        spread.plot([np.sqrt((std_p[b] ** 2).mean()) for b in bins], rms, "o-", label=name)
    x = parts.test.interactions
    user = int(np.bincount(x.user_r).argmax())
    p = np.flatnonzero(x.user_r == user)[:SHOWN]
    p = p[np.argsort(mean_p[p])]
    one.errorbar(np.arange(len(p)), mean_p[p], 1.645 * std_p[p], fmt="o", ms=3, label="90 %")
    one.plot(np.arange(len(p)), x.value_r[p], "x", color="black", label="given")
    one.set(title="One user's test ratings", xlabel="items by expected rating", ylabel="rating")
    holds.set(title="Do intervals hold?", xlabel="nominal", ylabel="observed share inside")
    low, high = spread.get_xlim()
    spread.plot([low, high], [low, high], "k:", linewidth=1)
    spread.set(title="Do errors follow?", xlabel="predicted deviation", ylabel="RMSE")
    for axes in (one, holds, spread):
        axes.legend(frameon=False)
    figure.savefig(sys.argv[1], metadata={"Date": None})


if __name__ == "__main__":
    main()
