"""Drawings of a comparison as SVG to be set into a page, in the page's own colours and letters."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from foretaste.evaluation.cold_start import ColdStart
from foretaste.experiments.comparison import Comparison
from foretaste.experiments.conclusion import metric_name
from foretaste.experiments.report.pictures import ACCENT, INK, QUIET

WIDTH = 7.2  # inches; the page scales it
STYLE: Any = {
    "svg.fonttype": "none", "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": QUIET,
    "xtick.color": QUIET, "ytick.color": QUIET, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False,
    "savefig.transparent": True,
}  # fmt: skip
IN_THE_PAGE = {INK: "var(--ink)", QUIET: "var(--line)", ACCENT: "var(--accent)"}


def accuracy_against_cost(comparison: Comparison) -> str:
    """Each model where its seconds to fit and its first metric put it, intervals as bars."""
    seconds = dict(comparison.costs().select("model", "fit_seconds").iter_rows())
    best, metric = next(iter(comparison.values)), comparison.metric
    with rc_context(STYLE):
        figure, axes = _canvas(4.2)
        placed: list[tuple[float, float]] = []
        for label, found in comparison.values.items():
            m, x = found[metric], max(seconds[label], 1e-3)
            color = _color(comparison, label, best)
            axes.errorbar(
                x, m.value, [[m.value - m.low], [m.high - m.value]], fmt="o", color=color,
                markersize=6, elinewidth=1.2,
            )  # fmt: skip
            placed.append((math.log10(x), m.value))
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.margins(x=0.16, y=0.1)
        axes.set_ylim(bottom=0)
        axes.set(xlabel="seconds to fit (logarithmic)", ylabel=metric_name(metric))
        for label, shift in zip(comparison.values, _apart(axes, placed), strict=True):
            at = (max(seconds[label], 1e-3), comparison.values[label][metric].value)
            axes.annotate(
                label, at, xytext=(8, shift), textcoords="offset points", va="center",
                color=ACCENT if label == best else INK, fontsize=9, parse_math=False,
            )  # fmt: skip
        return _svg(figure, "cost")


def _apart(axes: Axes, placed: Sequence[tuple[float, float]]) -> list[float]:
    """Upward shifts in points that keep labels near each other from overlapping."""
    low, high = axes.get_ylim()
    points = 72 * 3.4 / (high - low)  # height of the axes, about
    taken: list[tuple[float, float]] = []
    shifts = [0.0] * len(placed)
    for place in sorted(range(len(placed)), key=lambda n: placed[n][1]):
        x, y = placed[place]
        at = y * points
        while any(abs(at - other) < 12 and abs(x - where) < 1.2 for where, other in taken):
            at += 2
        taken.append((x, at))
        shifts[place] = at - y * points
    return shifts


def interval_plot(comparison: Comparison) -> str:
    """Models down, the first metric with its interval across, and the ceiling as a line."""
    best, metric = next(iter(comparison.values)), comparison.metric
    with rc_context(STYLE):
        figure, axes = _canvas(0.9 + 0.3 * len(comparison.values))
        for place, (label, found) in enumerate(comparison.values.items()):
            m, color = found[metric], _color(comparison, label, best)
            axes.plot([m.low, m.high], [place, place], color=color, linewidth=2)
            axes.plot(m.value, place, "o", color=color, markersize=6)
        ceiling = comparison.ceilings[metric]
        top = max(found[metric].high for found in comparison.values.values())
        if ceiling < 2 * top:
            axes.axvline(ceiling, color=QUIET, linestyle=":")
        axes.set_xlim(left=0)
        axes.set_yticks(range(len(comparison.values)), list(comparison.values), parse_math=False)
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=QUIET, linewidth=0.4)
        axes.set_axisbelow(True)
        axes.set_xlabel(metric_name(metric))
        return _svg(figure, "intervals")


def new_users(comparison: Comparison, cold: ColdStart, metric: str, order: Sequence[str]) -> str:
    """A metric against how much of a new user's history was shown, intervals as bars."""
    frame = cold.frame().filter(metric=metric)
    cases = frame["case"].unique(maintain_order=True).to_list()
    ends: dict[str, float] = {}
    with rc_context(STYLE):
        figure, axes = _canvas(4.2)
        for place, label in enumerate(order):
            value, low, high = frame.filter(model=label).select("value", "low", "high")
            x = np.arange(len(cases)) + 0.3 * (place / max(len(order) - 1, 1) - 0.5)
            axes.errorbar(
                x, value, [value - low, high - value], fmt="o-", elinewidth=1, linewidth=1.3,
                color=_color(comparison, label, order[0]), markersize=4,
                zorder=3 if label == order[0] else 2,
            )  # fmt: skip
            ends[label] = value[-1]
        axes.set_xticks(range(len(cases)), cases)
        axes.set_xlim(-0.3, 1.25 * len(cases) - 0.6)
        axes.set_ylim(bottom=0)
        axes.set(xlabel="interactions shown", ylabel=metric_name(metric))
        axes.spines["bottom"].set_bounds(-0.3, len(cases) - 0.7)
        shifts = _apart(axes, [(0.0, end) for end in ends.values()])
        for (label, end), shift in zip(ends.items(), shifts, strict=True):
            axes.annotate(
                label, (len(cases) - 0.8, end), xytext=(6, shift), textcoords="offset points",
                va="center", color=ACCENT if label == order[0] else INK, fontsize=9,
                parse_math=False,
            )  # fmt: skip
        return _svg(figure, "new-users")


def curves(curve_of: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Validation error against epoch, a small picture for each model."""
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.6 * math.ceil(len(curve_of) / 2)), layout="constrained")
        all_axes = figure.subplots(math.ceil(len(curve_of) / 2), 2, squeeze=False).flat
        for axes, (label, curve) in zip(all_axes, curve_of.items(), strict=False):
            epoch_e = [point["epoch"] for point in curve]
            valid_e = [point["validation"] for point in curve]
            axes.plot(epoch_e, valid_e, color=INK, marker="o", markersize=3)
            axes.set_title(label, fontsize=10, loc="left", parse_math=False)
            axes.set(xlabel="epoch", ylabel="validation")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in list(all_axes)[len(curve_of) :]:
            axes.set_visible(False)
        return _svg(figure, "curves")


def rank_lines(comparison: Comparison) -> str:
    """The rank of each model with each seed, as a line."""
    frame, best = comparison.seeds(), next(iter(comparison.values))
    n_seeds = frame["seed"].n_unique()
    with rc_context(STYLE):
        figure, axes = _canvas(0.9 + 0.26 * len(comparison.values))
        for label in comparison.values:
            rank_s = frame.filter(model=label)["rank"].to_list()
            color = _color(comparison, label, best)
            axes.plot(range(n_seeds), rank_s, color=color, marker="o", markersize=5, linewidth=1.5)
            axes.annotate(
                label, (n_seeds - 1, rank_s[-1]), xytext=(10, 0), textcoords="offset points",
                va="center", fontsize=9, annotation_clip=False, parse_math=False,
            )  # fmt: skip
        axes.set_xlim(-0.15, (n_seeds - 1) * 1.45)
        axes.set_xticks(range(n_seeds), [f"seed {s}" for s in range(n_seeds)])
        axes.set_yticks(range(1, len(comparison.values) + 1))
        axes.invert_yaxis()
        axes.set_ylabel("rank")
        axes.spines["bottom"].set_bounds(0, n_seeds - 1)
        return _svg(figure, "ranks")


def _color(comparison: Comparison, label: str, best: str) -> str:
    if label == best:
        return ACCENT
    return QUIET if label in comparison.baselines else INK


def _canvas(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Figure, name: str) -> str:
    """The figure as an <svg> element, without what only a file of its own needs."""
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": name}):  # ids differ between pictures, not between runs
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img">', text, count=1
    )
    text = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font: \1px var(--letters)", text)
    text = re.sub(r'\bid="(?![mp][0-9a-f]{8,}")[^"]*"', "", text)
    for color, variable in IN_THE_PAGE.items():
        text = text.replace(color, variable)
    return text
