"""Pictures of what was measured, as files: PNG to look at, SVG to keep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK, QUIET, ACCENT = "#22303c", "#9aa5ae", "#c2552d"


def learning_curve(
    curve: Sequence[Mapping[str, Any]], stem: str | Path, *, title: str,
    baselines: Mapping[str, float] | None = None,
) -> list[Path]:  # fmt: skip
    """Draw error against epoch, the best epoch marked, baselines as lines; returns the two files.

    curve: what the training loop recorded.  stem: path without ending; .png and .svg are written.
    baselines: errors of baselines on the same validation data, by name.
    """
    epoch_e = [point["epoch"] for point in curve]
    train_e = [math.sqrt(point["train_loss"]) for point in curve]
    valid_e = [point["validation"] for point in curve]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(
        epoch_e,
        train_e,
        color=QUIET,
        marker="o",
        markersize=3,
        label="train (dropout and l2 included)",
    )
    axes.plot(epoch_e, valid_e, color=INK, marker="o", markersize=4, label="validation")
    best = min(range(len(valid_e)), key=valid_e.__getitem__)
    axes.plot(epoch_e[best], valid_e[best], "o", color=ACCENT, markersize=9, zorder=3)
    side = ("left", "center", "right")[3 * best // len(valid_e)]  # keeps the words inside
    axes.annotate(
        f"kept: epoch {epoch_e[best]}, {valid_e[best]:.4f}", (epoch_e[best], valid_e[best]),
        xytext=(0, 12), textcoords="offset points", ha=side, color=ACCENT,
    )  # fmt: skip
    for name, error in (baselines or {}).items():
        axes.axhline(error, color=QUIET, linestyle=":", linewidth=1)
        axes.annotate(
            f"{name} {error:.4f}", (0.01, error), xycoords=("axes fraction", "data"),
            xytext=(0, 3), textcoords="offset points", color=QUIET, fontsize=9,
        )  # fmt: skip
    axes.set(xlabel="epoch", ylabel="RMSE")
    axes.set_title(title, parse_math=False)
    axes.margins(y=0.15)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper right")
    return _saved(figure, stem)


def cold_start_curve(
    frame: pl.DataFrame, metric: str, stem: str | Path, *, title: str
) -> list[Path]:
    """Draw a metric of each model in each case, with its interval; returns the two files.

    frame: model, case, metric, value, low, high, as `ColdStart.frame` gives it.
    """
    frame = frame.filter(metric=metric)
    cases = frame["case"].unique(maintain_order=True).to_list()
    models = frame["model"].unique(maintain_order=True).to_list()
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for place, (model, marker) in enumerate(zip(models, cycle("osD^vP*X"), strict=False)):
        lines = frame.filter(model=model)
        value, low, high = (lines[name].to_numpy() for name in ("value", "low", "high"))
        x = np.arange(len(cases)) + 0.5 * (place / max(len(models) - 1, 1) - 0.5)
        shade = colormaps["viridis"](0.9 * place / max(len(models) - 1, 1))
        axes.errorbar(
            x, value, yerr=[value - low, high - value], fmt=marker, color=shade, label=model,
            linestyle=":" if cases[0].isdigit() else "none", capsize=2,
        )  # fmt: skip
    axes.set_xticks(range(len(cases)), cases)
    shown = "interactions shown" if cases[0].isdigit() else "what is found"
    axes.set(xlabel=shown, ylabel=metric, ylim=(0, None))
    axes.set_title(title, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return _saved(figure, stem)


def _saved(figure: Figure, stem: str | Path) -> list[Path]:
    """PNG and SVG of a figure; the same figure gives the same bytes."""
    png, svg = Path(f"{stem}.png"), Path(f"{stem}.svg")
    png.parent.mkdir(parents=True, exist_ok=True)
    # letters as text, to be searched and read aloud; element ids that do not change
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "foretaste"}):
        figure.savefig(png, dpi=150)
        figure.savefig(svg, metadata={"Date": None})
    return [png, svg]
