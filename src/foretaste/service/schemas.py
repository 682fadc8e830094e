"""What may come in over HTTP, with its limits, and what goes out.

The schemas know nothing of a bundle: whether an id or a column exists is found out later.
"""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import unquote

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
)

from foretaste.recommending.filters import LONGEST_CONDITION

LONGEST_ID = 256  # characters
LONGEST_LIST = 1000  # of k, and of a history, items or events in one request
LONGEST_EXCLUSION = 10_000  # ids
LATEST = 253_402_300_799_999  # milliseconds since 1970 UTC: the end of the year 9999


def _storable(text: str) -> str:
    """Refuse what PostgreSQL cannot keep."""
    if "\0" in text:
        raise ValueError("must not contain the character NUL")
    return text


def _decoded(text: object) -> object:
    """Return a part of a path without percent-encoding."""
    return unquote(text, errors="strict") if isinstance(text, str) else text


Id = Annotated[
    str,
    StringConstraints(min_length=1, max_length=LONGEST_ID),
    AfterValidator(_storable),
    Field(examples=["50"]),
]
PathId = Annotated[Id, BeforeValidator(_decoded)]  # the path is routed before it is decoded
Many = Annotated[int, Field(ge=1, le=LONGEST_LIST)]
Condition = Annotated[
    str,
    StringConstraints(min_length=1, max_length=LONGEST_CONDITION),
    AfterValidator(_storable),
    Field(examples=["year >= 1990 AND genres LIKE '%Drama%'"]),
]
Value = Annotated[float, Field(allow_inf_nan=False, examples=[4.0])]
Kind = Annotated[
    str,
    StringConstraints(min_length=1, max_length=LONGEST_ID),
    AfterValidator(_storable),
    Field(description="a kind of event of the bundle, such as view; value is its amount then"),
]
Time = Annotated[int, Field(ge=0, le=LATEST, description="milliseconds since 1970 UTC")]
Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
RequestId = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[\w.-]+$")]
Fields = Annotated[dict[Id, str | int | float | bool | None], Field(max_length=100)]


class Strict(BaseModel):
    """A body in which a field that does not exist is an error."""

    model_config = ConfigDict(extra="forbid")


class Rated(Strict):
    """One entry of a history; without a value the item counts as liked."""

    item: Id
    value: Value | None = None
    time: Time | None = None
    kind: Kind | None = None


class Person(Strict):
    """Whom a request is for: a user by id, or a new user by a history."""

    user: Id | None = None
    history: Annotated[list[Rated], Field(max_length=LONGEST_LIST)] | None = None
    user_features: Fields | None = Field(
        default=None,
        validation_alias=AliasChoices("user_features", "about"),  # its name in 0.1.0
        description="What else is known of a new user, by the columns of the bundle's users.",
    )

    def model_post_init(self, _: Any) -> None:
        """Refuse a request that names no user, or two."""
        if (self.user is None) == (self.history is None):
            raise ValueError("give exactly one of user and history")
        if self.user_features and self.history is None:
            raise ValueError("user_features go with a history")


class Recommend(Person):
    """A request for a list."""

    k: Many = 10
    where: Condition | None = None
    exclude: Annotated[list[Id], Field(max_length=LONGEST_EXCLUSION)] = []
    candidates: Annotated[list[Id], Field(max_length=LONGEST_EXCLUSION)] | None = None
    exclude_seen: bool | None = Field(
        default=None, description="whether items of the history are left out; null: as the data are"
    )
    diversity: Share = 0.0
    explain: bool = False
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"history": [{"item": "50", "value": 5}, {"item": "172"}], "k": 5, "explain": True},
                {"user": "42", "where": "year >= 1990"},
            ]
        },
    )

    @property
    def plain(self) -> bool:
        """Whether it may be answered with others: it has no filter, no re-ranking, no reasons."""
        filtered = self.where or self.exclude or self.candidates is not None
        return self.exclude_seen is None and not (filtered or self.diversity or self.explain)


class Predict(Person):
    """A request for ratings of items."""

    items: Annotated[list[Id], Field(min_length=1, max_length=LONGEST_LIST)]
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"user": "42", "items": ["50", "172"]}]}
    )


class Explain(Person):
    """A question why an item is listed for a user, or is not."""

    item: Id
    where: Condition | None = None
    exclude: Annotated[list[Id], Field(max_length=LONGEST_EXCLUSION)] = []
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"user": "42", "item": "181"}]}
    )


class Feedback(Strict):
    """What a user did with an item: without a value it was liked, without a time it is now.

    Without a kind it is of the kind that is to be predicted, where the bundle has kinds.
    """

    user: Id
    item: Id
    value: Value | None = None
    time: Time | None = None
    kind: Kind | None = None
    request_id: RequestId | None = None
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"user": "42", "item": "50", "value": 5}]},
    )


Feedbacks = Feedback | Annotated[list[Feedback], Field(min_length=1, max_length=LONGEST_LIST)]


class Description(Strict):
    """The fields of a user or an item."""

    fields: Fields
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"fields": {"title": "Alien", "year": 1979}}]},
    )


class Reason(BaseModel):
    """How much one item of the history adds to the score of a listed item."""

    item: str
    weight: float
    share: float
    fields: dict[str, Any] = {}


class Listed(BaseModel):
    """One line of a list."""

    id: str
    score: float
    rank: int
    fields: dict[str, Any]
    reasons: list[Reason] | None = None
    rating: float | None = None
    std: float | None = None


class Recommended(BaseModel):
    """A list of items, best first."""

    request_id: str
    model_version: str
    items: list[Listed]
    unknown: list[str] | None = Field(
        default=None, description="Ids of the request that were ignored: they are not served."
    )


class Explained(BaseModel):
    """The place of an item in the full list, and what each item of the history adds to it."""

    model_version: str
    item: str
    score: float
    rank: float | None
    candidates: int
    reasons: list[Reason]
    why_not: str


class Predicted(BaseModel):
    """The expected rating of an item, and its standard deviation where the model has one."""

    id: str
    rating: float
    std: float | None


class Predictions(BaseModel):
    """Expected ratings, in the order of the items in the request."""

    model_version: str
    predictions: list[Predicted]


class Similar(BaseModel):
    """The items nearest to another, the nearest first."""

    model_version: str
    items: list[Listed]


class Item(BaseModel):
    """An item and its fields."""

    id: str
    fields: dict[str, Any]


class Items(BaseModel):
    """One page of items, and the cursor of the next; null after the last page."""

    items: list[Item]
    next: str | None


class Accepted(BaseModel):
    """How many events or descriptions were accepted; they are on disk."""

    accepted: int


class Removed(BaseModel):
    """How many events were removed from the store."""

    removed: int


class Entry(BaseModel):
    """One entry of a user's history; source is "bundle" or, for what came since, "event"."""

    item: str
    value: float
    kind: str | None = None
    time: int | None
    source: str


class History(BaseModel):
    """What a user did, as the model gets it, oldest first."""

    user: str
    entries: list[Entry]


class Column(BaseModel):
    """An item column that `where` can use; kind is "number", "text" or "labels" (with "|")."""

    name: str
    kind: str
    min: float | None = None
    max: float | None = None
    labels: list[str] | None = None


class Point(BaseModel):
    """The place of an item on the map; x and y lie in -1 to 1."""

    id: str
    x: float
    y: float
    label: str
    group: str | None


class Map(BaseModel):
    """The place of every item: similar items are near each other."""

    items: list[Point]


class Problem(BaseModel):
    """What went wrong, where, and what to do about it."""

    code: str
    what: str
    where: str = ""
    fix: str = ""


class Refusal(BaseModel):
    """The body of every error."""

    error: Problem
