"""Models: one file per family; `MODELS` is the list that the command line and bundles know."""

from __future__ import annotations

from foretaste.errors import UsageError, did_you_mean
from foretaste.models.aligned_ease import AlignedEASE
from foretaste.models.als import ALS, AlignedALS
from foretaste.models.base import Model
from foretaste.models.baselines import Bias, GlobalMean, Popularity, Random, WeightedRating
from foretaste.models.bayesian.bayesian_mf import BayesianMF
from foretaste.models.biased_mf import BiasedMF
from foretaste.models.content import MetadataSimilarity, PlotSimilarity
from foretaste.models.ease import EASE, SparseEASE
from foretaste.models.embedding_net import EmbeddingModel
from foretaste.models.graph_filter import GraphFilter
from foretaste.models.hybrid import Hybrid
from foretaste.models.item2vec import Item2Vec
from foretaste.models.item_knn import ItemKNN
from foretaste.models.sequential.linear_next_item import LinearNextItem
from foretaste.models.sequential.sasrec import SASRec
from foretaste.models.two_tower import TwoTower

MODELS: dict[str, type[Model]] = {
    model.name: model
    for model in (
        EmbeddingModel,
        BayesianMF,
        BiasedMF,
        EASE,
        SparseEASE,
        ALS,
        GraphFilter,
        ItemKNN,
        AlignedALS,
        AlignedEASE,
        TwoTower,
        Item2Vec,
        LinearNextItem,
        SASRec,
        Hybrid,
        MetadataSimilarity,
        PlotSimilarity,
        WeightedRating,
        Bias,
        GlobalMean,
        Popularity,
        Random,
    )
}


def model_named(name: str) -> type[Model]:
    """Return the class of the model with a name.

    Args:
        name: One of the names in MODELS.

    Raises:
        UsageError: No model has the name; the message suggests the nearest, or lists all.
    """
    if name in MODELS:
        return MODELS[name]
    hint = did_you_mean(name, MODELS, else_say="Use one of {}.")
    raise UsageError(f"there is no model {name!r}.", fix=hint)
