"""Weights of kinds of events, learned on a shop whose kinds are known."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

import foretaste as ft
from foretaste.cli import main
from foretaste.errors import UsageError
from foretaste.evaluation.statistics import percentiles, resampled
from foretaste.experiments.event_weights import learn_event_weights, reweighed

# how often a kind is about an item of the user's own taste (the rest is any item), and how common
TRUE_SHOP = {"view": (0.25, 10), "cart": (0.8, 3), "purchase": (0.95, 3), "skip": (0.0, 6)}


def known_shop(
    seed: int = 0, kinds: dict[str, tuple[float, int]] = TRUE_SHOP, n_users: int = 500
) -> ft.Dataset:
    """Users of eight tastes: noisy views, better carts, clean purchases, and skips of the rest."""
    rng = np.random.default_rng(seed)
    n_tastes, each = 8, 15
    taste_u = rng.integers(0, n_tastes, n_users)
    parts = []
    for kind, (clean, rate) in kinds.items():
        user = np.repeat(np.arange(n_users), rng.poisson(rate, n_users))
        other = (taste_u[user] + rng.integers(1, n_tastes, len(user))) % n_tastes
        anyone = rng.integers(0, n_tastes, len(user))
        taste = np.where(rng.random(len(user)) < clean, taste_u[user], anyone)
        taste = other if kind == "skip" else taste
        item = taste * each + rng.integers(0, each, len(user))
        parts.append(pl.DataFrame({"user": user, "item": item}).with_columns(event=pl.lit(kind)))
    return ft.from_frame(pl.concat(parts))


def ndcg(parts, weights, target):
    weighed = reweighed(parts, weights, target)
    fitted = ft.fit(ft.ItemKNN(), weighed.train, progress=False)
    return ft.evaluate(fitted, weighed, ratings=False).tallies["ndcg@10"]


def gap(first, second) -> tuple[float, float]:
    """The 95 % interval of a paired difference."""
    first_s, second_s = resampled([first, second])
    return percentiles(first_s - second_s)


@pytest.mark.slow
def test_learned_weights_are_in_the_true_order_of_the_kinds():
    parts = ft.split(known_shop(n_users=1000), seed=0)
    lines = []
    learned = learn_event_weights(parts.train, progress=lines.append)
    w = learned.weights
    assert w["skip"] < 0 < w["view"] < w["cart"] <= w["purchase"] == 1
    assert learned.difference.low > 0
    assert learned.users > 300
    assert len(lines) == len(learned.tried)
    true = {"cart": 0.8, "purchase": 1.0, "skip": -0.25, "view": 0.25}
    low, _ = gap(ndcg(parts, true, "purchase"), ndcg(parts, w, "purchase"))
    assert low <= 0, "weights in proportion to what each kind says are not better with certainty"


def test_the_target_may_be_another_kind():
    two = {kind: TRUE_SHOP[kind] for kind in ("cart", "purchase")}
    learned = learn_event_weights(known_shop(kinds=two, n_users=150), target="cart")
    assert learned.target == "cart"
    assert learned.weights["cart"] == 1


def test_where_nothing_is_better_with_certainty_the_target_alone_stays():
    noise = {"view": (0.0, 6), "purchase": (0.95, 4)}
    learned = learn_event_weights(known_shop(3, noise, n_users=80))
    assert learned.weights == {"view": 0.0, "purchase": 1.0}
    assert "purchase alone" in learned.sentence
    json.dumps(learned.summary(), allow_nan=False)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_learned_weights_are_never_worse_than_the_target_alone(seed):
    parts = ft.split(known_shop(seed, n_users=200), seed=seed)
    learned = learn_event_weights(parts.train, seed=seed)
    alone = {name: float(name == learned.target) for name in learned.weights}
    _, high = gap(ndcg(parts, learned.weights, "purchase"), ndcg(parts, alone, "purchase"))
    assert high >= 0


def test_data_without_kinds_are_refused_with_the_option():
    clicks = ft.from_frame({"user": [1, 2], "item": [1, 1]})
    with pytest.raises(UsageError, match=r"no kinds of events .*--event-column"):
        learn_event_weights(clicks)


# -- the command line


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "shop.csv"
    kinds = {kind: TRUE_SHOP[kind] for kind in ("view", "purchase")}
    known_shop(kinds=kinds, n_users=120).frame().select("user", "item", "event").write_csv(path)
    return path


def run(monkeypatch, *args) -> int:
    monkeypatch.setattr("sys.argv", ["foretaste", *map(str, args)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_train_learns_weights_and_the_bundle_keeps_them(file, tmp_path, monkeypatch, capsys):
    out = tmp_path / "bundle"
    assert not run(
        monkeypatch, "train", file, "--model", "item-knn", "--out", out, "--event-weights", "learn"
    )
    assert "Event weights: " in capsys.readouterr().out
    loaded = ft.load(out)
    assert loaded.dataset.kinds is not None
    assert loaded.dataset.kinds.by_name == loaded.training["event_weights"]["weights"]


def test_evaluate_and_compare_learn_from_train_alone_and_say_so(
    file, tmp_path, monkeypatch, capsys
):
    assert not run(
        monkeypatch, "evaluate", file, "--model", "item-knn", "--event-weights", "learn", "--json"
    )
    said = json.loads(capsys.readouterr().out)
    assert said["event_weights"]["weights"]["purchase"] == 1
    assert "item-knn" in said["reports"]
    assert not run(monkeypatch, "compare", file, "--models", "item-knn", "--event-weights", "learn",
        "--no-cold", "--out", tmp_path / "out", "--json")  # fmt: skip
    said = json.loads(capsys.readouterr().out)
    assert "purchase" in said["event_weights"]["sentence"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--event-weights", "view=1,buy"], "--event-weights: got 'buy'. Write kind=weight"),
        (["--event-weights", "view=1"], "no weight for 'purchase'"),
        (["--target-event", "buy"], "there is no kind of event 'buy'"),
        (["--event-weights", "learn"], "this command trains nothing"),
    ],
)
def test_options_that_do_not_fit_are_refused(file, monkeypatch, capsys, options, message):
    assert run(monkeypatch, "check", file, *options) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_check_says_which_kinds_there_are(file, monkeypatch, capsys):
    assert not run(monkeypatch, "check", file, "--event-weights", "view=1,purchase=5")
    said = " ".join(capsys.readouterr().out.split())
    assert "weights purchase=5, view=1; purchase is to be predicted" in said
