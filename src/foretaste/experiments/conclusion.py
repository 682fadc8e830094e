"""What one may conclude from a comparison, in sentences."""

from __future__ import annotations

import polars as pl

from foretaste.evaluation.cold_start import ColdStart
from foretaste.evaluation.statistics import intervals
from foretaste.experiments.comparison import Comparison
from foretaste.experiments.trials import METRIC

FEW = "3"  # interactions, after which people should be served well


def metric_name(name: str) -> str:
    """Return a metric's name as people write it: NDCG@10, RMSE, recall@10.

    Args:
        name: As in tables: ndcg@10, rmse, recall@10.
    """
    kind, at, k = name.partition("@")
    kind = kind.upper() if kind in {"ndcg", "rmse", "mae", "mrr"} else kind.replace("_", " ")
    return kind + at + k


def conclusion(comparison: Comparison) -> list[str]:
    """Return what follows from a comparison: the verdict first, then what limits it.

    Args:
        comparison: Models on one split, and their cold starts where they were measured.

    Returns:
        One sentence each.
    """
    best = next(iter(comparison.values))
    return [
        *_first(comparison, best),
        _against_baselines(comparison, best),
        *_of_ratings(comparison),
        *_of_new_users(comparison),
        *_of_new_items(comparison),
        *_limits(comparison),
    ]


def rivals(comparison: Comparison, best: str, metric: str) -> list[str]:
    """Return the models that cannot be told apart from the best one.

    Args:
        comparison: Models on one split.
        best: Label of the best one.
        metric: What it is best on.

    Returns:
        Their labels.
    """
    of_best = comparison.pairs.filter(
        (pl.col("metric") == metric) & ((pl.col("a") == best) | (pl.col("b") == best))
    )
    open_ = of_best.filter(pl.col("better").is_null())
    return [b if a == best else a for a, b in open_.select("a", "b").iter_rows()]


def _first(comparison: Comparison, best: str) -> list[str]:
    metric = comparison.metric
    m = comparison.values[best][metric]
    users = int(comparison.tallies[best][metric].weight_b.sum())
    said = [
        f"{best} makes the best lists: {metric_name(metric)} {m.value:.3f} (95 % interval "
        f"{m.low:.3f} to {m.high:.3f}, {users:,} users)."
    ]
    equals = rivals(comparison, best, metric)
    if equals:
        seconds = dict(comparison.costs().select("model", "fit_seconds").iter_rows())
        quick = min([best, *equals], key=seconds.__getitem__)
        said.append(
            f"Chance alone could explain its lead over {_listed(equals)}; of these, {quick} "
            f"is the quickest to fit ({seconds[quick]:.1f} s)."
        )
    elif len(comparison.values) > 1:
        second = list(comparison.values)[1]
        said.append(f"The lead is no accident: {_lead(comparison, best, second, metric)}.")
    return said


def _lead(comparison: Comparison, best: str, other: str, metric: str) -> str:
    row = comparison.pairs.filter(
        (pl.col("metric") == metric) & (pl.col("a") == best) & (pl.col("b") == other)
    ).row(0, named=True)
    return f"{row['difference']:+.3f} over {other} ({row['low']:+.3f} to {row['high']:+.3f})"


def _against_baselines(comparison: Comparison, best: str) -> str:
    metric = comparison.metric
    baseline = next(label for label in comparison.values if label in comparison.baselines)
    if best == baseline:
        return (
            f"No model beats the baseline {baseline}: ship that, or look for more data before a "
            "better model."
        )
    said = f"Against the best baseline the gain is {_lead(comparison, best, baseline, metric)}"
    if baseline in rivals(comparison, best, metric):
        return f"{said}, which chance could explain: there is no case for more than {baseline}."
    return f"{said}."


def _of_ratings(comparison: Comparison) -> list[str]:
    error = {m: v["rmse"] for m, v in comparison.values.items() if "rmse" in v}
    if len(error) < 2:
        return []
    best = min(error, key=lambda label: error[label].value)
    m = error[best]
    said = f"{best} predicts ratings best: RMSE {m.value:.3f} ({m.low:.3f} to {m.high:.3f})"
    equals = rivals(comparison, best, "rmse")
    return [f"{said}, with no sure lead over {_listed(equals)}." if equals else f"{said}."]


def _of_new_users(comparison: Comparison) -> list[str]:
    cold = comparison.cold.get("users")
    if cold is None:
        return []
    metric = f"{METRIC['users']}@{comparison.k}"
    best = ranked(cold, metric, FEW)[0]
    m = intervals({metric: cold.tallies[best, FEW][metric]})[metric]
    if not m.known:
        return ["New users: none of those held out had anything to find: nothing is known."]
    scored = f"{metric_name(metric)} {m.value:.3f} ({m.low:.3f} to {m.high:.3f})"
    if best in comparison.baselines:
        return [f"Of people known by {FEW} interactions no model knows more than {best}: {scored}."]
    said = f"New users: after {FEW} interactions {best} makes the best lists, {scored}"
    share = cold.ratio(metric, (best, FEW), (best, "all"))
    return [f"{said}, {share.value:.0%} of what it makes of all they did." if share.known
            else f"{said}."]  # fmt: skip


def _of_new_items(comparison: Comparison) -> list[str]:
    cold = comparison.cold.get("items")
    if cold is None:
        return []
    metric = f"{METRIC['items']}@{comparison.k}"
    order = ranked(cold, metric, "cold")
    m = intervals({metric: cold.tallies[order[0], "cold"][metric]})[metric]
    if not m.known:
        return ["New items: nobody was to find any of those held out: nothing is known."]
    baseline = next(label for label in order if label in comparison.baselines)
    if order[0] == baseline:
        return [f"New items: no model finds them better than {baseline}."]
    said = (
        f"New items: {order[0]} tells them apart best, {metric_name(metric)} among them "
        f"{m.value:.3f} ({m.low:.3f} to {m.high:.3f})"
    )
    ratio = cold.ratio(metric, (order[0], "cold"), (baseline, "cold"))
    if ratio.known:
        said += f", {ratio.value:.1f} times {baseline} ({ratio.low:.1f} to {ratio.high:.1f})"
    return [f"{said}."]


def ranked(cold: ColdStart, metric: str, case: str) -> list[str]:
    """Return the models of a cold start, the best first.

    Args:
        cold: The cold start.
        metric: What they are ordered by.
        case: In which case.

    Returns:
        Their labels.
    """
    value = {m: of[metric].value for (m, c), of in cold.tallies.items() if c == case}
    return sorted(value, key=lambda label: -value[label])


def _limits(comparison: Comparison) -> list[str]:
    ceiling = comparison.ceilings[comparison.metric]
    said = []
    if ceiling < 0.995:
        said.append(
            f"No model could do better than {ceiling:.3f}: some of what users liked was not in "
            "the training data."
        )
    if comparison.parts.protocol.startswith("random"):
        said.append(
            "The split mixes past and future; compare with a time split before you rely on it."
        )
    said.append("Every model ran with the settings given, none was tuned here.")
    return said


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
