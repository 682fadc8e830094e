"""The whole path from a Request to its lists, against a twin in plain Python that reads the same
Request: on a catalogue of eight items, with a model whose every score is a whole number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import foretaste as ft
from foretaste.data.checking import Cost
from foretaste.data.histories import Histories
from foretaste.models.base import Model
from foretaste.recommending.answering import Answer
from foretaste.recommending.request import Entry, Request

FILMS = {
    "item": [10, 20, 30, 40, 50, 60, 70, 80],
    "year": [1979, 1985, 1990, 1990, 1995, None, 2001, 2010],
    "genres": ["War", "Drama", "War|Drama", "Love", None, "Drama", "Love|War", "Love"],
}
RATED = [
    (1, 10, 5.0, 3), (1, 60, 3.0, 1), (1, 40, 4.0, 2), (2, 20, 1.0, 5), (4, 10, 2.0, 9),
    (4, 20, 3.0, 8), (4, 40, 4.0, 7), (4, 50, 5.0, 6), (4, 60, 1.0, 5), (4, 70, 1.0, 4),
    (4, 80, 2.0, 3), (5, 30, 3.0, 2), (5, 70, 5.0, 2),
]  # fmt: skip
USERS = [1, 2, 4, 5]
ROW = {str(item): row for row, item in enumerate(FILMS["item"])}
CONDITIONS: dict[str, Any] = {
    "year >= 1990": lambda film: film["year"] is not None and film["year"] >= 1990,
    "genres LIKE '%Drama%'": lambda film: film["genres"] is not None and "Drama" in film["genres"],
    "year IS NULL OR item = 30": lambda film: film["year"] is None or film["item"] == 30,
    "1 = 2": lambda _: False,
}
NEVER = float("-inf")


@dataclass(frozen=True)
class Known:
    """What ought to reach the model of one user: entries (row, value, time), oldest first."""

    entries: tuple[tuple[int, float, int | None], ...]
    train_row: int = -1
    age: int | None = None

    def scores(self) -> list[float]:
        """Whole numbers that change with values, places, times, the training row and the age."""
        score_i = [float(3 * row % 4) for row in range(8)]
        for place, (row, value, _) in enumerate(self.entries):
            score_i[(row + place) % 8] += value
        if self.entries and self.entries[-1][2] is not None:
            score_i[self.entries[-1][2] // 1000 % 8] += 7
        if self.train_row >= 0:
            score_i[self.train_row] += 2
        if self.age is not None:
            score_i[self.age % 8] += 3
        return score_i


def reached(histories: Histories) -> list[Known]:
    """Histories as plain Python."""
    known = []
    for b in range(len(histories)):
        h = slice(int(histories.pointer_b[b]), int(histories.pointer_b[b + 1]))
        time_h = [None] * len(histories.item_h)
        if histories.time_h is not None:
            time_h = histories.time_h.tolist()
        about = histories.user_features
        entries = zip(
            histories.item_h[h].tolist(), histories.value_h[h].tolist(), time_h[h], strict=True
        )
        age = None if about is None else about["age"][b]
        known.append(Known(tuple(entries), int(histories.train_row_b[b]), age))
    return known


@dataclass(eq=False)
class Plain(Model):
    """Scores what reaches it as `Known.scores` does."""

    name: ClassVar[str] = "plain"

    def fit(self, train, engine):
        return self

    def score(self, histories):
        score_bi = torch.zeros(len(histories), 8)
        for b, known in enumerate(reached(histories)):
            score_bi[b] = torch.tensor(known.scores())
        return score_bi

    def cost(self, shape):
        return Cost(1.0, 1)


@dataclass(eq=False)
class Dotted(Plain):
    """The same scores as dot products, for which ranking takes another way."""

    def user_factors(self, histories):
        return self.score(histories)

    def item_factors(self):
        return torch.eye(8)


def rated() -> ft.Dataset:
    columns = dict(zip(("user", "item", "rating", "time"), zip(*RATED, strict=True), strict=True))
    frame = pl.DataFrame(columns).with_columns(time=pl.col("time") + 1_500_000_000)
    ages = pl.DataFrame({"user": USERS, "age": [20, 30, 40, 50]})
    return ft.from_frame(frame).with_items(pl.DataFrame(FILMS)).with_users(ages)


RECOMMENDERS = [ft.Recommender(model, rated()) for model in (Plain(), Dotted())]


# -- the twin


def is_known(item: object) -> bool:
    return str(item) in ROW


def of_training(user: object) -> Known:
    mine = sorted((r for r in RATED if str(r[0]) == str(user)), key=lambda r: r[3])
    entries = tuple((ROW[str(i)], v, 1000 * (t + 1_500_000_000)) for _, i, v, t in mine)
    return Known(entries, [str(u) for u in USERS].index(str(user)))


def of_someone_new(history: Any, features: Mapping[str, Any] | None) -> tuple[Known, list[Any]]:
    if isinstance(history, Mapping):
        named = [Entry(item, value) for item, value in history.items()]
    else:
        named = [e if isinstance(e, Entry) else Entry(e) for e in history]
    last = {}
    for entry in filter(lambda e: is_known(e.item), named):
        row = ROW[str(entry.item)]
        last.pop(row, None)
        last[row] = (row, 5.0 if entry.value is None else float(entry.value), entry.time)
    entries = list(last.values())
    if any(time is None for *_, time in entries):
        entries = [(row, value, None) for row, value, _ in entries]
    else:
        entries.sort(key=lambda entry: entry[2])
    unknown = [entry.item for entry in named if not is_known(entry.item)]
    return Known(tuple(entries), -1, features["age"] if features else None), unknown


def subjects(request: Request) -> tuple[list[Known], list[Any]]:
    if request.histories is not None:
        return reached(request.histories), []
    if request.history is not None:
        one, unknown = of_someone_new(request.history, request.user_features)
        return [one], unknown
    users = [request.user] if request.users is None else request.users
    return [of_training(user) for user in users], []


def may_be_listed(request: Request) -> tuple[set[int], dict[str, list[Any]]]:
    allowed, unknown = set(range(8)), {}
    if request.candidates is not None:
        allowed = {ROW[str(i)] for i in request.candidates if is_known(i)}
        unknown["candidates"] = [i for i in request.candidates if not is_known(i)]
    allowed -= {ROW[str(i)] for i in request.exclude if is_known(i)}
    unknown["exclude"] = [i for i in request.exclude if not is_known(i)]
    if request.where is not None:
        films = pl.DataFrame(FILMS).to_dicts()
        allowed = {row for row in allowed if CONDITIONS[request.where](films[row])}
    return allowed, {name: ids for name, ids in unknown.items() if ids}


def rows_in(people: list[Known]) -> list[list[int]]:
    return [[row for row, *_ in person.entries] for person in people]


def check(request: Request, answer: Answer) -> None:
    """The answer to a request is what the twin makes of it."""
    people, ignored = subjects(request)
    allowed, unknown = may_be_listed(request)
    assert answer.unknown == (unknown | {"history": ignored} if ignored else unknown)
    assert reached(answer.histories) == people
    k = min(request.k, 8)
    assert answer.lists.item_bk.shape == answer.lists.score_bk.shape == (len(people), k)
    probe = [[]] * len(people) if request.probe is None else rows_in(reached(request.probe))
    seen = rows_in(people if request.seen is None else reached(request.seen))
    probed: list[float] = []
    for b, person in enumerate(people):
        # The data are ratings, so what was seen is left out unless the request says otherwise.
        left = allowed if request.exclude_seen is False else allowed - set(seen[b])
        score_i = person.scores()
        order = sorted(left, key=lambda row: (-score_i[row], row))[:k]
        empty = k - len(order)
        assert answer.lists.item_bk[b].tolist() == order + [-1] * empty
        assert answer.lists.score_bk[b].tolist() == [score_i[r] for r in order] + [NEVER] * empty
        if not empty:
            ties = [row for row in left if score_i[row] == score_i[order[-1]]]
            assert answer.lists.tied_b[b] == len(ties)
        probed += [score_i[row] if row in left else NEVER for row in probe[b]]
        if request.explain:
            check_reasons(person, order, answer.weight_bhk[b])
    assert answer.lists.probe_h.tolist() == probed
    assert len(answer.weight_bhk) == (len(people) if request.explain else 0)


def check_reasons(person: Known, listed: list[int], weight_hk: torch.Tensor) -> None:
    """What an entry adds: the score of someone new with the history less that without it."""
    whole_i = replace(person, train_row=-1).scores()
    assert weight_hk.shape == (len(person.entries), len(listed))
    for h in range(len(person.entries)):
        rest = person.entries[:h] + person.entries[h + 1 :]
        rest_i = Known(rest, -1, person.age).scores()
        assert weight_hk[h].tolist() == [whole_i[row] - rest_i[row] for row in listed]


# -- requests drawn at random

ITEMS = st.sampled_from([*FILMS["item"], "10", "50", 11, "film", "010"])
TIMES = st.integers(0, 9).map(lambda day: 1000 * day)
ENTRIES = st.builds(Entry, ITEMS, st.sampled_from([None, 1, 2.0, 5.0]), TIMES, st.none())
UNTIMED = st.builds(
    Entry, ITEMS, st.sampled_from([None, 3.0]), st.one_of(st.none(), TIMES), st.none()
)
HISTORIES = st.one_of(
    st.lists(ITEMS, max_size=6),
    st.dictionaries(ITEMS, st.sampled_from([1, 2.0, 4.0]), max_size=6),
    st.lists(ENTRIES, max_size=6),
    st.lists(UNTIMED, max_size=6),
)
USER_IDS = st.sampled_from([*USERS, "1", "4"])


def rows_of_users(lists: list[list[int]]) -> Histories:
    """Histories of item rows, one for each list."""
    user_p = [b for b, rows in enumerate(lists) for _ in rows]
    item_p = [row for rows in lists for row in rows]
    return Histories.from_pairs(
        torch.tensor(user_p, dtype=torch.int64), torch.tensor(item_p, dtype=torch.int64), len(lists)
    )


def some_rows(n_users: int) -> st.SearchStrategy[Histories]:
    """Item rows of several users, drawn at random."""
    rows = st.sets(st.integers(0, 7)).map(sorted)
    return st.lists(rows, min_size=n_users, max_size=n_users).map(rows_of_users)


@st.composite
def requests(draw: st.DrawFn, few_filters: bool = False) -> Request:
    """Requests of every kind; with few filters, many of several are answered together."""
    asked: dict[str, Any] = {}
    kind = draw(st.sampled_from(["user", "users", "history", "histories"]))
    n_users = 1
    if kind == "user":
        asked["user"] = draw(USER_IDS)
    elif kind == "users":
        asked["users"] = draw(st.lists(USER_IDS, max_size=3))
        n_users = len(asked["users"])
    elif kind == "history":
        asked["history"] = draw(HISTORIES)
        asked["user_features"] = draw(st.sampled_from([None, {"age": 20}, {"age": 33}]))
    else:
        n_users = draw(st.integers(0, 3))
        asked["histories"] = draw(some_rows(n_users))
    asked["explain"] = draw(st.sampled_from([0, 0, 2]))
    rarely = st.integers(0, 9 if few_filters else 3).map(lambda n: n == 0)
    if draw(rarely):
        asked["seen"] = draw(some_rows(n_users))
    if draw(rarely):
        asked["probe"] = draw(some_rows(n_users))
    if few_filters:
        asked["k"] = draw(st.sampled_from([2, 9]))
        asked["exclude"] = draw(st.sampled_from([[], [20, 11]]))
        return Request(**asked)
    some = st.lists(ITEMS, max_size=6)
    return Request(
        **asked, k=draw(st.integers(1, 10)), exclude=draw(some),
        where=draw(st.sampled_from([None, None, *CONDITIONS])),
        candidates=draw(st.one_of(st.none(), some)),
        exclude_seen=draw(st.sampled_from([None, True, False])),
    )  # fmt: skip


@pytest.mark.parametrize("recommender", RECOMMENDERS, ids=["plain", "dotted"])
@settings(max_examples=60, deadline=None)
@given(request=requests())
def test_a_request_gets_the_lists_that_its_definition_gives(recommender, request):
    (answer,) = recommender.answer([request])
    check(request, answer)


@pytest.mark.parametrize("recommender", RECOMMENDERS, ids=["plain", "dotted"])
@settings(max_examples=25, deadline=None)
@given(group=st.lists(requests(few_filters=True), max_size=6))
def test_requests_answered_together_get_the_lists_that_each_defines(recommender, group):
    answers = recommender.answer(group)
    assert len(answers) == len(group)
    for request, answer in zip(group, answers, strict=True):
        check(request, answer)


@settings(max_examples=25, deadline=None)
@given(group=st.lists(requests(few_filters=True), min_size=2, max_size=5), data=st.data())
def test_a_diverse_list_is_the_same_alone_and_among_others(group, data):
    recommender = RECOMMENDERS[0]
    group = [replace(r, diversity=data.draw(st.sampled_from([0.0, 0.7]))) for r in group]
    for request, together in zip(group, recommender.answer(group), strict=True):
        (alone,) = recommender.answer([request])
        assert together.lists.item_bk.equal(alone.lists.item_bk)
        assert together.lists.score_bk.equal(alone.lists.score_bk)


def test_a_request_for_nobody_does_not_decide_what_others_have_seen():
    nobody = rows_of_users([])
    for first in (Request(users=[], seen=nobody), Request(users=[], probe=nobody)):
        group = [first, Request(user=1), Request(user=2)]
        for recommender in RECOMMENDERS:
            for request, answer in zip(group, recommender.answer(group), strict=True):
                check(request, answer)


def test_times_are_neither_lost_nor_lent_among_requests_answered_together():
    late_first = [Entry(20, 2.0, 5000), Entry(10, 4.0, 3000)]
    histories = [[20, 10], late_first, [], [*late_first, Entry(30)], [Entry(70, None, 1000)]]
    group = [Request(user=1), *(Request(history=history) for history in histories)]
    for recommender in RECOMMENDERS:
        for request, answer in zip(group, recommender.answer(group), strict=True):
            check(request, answer)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k": 3, "exclude": [10, 70]},
        {"where": "year >= 1990", "exclude_seen": False},
        {"k": 2, "diversity": 0.7},
        {"where": "1 = 2"},
    ],
)
@pytest.mark.parametrize("recommender", RECOMMENDERS, ids=["plain", "dotted"])
def test_an_export_holds_the_list_that_each_user_is_recommended(
    recommender, options, tmp_path, monkeypatch
):
    monkeypatch.setattr("foretaste.recommending.export.CHUNK_USERS", 3)
    written = pl.read_parquet(recommender.export(tmp_path / "lists.parquet", **options))
    lists = [recommender.recommend(users=[user], **options) for user in USERS]
    expected = pl.concat(lists).select("user", "item", "score", "rank")
    assert written.equals(expected)
    assert written.schema == expected.schema
