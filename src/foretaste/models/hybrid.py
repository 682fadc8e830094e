"""Two models in one: content finds the candidates, and predicted ratings put them in order."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import polars as pl
import torch
from torch import Tensor

from foretaste.data.checking import Cost
from foretaste.data.dataset import Dataset
from foretaste.data.histories import Histories
from foretaste.models.base import (
    Model,
    PlacesNewItems,
    PredictsRatings,
    RatingPrediction,
    Shape,
    configure,
)
from foretaste.models.baselines import Bias
from foretaste.models.bayesian.bayesian_mf import BayesianMF
from foretaste.models.biased_mf import BiasedMF
from foretaste.models.content import ContentModel, MetadataSimilarity, PlotSimilarity
from foretaste.training.engine import Engine

CONTENT: dict[str, type[ContentModel]] = {
    model.name: model for model in (MetadataSimilarity, PlotSimilarity)
}
RATERS: dict[str, type[Model]] = {model.name: model for model in (BayesianMF, BiasedMF, Bias)}


@dataclass(eq=False)
class Hybrid(Model):
    """Rank the unseen items most like the history by the rating that the user would give.

    All other items follow in the order of their likeness.  The two models are fitted apart: neither
    knows what the other has learned.

    Args:
        candidates: How many items, the most like the history, are ranked by predicted rating.
        content: Name of the model of likeness.
        rater: Name of the model of ratings.
        content_fields: Fields of the model of likeness, by name.
        rater_fields: Fields of the model of ratings, by name.

    Example:
        >>> import foretaste as ft
        >>> import polars as pl
        >>> xyz = {"item": ["x", "y", "z"]}
        >>> ratings = pl.DataFrame({"user": ["a", "b", "b"], **xyz, "rating": [5, 2, 1]})
        >>> films = pl.DataFrame({**xyz, "genres": ["Drama", "Comedy", "Drama"]})
        >>> data = ft.from_frame(ratings).with_items(films)
        >>> recommender = ft.fit(ft.Hybrid(candidates=1, rater="bias"), data)
        >>> recommender.recommend(user="a", k=1)["item"].item()
        'z'
    """

    name: ClassVar[str] = "hybrid"
    reads_users: ClassVar[bool] = True
    needs_ratings: ClassVar[bool] = True

    candidates: int = 25
    content: Literal["metadata-similarity", "plot-similarity"] = "metadata-similarity"
    rater: Literal["bayesian-mf", "biased-mf", "bias"] = "bayesian-mf"
    content_fields: dict[str, Any] = field(default_factory=dict)
    rater_fields: dict[str, Any] = field(default_factory=dict)
    scale_: list[float] = field(init=False, repr=False)
    n_rated_: int = field(init=False, repr=False)  # items that the rater was trained on
    notes_: list[str] = field(init=False, repr=False)
    content_: ContentModel = field(init=False, repr=False)
    rater_: Model = field(init=False, repr=False)

    def fit(self, train: Dataset, engine: Engine) -> Self:
        """Fit both models, each on its own."""
        self.content_, self.rater_ = self._parts()
        self.content_.fit(train, engine)
        self.rater_.fit(train, engine)
        self.scale_ = list(train.scale)
        self.n_rated_ = len(train.items)
        self.notes_ = [
            note for model in (self.content_, self.rater_) for note in getattr(model, "notes_", [])
        ]
        return self

    def score(self, histories: Histories) -> Tensor:
        """Return ratings of the candidates, and cosines, moved below the scale, of other items."""
        score_bi = self.content_.score(histories)
        unseen_bi = score_bi.clone()
        unseen_bi[histories.user_h, histories.item_h] = -torch.inf
        likeness_bk, item_bk = unseen_bi.topk(min(self.candidates, unseen_bi.shape[1]))
        user_p, place_p = (likeness_bk > -torch.inf).nonzero(as_tuple=True)
        item_p = item_bk[user_p, place_p]
        rating_p = self.predict(histories, user_p, item_p).mean_p
        score_bi += self.scale_[0] - 2  # a cosine is at most one
        score_bi[user_p, item_p] = rating_p
        return score_bi

    def predict(
        self, histories: Histories, user_p: Tensor, item_p: Tensor, *, time_p: Tensor | None = None
    ) -> RatingPrediction:
        """Predict by the rater, to which new items that it cannot place are unknown."""
        assert isinstance(self.rater_, PredictsRatings)
        item_p = torch.where(item_p < self.n_rated_, item_p, -1)
        return self.rater_.predict(histories, user_p, item_p, time_p=time_p)

    def cosines(self, item: int) -> Tensor:
        """Return the cosines of the model of likeness: (items,)."""
        return self.content_.cosines(item)

    def item_vectors(self) -> Tensor:
        """Return the vectors of the model of likeness: (items, d)."""
        return self.content_.item_vectors()

    def with_items(self, table: pl.DataFrame) -> Self:
        """Return a copy of which both models, where the rater can, place new items."""
        grown = copy.copy(self)
        grown.content_ = self.content_.with_items(table)
        if isinstance(self.rater_, PlacesNewItems):
            grown.rater_ = self.rater_.with_items(table)
            grown.n_rated_ = self.n_rated_ + len(table)
        return grown

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what both models have learned, each under its own prefix."""
        tensors: dict[str, Tensor] = {}
        values = {"scale_": self.scale_, "n_rated_": self.n_rated_, "notes_": self.notes_}
        for name, model in (("content_", self.content_), ("rater_", self.rater_)):
            learned, values[name] = model.state()
            tensors |= {f"{name}.{key}": tensor for key, tensor in learned.items()}
        return tensors, values

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Self:
        """Put what `state` returned back into both models."""
        self.content_, self.rater_ = self._parts()
        self.scale_, self.n_rated_ = values["scale_"], values["n_rated_"]
        self.notes_ = values["notes_"]
        for name, model in (("content_", self.content_), ("rater_", self.rater_)):
            learned = {
                key.removeprefix(f"{name}."): tensor
                for key, tensor in tensors.items()
                if key.startswith(f"{name}.")
            }
            model.restore(learned, values[name])
        return self

    def _parts(self) -> tuple[ContentModel, Model]:
        """Make the two models, not fitted."""
        content = configure(CONTENT[self.content], self.content_fields)
        assert isinstance(content, ContentModel)
        return content, configure(RATERS[self.rater], self.rater_fields)

    def cost(self, shape: Shape) -> Cost:
        """Estimate both models, fitted one after the other."""
        content, rater = (model.cost(shape) for model in self._parts())
        return Cost(
            content.seconds + rater.seconds, content.memory_bytes + rater.memory_bytes, rater.note
        )
