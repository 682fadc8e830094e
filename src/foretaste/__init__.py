"""foretaste: from a file of ratings or clicks to recommendations people can trust."""

import os

# A waiting thread spins for a part of a millisecond, then sleeps. The default of many makes threads
# slow each other down beside any other work (two busy cores: 8 s of training became 121 s). A third
# of this costs an idle machine a fifth of its speed (embedding-net 180,000 for 222,000 samples/s,
# ALS 0.61 for 0.48 s) and saves a third where one core of two is busy. Read when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "6000")

from foretaste.bundle import __version__
from foretaste.data.checking import check
from foretaste.data.dataset import Dataset, items_only
from foretaste.data.features import ItemFeatures
from foretaste.data.fetching import fetch, load_dataset
from foretaste.data.reading import from_frame, read, read_items
from foretaste.data.splitting import Split, split
from foretaste.errors import ForetasteError
from foretaste.evaluation.cold_start import ColdStart, evaluate_cold_items, evaluate_cold_users
from foretaste.evaluation.evaluate import Report, compare, evaluate
from foretaste.experiments.comparison import (
    Comparison,
    add_cold_starts,
    compare_models,
    run_comparison,
)
from foretaste.experiments.cross_validation import cross_validate
from foretaste.models import MODELS
from foretaste.models.als import ALS, AlignedALS
from foretaste.models.baselines import Bias, GlobalMean, Popularity, Random, WeightedRating
from foretaste.models.bayesian.bayesian_mf import BayesianMF
from foretaste.models.biased_mf import BiasedMF
from foretaste.models.content import MetadataSimilarity, PlotSimilarity
from foretaste.models.ease import EASE, AlignedEASE, SparseEASE
from foretaste.models.embedding_net import EmbeddingModel, EmbeddingNet
from foretaste.models.graph_filter import GraphFilter
from foretaste.models.hybrid import Hybrid
from foretaste.models.item2vec import Item2Vec
from foretaste.models.item_knn import ItemKNN
from foretaste.models.two_tower import TwoTower
from foretaste.recommending.export import recommend_all
from foretaste.recommending.recommender import Recommender, fit, load

__all__ = [
    "ALS",
    "EASE",
    "MODELS",
    "AlignedALS",
    "AlignedEASE",
    "BayesianMF",
    "Bias",
    "BiasedMF",
    "ColdStart",
    "Comparison",
    "Dataset",
    "EmbeddingModel",
    "EmbeddingNet",
    "ForetasteError",
    "GlobalMean",
    "GraphFilter",
    "Hybrid",
    "Item2Vec",
    "ItemFeatures",
    "ItemKNN",
    "MetadataSimilarity",
    "PlotSimilarity",
    "Popularity",
    "Random",
    "Recommender",
    "Report",
    "SparseEASE",
    "Split",
    "TwoTower",
    "WeightedRating",
    "__version__",
    "add_cold_starts",
    "check",
    "compare",
    "compare_models",
    "cross_validate",
    "evaluate",
    "evaluate_cold_items",
    "evaluate_cold_users",
    "fetch",
    "fit",
    "from_frame",
    "items_only",
    "load",
    "load_dataset",
    "read",
    "read_items",
    "recommend_all",
    "run_comparison",
    "split",
]
