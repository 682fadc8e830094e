"""Every model on tables that hold next to nothing: it serves finite scores, or says what to do."""

from __future__ import annotations

import dataclasses
from itertools import product

import numpy as np
import polars as pl
import pytest
import torch

import foretaste as ft
from foretaste.data.histories import histories_of
from foretaste.errors import ModelError
from foretaste.models import MODELS
from foretaste.models.base import configure
from tests.test_models_contract import SMALL, films


def table(pairs, value=lambda user, item: 1 + (user + 2 * item) % 5, described=True):
    frame = pl.DataFrame(
        {
            "user": [f"u{user}" for user, _ in pairs],
            "item": [f"i{item}" for _, item in pairs],
            "rating": [float(value(user, item)) for user, item in pairs],
            "time": [1_500_000_000 + 60 * n for n in range(len(pairs))],
        }
    )
    ratings = ft.from_frame(frame)
    return ratings.with_items(films(8)) if described else ratings


ALL = [*product(range(9), range(8))]
SOME = [(user, item) for user, item in ALL if (3 * user + item) % 4]
LIKES = {"positive_threshold": 9.0}
TABLES = {
    "one interaction": lambda: table([(0, 0)]),
    "two interactions": lambda: table([(0, 0), (1, 1)]),
    "one interaction of each user": lambda: table([(user, user % 8) for user in range(9)]),
    "one interaction of each item": lambda: table([(item % 2, item) for item in range(8)]),
    "one item": lambda: table([(user, 0) for user in range(9)]),
    "one user": lambda: table([(0, item) for item in range(8)]),
    "all ratings equal": lambda: table(SOME, lambda user, item: 3),
    "every user has everything": lambda: table(ALL),
    "nothing is known of the items": lambda: table(SOME, described=False),
    "nothing is liked": lambda: table(SOME),
    "one like of each user": lambda: table(ALL, lambda user, item: 5 if user % 8 == item else 1),
}


@pytest.mark.parametrize("case", TABLES)
@pytest.mark.parametrize("name", MODELS)
def test_a_table_of_next_to_nothing_gives_finite_scores_or_an_error_with_a_fix(name, case):
    fields = SMALL.get(name, {})
    has = {field.name for field in dataclasses.fields(MODELS[name])}
    if case == "nothing is liked" and "positive_threshold" in has:
        fields = fields | LIKES
    ratings = TABLES[case]()
    try:
        fitted = ft.fit(configure(MODELS[name], fields), ratings, seed=3, progress=False)
    except ModelError as error:
        if not error.fix:
            pytest.fail(f"no fix: {error}")
        return
    users = np.array([*range(len(ratings.users)), -1])  # and somebody without a history
    histories = histories_of(ratings, users, ratings)
    score_ui = fitted.model.score(histories)
    assert score_ui.shape == (len(users), len(ratings.items))
    assert torch.isfinite(score_ui).all()
    histories.train_row_b[:] = -1
    assert torch.isfinite(fitted.model.score(histories)).all()
    assert len(fitted.recommend(history=[], k=1)) == 1
    assert len(fitted.similar("i0", k=1)) <= 1


@pytest.mark.parametrize(
    ("name", "fields", "case", "text"),
    [
        (
            "two-tower", {}, "one like of each user",
            "two-tower learns from users who like two items at least: one is shown, one found. "
            "Here no user does. Lower positive_threshold, or use als, for which one like will do.",
        ),
        (
            "embedding-net", {}, "one user",
            "embedding-net holds out 0.05 of the ratings to choose the epoch by, and trains on the "
            "others; of 8 one part would be empty. Change validation, or use biased-mf, which "
            "holds out none.",
        ),
        (
            "ease", LIKES, "one user",
            "ease learns from what is liked, and nothing is: the highest of 8 values is 5, and "
            "what is liked begins at 9 (weighting='uniform'). Lower positive_threshold, or choose "
            "another weighting.",
        ),
    ],
)  # fmt: skip
def test_what_a_model_cannot_learn_from_is_an_error_with_a_fix(name, fields, case, text):
    with pytest.raises(ModelError) as caught:
        ft.fit(configure(MODELS[name], fields), TABLES[case](), progress=False)
    assert str(caught.value) == text
