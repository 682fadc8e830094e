"""foretaste: from a file of ratings or clicks to recommendations people can trust.

Each public name is imported when it is first used (PEP 562), so that `import foretaste` and
`foretaste --help` load neither torch nor polars. A name stands in three places below, and a test
keeps them equal: for type checkers and editors, for `__getattr__`, and in `__all__`.
"""

import importlib
import os
import warnings
from typing import TYPE_CHECKING

# A waiting thread spins for a part of a millisecond, then sleeps. The default of many makes threads
# slow each other down beside any other work (two busy cores: 8 s of training became 121 s). A third
# of this costs an idle machine a fifth of its speed (embedding-net 180,000 for 222,000 samples/s,
# ALS 0.61 for 0.48 s) and saves a third where one core of two is busy. Read when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "6000")

__version__ = "0.2.0"

if TYPE_CHECKING:
    from foretaste import (
        bundle,
        cli,
        data,
        errors,
        evaluation,
        experiments,
        models,
        recommending,
        service,
        training,
    )
    from foretaste.data.building import items_only
    from foretaste.data.checking import check
    from foretaste.data.dataset import Dataset
    from foretaste.data.features import ItemFeatures
    from foretaste.data.fetching import fetch, load_dataset
    from foretaste.data.histories import Histories
    from foretaste.data.reading import from_frame, read
    from foretaste.data.reading.items import read_items
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
    from foretaste.experiments.event_weights import learn_event_weights
    from foretaste.models import MODELS
    from foretaste.models.aligned_ease import AlignedEASE
    from foretaste.models.als import ALS, AlignedALS
    from foretaste.models.baselines import Bias, GlobalMean, Popularity, Random, WeightedRating
    from foretaste.models.bayesian.bayesian_mf import BayesianMF
    from foretaste.models.biased_mf import BiasedMF
    from foretaste.models.content import MetadataSimilarity, PlotSimilarity
    from foretaste.models.ease import EASE, SparseEASE
    from foretaste.models.embedding_net import EmbeddingModel, EmbeddingNet
    from foretaste.models.graph_filter import GraphFilter
    from foretaste.models.hybrid import Hybrid
    from foretaste.models.item2vec import Item2Vec
    from foretaste.models.item_knn import ItemKNN
    from foretaste.models.sequential.linear_next_item import LinearNextItem
    from foretaste.models.sequential.sasrec import SASRec
    from foretaste.models.two_tower import TwoTower
    from foretaste.recommending.export import recommend_all
    from foretaste.recommending.fitting import fit, load
    from foretaste.recommending.recommender import Recommender
    from foretaste.recommending.request import Entry, IgnoredIdsWarning, Request
    from foretaste.training.engine import Engine

PUBLIC = {  # module below foretaste -> the public names that it has
    "data.building": ["items_only"],
    "data.checking": ["check"],
    "data.dataset": ["Dataset"],
    "data.features": ["ItemFeatures"],
    "data.fetching": ["fetch", "load_dataset"],
    "data.histories": ["Histories"],
    "data.reading": ["from_frame", "read"],
    "data.reading.items": ["read_items"],
    "data.splitting": ["Split", "split"],
    "errors": ["ForetasteError"],
    "evaluation.cold_start": ["ColdStart", "evaluate_cold_items", "evaluate_cold_users"],
    "evaluation.evaluate": ["Report", "compare", "evaluate"],
    "experiments.comparison": ["Comparison", "add_cold_starts", "compare_models", "run_comparison"],
    "experiments.cross_validation": ["cross_validate"],
    "experiments.event_weights": ["learn_event_weights"],
    "models": ["MODELS"],
    "models.aligned_ease": ["AlignedEASE"],
    "models.als": ["ALS", "AlignedALS"],
    "models.baselines": ["Bias", "GlobalMean", "Popularity", "Random", "WeightedRating"],
    "models.bayesian.bayesian_mf": ["BayesianMF"],
    "models.biased_mf": ["BiasedMF"],
    "models.content": ["MetadataSimilarity", "PlotSimilarity"],
    "models.ease": ["EASE", "SparseEASE"],
    "models.embedding_net": ["EmbeddingModel", "EmbeddingNet"],
    "models.graph_filter": ["GraphFilter"],
    "models.hybrid": ["Hybrid"],
    "models.item2vec": ["Item2Vec"],
    "models.sequential.linear_next_item": ["LinearNextItem"],
    "models.sequential.sasrec": ["SASRec"],
    "models.item_knn": ["ItemKNN"],
    "models.two_tower": ["TwoTower"],
    "recommending.export": ["recommend_all"],
    "recommending.fitting": ["fit", "load"],
    "recommending.recommender": ["Recommender"],
    "recommending.request": ["Entry", "IgnoredIdsWarning", "Request"],
    "training.engine": ["Engine"],
}
PARTS = (
    "bundle", "cli", "data", "errors", "evaluation", "experiments", "models", "recommending",
    "service", "training",
)  # fmt: skip
OLD_NAMES = {  # for one release: old public name -> the new one
    "catalogue": "items_only",
    "cold_items": "evaluate_cold_items",
    "cold_users": "evaluate_cold_users",
    "load_data": "load_dataset",
}
_MODULE_OF = {name: module for module, names in PUBLIC.items() for name in names}

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
    "Engine",
    "Entry",
    "ForetasteError",
    "GlobalMean",
    "GraphFilter",
    "Histories",
    "Hybrid",
    "IgnoredIdsWarning",
    "Item2Vec",
    "ItemFeatures",
    "ItemKNN",
    "LinearNextItem",
    "MetadataSimilarity",
    "PlotSimilarity",
    "Popularity",
    "Random",
    "Recommender",
    "Report",
    "Request",
    "SASRec",
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
    "learn_event_weights",
    "load",
    "load_dataset",
    "read",
    "read_items",
    "recommend_all",
    "run_comparison",
    "split",
]


if not TYPE_CHECKING:  # else a name that does not exist would be Any to a type checker

    def __getattr__(name: str) -> object:
        """Import what a public name stands for, or a part of foretaste, when it is first used."""
        if name in OLD_NAMES:
            new = OLD_NAMES[name]
            warnings.warn(
                f"foretaste.{name} is now foretaste.{new}; "
                "the old name goes with the next release.",
                DeprecationWarning,
                stacklevel=2,
            )
            return __getattr__(new)
        if name in _MODULE_OF:
            module = importlib.import_module(f"foretaste.{_MODULE_OF[name]}")
            globals()[name] = getattr(module, name)  # found without this function from now on
            return globals()[name]
        if name in PARTS:
            return importlib.import_module(f"foretaste.{name}")
        raise AttributeError(f"module 'foretaste' has no attribute {name!r}", name=name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *PARTS})
