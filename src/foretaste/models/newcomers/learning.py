"""How much popularity should weigh for newcomers: learned on users whom a second fit never met."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from foretaste.data.dataset import Dataset
from foretaste.data.histories import Histories, histories_of
from foretaste.errors import ForetasteError
from foretaste.models.base import Model, Shape
from foretaste.models.likes import LearnsFromLikes
from foretaste.models.newcomers.prior import Prior, WithPrior
from foretaste.training.engine import Engine

LENGTHS = (1, 3, 10)  # likes of a history, at which weights are learned
WEIGHTS = (0.0, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 32.0)
HALF_LIVES = (30.0, 90.0, 365.0)  # days, of recent popularity
SHARE = 0.1  # of the users, who are held out
FEWEST, MOST = 40, 1_000  # users who are held out
SCORES = 1 << 25  # numbers that are ranked at each length and weight, at most
SECONDS = 60.0  # that the second fit may take; it learns from fewer users where it would take more
K = 10  # length of the lists
SURE = 1.96  # standard errors of a difference that counts


@dataclass(frozen=True, eq=False)
class Learned:
    """What the second fit showed.

    Args:
        prior: How much popularity weighs.
        notes: Sentences for the terminal and the manifest.
    """

    prior: Prior
    notes: tuple[str, ...] = ()


def learn_prior(model: LearnsFromLikes, train: Dataset, engine: Engine) -> Learned | None:
    """Learn how much popularity weighs beside a model, and whether the model is worth its while.

    The model is fitted again, without some users: where there are times the newest tenth, and what
    others did since the first of them came; otherwise a tenth at random.  Histories of 1, 3 and 10
    of their likes are scored.  Of the weights whose NDCG@10 of the others is within a standard
    error of the highest, and not below popularity's, the lowest is kept; longer histories never
    lean on popularity more.

    Args:
        model: A fitted model, whose fields and threshold count.
        train: What it was fitted to.
        engine: How it was fitted.

    Returns:
        The prior, with weights where there were enough users to learn them; None for a model that
        is to do without, or data without interactions.
    """
    if model.fallback == "none" or not len(train):
        return None
    columns = model.reads_users and train.user_table is not None
    bare = Prior(threshold=model.border_, columns=columns)
    # a seed of its own: a model without chance in it stays the same whatever the seed
    quiet = Engine(device=engine.device, precision=engine.precision)
    found = newcomers(train, model.border_, quiet.rng("newcomers"))
    if found is None:
        return Learned(bare)
    rest, held = found
    rest = affordable(model, rest, quiet.rng("affordable"))
    try:
        second = model.unfitted().fit(rest, quiet)
    except ForetasteError:  # the rest lacks something that the whole has
        return Learned(bare)
    likes = _likes(held, rest, model.border_, quiet.rng("shown"))
    prior = replace(bare, half_life_days=_half_life(rest, likes, bare))
    popularity_i = prior.popularity(rest)
    weights: list[float] = []
    for length in reversed(LENGTHS):
        shown, wanted = shown_and_wanted(likes, length)
        if len(shown) >= FEWEST:
            lowest = weights[0] if weights else 0.0
            weights.insert(0, best_weight(second, shown, wanted, popularity_i, lowest))
    lengths = LENGTHS[: len(weights)]
    prior = replace(prior, likes=lengths, weights=tuple(weights))
    prior = replace(prior, columns=columns and _columns_help(second, prior, likes, popularity_i))
    return Learned(prior, _below(model, second, prior, likes, popularity_i))


def newcomers(
    train: Dataset, threshold: float, rng: np.random.Generator
) -> tuple[Dataset, Dataset] | None:
    """Return what a second fit learns from, and the interactions of the users held out.

    Args:
        train: The interactions.
        threshold: The lowest value that counts as liked.
        rng: Draws the users, where there are no times.

    Returns:
        Two Datasets; None where too few users have two likes.
    """
    x, n_users = train.interactions, len(train.users)
    likes_u = np.bincount(x.user_r[x.value_r >= threshold], minlength=n_users)
    able_u = likes_u > 1
    n_held = min(MOST, int(SHARE * n_users), max(FEWEST, SCORES // max(1, len(train.items))))
    if n_held < FEWEST or able_u.sum() < 2 * FEWEST:
        return None
    if x.time_r is not None:
        first_u = x.time_r[train.pointers[:-1].clip(max=len(x) - 1)]  # each user's are in order
        border = np.sort(first_u)[-max(1, int(SHARE * n_users))]
        held_u = (first_u >= border) & able_u
        before_r = x.time_r < border
        if held_u.sum() >= FEWEST and before_r.mean() >= 0.5:
            held_u = _some(held_u, n_held, rng)
            return train.take(before_r), train.take(held_u[x.user_r])
    held_u = _some(able_u, n_held, rng)
    return train.take(~held_u[x.user_r]), train.take(held_u[x.user_r])


def _some(of_u: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return marks of n of the marked users, drawn at random: (users,) bool."""
    kept_u = np.zeros(len(of_u), dtype=bool)
    kept_u[rng.permutation(np.flatnonzero(of_u))[:n]] = True
    return kept_u


def affordable(model: Model, train: Dataset, rng: np.random.Generator) -> Dataset:
    """Return the data of so many users that a fit takes about SECONDS at most.

    Args:
        model: What is fitted.
        train: The data.
        rng: Draws the users.
    """
    shape = Shape(len(train.users), len(train.items), len(train))
    share = SECONDS / max(SECONDS, model.cost(shape).seconds)
    if share == 1.0:
        return train
    kept_u = rng.random(len(train.users)) < share
    return train.take(kept_u[train.interactions.user_r])


def _likes(held: Dataset, rest: Dataset, threshold: float, rng: np.random.Generator) -> Histories:
    """Return what held-out users like, in order of time, or in random order where times lack."""
    everyone = histories_of(held, np.arange(len(held.users)), rest).as_new_users()
    likes = everyone.only(everyone.value_h >= threshold)
    if likes.time_h is not None:
        return likes
    return likes.sorted_by(rng.random(len(likes.item_h)))


def shown_and_wanted(likes: Histories, length: int) -> tuple[Histories, Histories]:
    """Return the first likes of the users who have more, and those that come after.

    Args:
        likes: What users like, in the order in which it is shown.
        length: How many likes are shown.
    """
    longer = likes.take((likes.length_b > length).nonzero()[:, 0])
    place_h = torch.arange(len(longer.item_h)) - longer.pointer_b[:-1][longer.user_h]
    return longer.only(place_h < length), longer.only(place_h >= length)


def ndcg_of(score_bi: Tensor, shown: Histories, wanted: Histories) -> np.ndarray:
    """Return NDCG@10 of each user, without what is shown: (B,).

    Args:
        score_bi: Scores (B, items); what is shown is overwritten.
        shown: What may not be listed.
        wanted: What is to be found, one item at least for each user.
    """
    score_bi[shown.user_h, shown.item_h] = -torch.inf
    item_bk = score_bi.topk(min(K, score_bi.shape[1]), dim=1).indices
    key_h = wanted.user_h * score_bi.shape[1] + wanted.item_h
    key_bk = torch.arange(len(item_bk))[:, None] * score_bi.shape[1] + item_bk
    gain_k = 1 / torch.arange(2, item_bk.shape[1] + 2).double().log2()
    found_b = (torch.isin(key_bk, key_h) * gain_k).sum(dim=1)
    ideal_b = gain_k.cumsum(0)[wanted.length_b.clamp(max=len(gain_k)) - 1]
    return (found_b / ideal_b).numpy()


def best_weight(
    model: Model, shown: Histories, wanted: Histories, popularity_i: Tensor, lowest: float
) -> float:
    """Return the lowest weight of popularity whose NDCG@10 is as good as any, and popularity's.

    Args:
        model: A fitted model.
        shown: Histories of one length.
        wanted: What is to be found.
        popularity_i: Popularity with mean 0 and standard deviation 1: (items,).
        lowest: The lowest weight that is tried.
    """
    score_bi = model.score(shown).float()
    spread_b1 = score_bi.std(dim=1, correction=0, keepdim=True)
    tried = [weight for weight in WEIGHTS if weight >= lowest]
    found = [
        ndcg_of(score_bi + weight * spread_b1 * popularity_i, shown, wanted) for weight in tried
    ]
    best_b = max(found, key=np.mean)
    least = min(best_b.mean(), _of_popularity(popularity_i, shown, wanted).mean())
    equal = [
        value_b.mean() >= least and not surely_better(best_b, value_b, errors=1.0)
        for value_b in found
    ]
    return tried[equal.index(True)]


def _half_life(rest: Dataset, likes: Histories, bare: Prior) -> float | None:
    """Return the half-life of recent popularity, where it beats all of popularity surely.

    Twice the usual error has to be passed: what users meet in their first week is no taste.
    """
    if rest.interactions.time_r is None:
        return None
    shown, wanted = shown_and_wanted(likes, 0)
    if len(shown) < FEWEST:
        return None
    found = {
        days: _of_popularity(replace(bare, half_life_days=days).popularity(rest), shown, wanted)
        for days in (None, *HALF_LIVES)
    }
    best = max(found, key=lambda days: found[days].mean())
    return best if surely_better(found[best], found[None], errors=2 * SURE) else None


def _columns_help(model: Model, prior: Prior, likes: Histories, popularity_i: Tensor) -> bool:
    """Return whether users without a like are served as well by their columns as by popularity."""
    shown, wanted = shown_and_wanted(likes, 0)
    if len(shown) < FEWEST:
        return True
    ours_b = ndcg_of(WithPrior(model, prior, popularity_i).score(shown).float(), shown, wanted)
    return bool(ours_b.mean() >= _of_popularity(popularity_i, shown, wanted).mean())


def _of_popularity(popularity_i: Tensor, shown: Histories, wanted: Histories) -> np.ndarray:
    """Return NDCG@10 of popularity for each user: (B,)."""
    return ndcg_of(popularity_i.repeat(len(shown), 1), shown, wanted)


def surely_better(first_b: np.ndarray, second_b: np.ndarray, errors: float = SURE) -> bool:
    """Return whether a metric of the same users is higher by more than its error.

    Args:
        first_b: The metric of each user: (B,).
        second_b: What it is compared with: (B,).
        errors: How many standard errors the difference has to be.
    """
    rest_b = first_b - second_b
    return bool(rest_b.mean() > errors * rest_b.std() / max(1, len(rest_b)) ** 0.5)


def _below(
    model: Model, second: Model, prior: Prior, likes: Histories, popularity_i: Tensor
) -> tuple[str, ...]:
    """Return a warning where popularity makes better lists for held-out users than the model."""
    half = likes.take((likes.length_b > 1).nonzero()[:, 0])
    if len(half) < FEWEST:
        return ()
    place_h = torch.arange(len(half.item_h)) - half.pointer_b[:-1][half.user_h]
    is_shown_h = place_h < (half.length_b * 4 // 5).clamp(min=1)[half.user_h]
    shown, wanted = half.only(is_shown_h), half.only(~is_shown_h)
    ours_b = ndcg_of(WithPrior(second, prior, popularity_i).score(shown).float(), shown, wanted)
    base_b = _of_popularity(popularity_i, shown, wanted)
    if not surely_better(base_b, ours_b):
        return ()
    return (
        f"{model.name} made worse lists than popularity for {len(half):,} users held out of a "
        f"second fit: NDCG@{K} {ours_b.mean():.3f} against {base_b.mean():.3f}. Compare models "
        "before this one is served (foretaste compare)",
    )
