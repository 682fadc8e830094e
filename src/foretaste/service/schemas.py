"""What may come in over HTTP, with its limits, and what goes out."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import unquote

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
)

from foretaste.recommending.filters import LONGEST_CONDITION

LONGEST_ID = 256  # characters
LONGEST_LIST = 1000  # k, history, items, events in one request
LONGEST_EXCLUSION = 10_000
LATEST = 253_402_300_799_999  # ms: the year 9999


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain the character NUL")
    return text


def _decoded(text: object) -> object:
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
Time = Annotated[int, Field(ge=0, le=LATEST, description="milliseconds since 1970 UTC")]
Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
RequestId = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[\w.-]+$")]
Fields = Annotated[dict[Id, str | int | float | bool | None], Field(max_length=100)]


class Strict(BaseModel):
    """A field that does not exist is an error, not silence."""

    model_config = ConfigDict(extra="forbid")


class Rated(Strict):
    """One entry of a history; without a value it counts as liked."""

    item: Id
    value: Value | None = None
    time: Time | None = None


class Person(Strict):
    """Someone the service knows, or someone described by a history: exactly one of the two."""

    user: Id | None = None
    history: Annotated[list[Rated], Field(max_length=LONGEST_LIST)] | None = None
    user_features: Fields | None = None  # with a history: columns of the bundle's users

    def model_post_init(self, _: Any) -> None:
        """One of the two must be given."""
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
    exclude_seen: bool = True
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
        """Whether it has no filter and no re-ranking: such requests are answered together."""
        filtered = self.where or self.exclude or self.candidates is not None
        return self.exclude_seen and not (filtered or self.diversity or self.explain)


class Predict(Person):
    """A request for ratings of items."""

    items: Annotated[list[Id], Field(min_length=1, max_length=LONGEST_LIST)]
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"user": "42", "items": ["50", "172"]}]}
    )


class Explain(Person):
    """A question why an item is listed for someone, or is not."""

    item: Id
    where: Condition | None = None
    exclude: Annotated[list[Id], Field(max_length=LONGEST_EXCLUSION)] = []
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"user": "42", "item": "181"}]}
    )


class Feedback(Strict):
    """A user did something with an item; without a value it counts as liked, without a time now."""

    user: Id
    item: Id
    value: Value | None = None
    time: Time | None = None
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
    """How much one item of the history carried a recommendation."""

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
    """A list, best first."""

    request_id: str
    model_version: str
    items: list[Listed]
    unknown: list[str] | None = None  # ids of the request that were ignored


class Explained(BaseModel):
    """Where an item stands in the full list, and what speaks for it."""

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
    """Ratings in the order of the items asked for."""

    model_version: str
    predictions: list[Predicted]


class Similar(BaseModel):
    """Items near another, nearest first."""

    model_version: str
    items: list[Listed]


class Item(BaseModel):
    """An item and its fields."""

    id: str
    fields: dict[str, Any]


class Items(BaseModel):
    """Items found, and where to go on."""

    items: list[Item]
    next: str | None


class Accepted(BaseModel):
    """How many were accepted: they are on disk."""

    accepted: int


class Removed(BaseModel):
    """How many events of the store were removed."""

    removed: int


class Entry(BaseModel):
    """One entry of a user's history.  source: the bundle, or an event since."""

    item: str
    value: float
    time: int | None
    source: str


class History(BaseModel):
    """What a user did, as the model sees it, oldest first."""

    user: str
    entries: list[Entry]


class Column(BaseModel):
    """An item column that `where` can use.  kind: number, text or labels (separated by "|")."""

    name: str
    kind: str
    min: float | None = None
    max: float | None = None
    labels: list[str] | None = None


class Point(BaseModel):
    """An item on the map; x and y lie in -1 to 1."""

    id: str
    x: float
    y: float
    label: str
    group: str | None


class Map(BaseModel):
    """Every item at a place: similar ones are near each other."""

    items: list[Point]


class Said(BaseModel):
    """What went wrong, where, and what to do."""

    code: str
    what: str
    where: str = ""
    fix: str = ""


class Refusal(BaseModel):
    """The body of every error."""

    error: Said
