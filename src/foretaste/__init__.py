"""foretaste: from a file of ratings or clicks to recommendations people can trust."""

import os

# A waiting thread must sleep, not spin: beside any other work, OpenMP's spinning threads slow each
# other down (two busy cores: 8 s of training became 121 s). Read once, when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from foretaste.bundle import __version__
from foretaste.data.catalog import fetch
from foretaste.data.catalog import load as load_data
from foretaste.data.checking import check
from foretaste.data.dataset import Dataset
from foretaste.data.reading import from_frame, read
from foretaste.data.splitting import Split, split
from foretaste.errors import ForetasteError
from foretaste.evaluation import Report, evaluate
from foretaste.models import MODELS
from foretaste.models.als import ALS
from foretaste.models.baselines import Bias, GlobalMean, Popularity
from foretaste.models.bayesian_mf import BayesianMF
from foretaste.models.ease import EASE
from foretaste.models.embedding_net import EmbeddingModel, EmbeddingNet
from foretaste.models.graph_filter import GraphFilter
from foretaste.recommender import Recommender, fit, load

__all__ = [
    "ALS",
    "EASE",
    "MODELS",
    "BayesianMF",
    "Bias",
    "Dataset",
    "EmbeddingModel",
    "EmbeddingNet",
    "ForetasteError",
    "GlobalMean",
    "GraphFilter",
    "Popularity",
    "Recommender",
    "Report",
    "Split",
    "__version__",
    "check",
    "evaluate",
    "fetch",
    "fit",
    "from_frame",
    "load",
    "load_data",
    "read",
    "split",
]
