"""Who takes part in a comparison: the baselines, and the models that data and time allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from foretaste.data.dataset import Dataset
from foretaste.data.features import ItemFeatures
from foretaste.errors import UsageError
from foretaste.models import MODELS, model_named
from foretaste.models.als import AlignedALS
from foretaste.models.base import Model, PlacesNewItems, Shape
from foretaste.models.baselines import Bias, GlobalMean, Popularity, Random
from foretaste.models.content import MetadataSimilarity, PlotSimilarity
from foretaste.models.ease import EASE, SparseEASE

RECENT_DAYS = 30.0
# quick and strong without any tuning
USUAL = ("item-knn", "als", "graph-filter", "ease", "sparse-ease", "bayesian-mf")
TWINS: tuple[type[Model], ...] = (EASE, SparseEASE)  # much the same lists: the cheaper takes part
SECONDS, MEMORY_BYTES = 60.0, 8 << 30  # estimates of one fit, above which a model must be named
COLD_SECONDS = 15.0  # the same, of one fit in a cold start
RECENT = "recent-popularity"


def baselines(train: Dataset) -> dict[str, Model]:
    """Return what any model has to beat, as far as it applies to the data.

    Args:
        train: What the models will be fitted to.

    Returns:
        Models by label: chance and popularity, recent popularity where there are times, mean and
        biases where there are ratings, similarities where items have texts or labels.
    """
    found: dict[str, Model] = {}
    if train.explicit:
        found |= {"global-mean": GlobalMean(), "bias": Bias()}
    found |= {"random": Random(), "popularity": Popularity()}
    if train.interactions.time_r is not None:
        found[RECENT] = Popularity(half_life_days=RECENT_DAYS)
    return found | plain_similarity(train)


def plain_similarity(train: Dataset) -> dict[str, Model]:
    """Return what models of new items have to beat: cosines of texts and labels.

    Args:
        train: What the models will be fitted to.

    Returns:
        Models by label; none where items have neither texts nor labels.
    """
    known = set(train.item_frame.columns)
    plot, metadata = PlotSimilarity(), MetadataSimilarity()
    found: dict[str, Model] = {plot.name: plot} if plot.column in known else {}
    return found | ({metadata.name: metadata} if known & set(metadata.columns) else {})


def entrants(
    train: Dataset, models: Sequence[str | Model] | Mapping[str, Model] | None = None
) -> tuple[dict[str, Model], list[str]]:
    """Choose the baselines and the models asked for.

    Args:
        train: What they will be fitted to.
        models: Names, models with fields of their own, or labels of such; None for the USUAL ones
            that the data allow and whose estimated fit is short enough.

    Returns:
        Models by label, quick ones first; and who stays out, and why.

    Raises:
        UsageError: A name is unknown, two models have one label, or a class is not in MODELS.
    """
    chosen, left_out = baselines(train), []
    if models is not None:
        for label, model in _named(models):
            if label in chosen and chosen[label].hyperparameters() != model.hyperparameters():
                raise UsageError(f"two models are called {label!r}.", fix="Label them.")
            chosen[label] = model
        return chosen, left_out
    shape = Shape(len(train.users), len(train.items), len(train))
    others = {name: model for name, model in MODELS.items() if name not in chosen}
    for name, model in sorted(others.items(), key=lambda named: named[1]().cost(shape).seconds):
        why = _why_not(model, train, shape)
        if name in USUAL and not why:
            chosen[name] = model()
        else:
            left_out.append(f"{name} ({why})" if why else name)
    return chosen, left_out


def cold_entrants(
    train: Dataset, models: Mapping[str, Model], kind: str, *, slow: bool
) -> tuple[dict[str, Model], list[str]]:
    """Choose who takes part in a cold start.

    Only models that know items by their columns, and the baselines, take part for new items;
    aligned ALS does where no model of the comparison can.

    Args:
        train: What items and users are held out of.
        models: Label to model: those that a comparison has measured.
        kind: "users" or "items".
        slow: Whether models take part whose fit is estimated at more than COLD_SECONDS.

    Returns:
        Models by label, and notes of who does not take part.
    """
    shape = Shape(len(train.users), len(train.items), len(train))
    able, unable, late = {}, [], []
    ranked, basic = (
        [Random.name, Popularity.name, RECENT, *plain_similarity(train)],
        baselines(train),
    )
    for label, model in models.items():
        if label in basic and label not in ranked:
            continue  # a mean of ratings orders no list
        if kind == "items" and not (isinstance(model, PlacesNewItems) or label in ranked[:2]):
            unable += [] if label in basic else [label]
        elif not slow and model.cost(shape).seconds > COLD_SECONDS:
            late.append(label)
        else:
            able[label] = model
    notes = [f"Cannot tell new items by their columns: {', '.join(unable)}."] if unable else []
    if late:
        notes.append(f"Slow to fit, not in until asked for (--cold): {', '.join(late)}.")
    if kind == "items" and set(able) <= set(ranked):
        if not ItemFeatures.learn(train.item_table).columns:
            return {}, [*notes, "Nothing is known of items but who had them (--items)."]
        able[AlignedALS.name] = AlignedALS()
    return able, notes


def _why_not(model: type[Model], train: Dataset, shape: Shape) -> str:
    """What keeps a model from data of that kind and size; nothing, where nothing does."""
    if model.needs_ratings and not train.explicit:
        return "needs ratings"
    if dear := _too_dear(model, shape):
        return dear
    twins = [twin for twin in TWINS if not _too_dear(twin, shape)]
    cheapest = min(twins, key=lambda twin: twin().cost(shape).seconds, default=model)
    if model in TWINS and model is not cheapest:
        return f"{cheapest.name} makes much the same lists in less time here"
    return ""


def _too_dear(model: type[Model], shape: Shape) -> str:
    """Return what a fit would take where that is too much for an unnamed model, else nothing."""
    cost = model().cost(shape)
    if cost.seconds <= SECONDS and cost.memory_bytes <= MEMORY_BYTES:
        return ""
    return f"about {cost.seconds:,.0f} s and {cost.memory_bytes / 2**20:,.0f} MiB to fit"


def _named(models: Sequence[str | Model] | Mapping[str, Model]) -> list[tuple[str, Model]]:
    found = models.items() if isinstance(models, Mapping) else map(_labelled, models)
    found = list(found)
    for _, model in found:
        if MODELS.get(model.name) is not type(model):
            raise UsageError(
                f"{type(model).__name__} is not in MODELS: its process could not find it.",
                fix="Add it to foretaste.MODELS, or use evaluate and compare.",
            )
    return found


def _labelled(model: str | Model) -> tuple[str, Model]:
    """A model by name, or one with the fields that are its own in the label."""
    if model == RECENT:
        return RECENT, Popularity(half_life_days=RECENT_DAYS)
    if isinstance(model, str):
        return model, model_named(model)()
    default = type(model)().hyperparameters()
    own = {n: v for n, v in model.hyperparameters().items() if v != default[n]}
    fields = ", ".join(f"{name}={value}" for name, value in own.items())
    return (f"{model.name}({fields})" if own else model.name), model
