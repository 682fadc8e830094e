"""Commands that ask a bundle: recommend, predict, similar, explain and add-items."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from foretaste.bundle import refuse_foreign
from foretaste.cli.options import Bundle, Diversity, Json
from foretaste.cli.show import emit, say, seconds, show_frame
from foretaste.cli.values import history_of, ids_from, user_features_from
from foretaste.errors import UsageError
from foretaste.recommending.fitting import load
from foretaste.recommending.request import Entry, Request

User = Annotated[str | None, typer.Option(help="A user of the training data.")]
HistoryText = Annotated[
    list[str] | None,
    typer.Option(
        "--history",
        help="History of a new user: ids (liked) or id=rating, with commas; repeatable. An id with "
        "a comma or an equals sign stands in quotes.",
    ),
]
HistoryFile = Annotated[
    Path | None,
    typer.Option(help="History of a new user: a table of items, with ratings, or an id a line."),
]

UserFeatures = Annotated[
    str | None,
    typer.Option(
        "--user-features",
        "--about",
        help="What else is known of a new user, by column: gender=F,age=25; formerly --about.",
    ),
]
IncludeSeen = Annotated[
    bool | None,
    typer.Option(
        "--include-seen/--exclude-seen",
        help="Whether items of the history are listed too; by default only where the data "
        "repeat, as purchases of groceries do.",
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(help="Ids of items that are not listed, with commas; repeatable."),
]


def recommend(
    bundle: Bundle,
    user: User = None,
    history: HistoryText = None,
    history_file: HistoryFile = None,
    user_features: UserFeatures = None,
    k: Annotated[int, typer.Option("--k", "-k", help="Length of the list.")] = 10,
    where: Annotated[
        str | None, typer.Option(help="A condition on the item columns: year >= 1990")
    ] = None,
    exclude: Exclude = None,
    include_seen: IncludeSeen = None,
    diversity: Diversity = 0.0,
    all_users: Annotated[
        bool, typer.Option("--all-users", help="Make a list for every user, into the file --out.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="A Parquet file: user, item, score, rank.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the best items for a user, for a new user with a history, or for everyone.

    Example: foretaste recommend bundle --history "50,172,181"
    """
    if all_users != (out is not None) or (all_users and (user or history or history_file)):
        raise UsageError(
            "--all-users and --out go together, without --user and --history.",
            fix="Write --all-users --out recommendations.parquet.",
        )
    if out is not None:
        recommender, started = load(bundle), time.monotonic()
        recommender.export(
            out, k, where=where, exclude=ids_from(exclude, "--exclude"),
            exclude_seen=_left_out(include_seen), diversity=diversity, progress=True,
        )  # fmt: skip
        users, took = len(recommender.dataset.users), time.monotonic() - started
        if as_json:
            emit({"out": out, "users": users, "seconds": took})
        else:
            say(f"{out}: lists of {users:,} users in {seconds(took)}.")
        return
    past = _asked(user, history, history_file)
    recommender = load(bundle)
    (answer,) = recommender.answer(
        [
            Request(
                user, history=past,
                user_features=user_features_from(user_features) or None, k=k, where=where,
                exclude=ids_from(exclude, "--exclude"), exclude_seen=_left_out(include_seen),
                diversity=diversity,
            )
        ]
    )  # fmt: skip
    show_frame(recommender.frame(answer), as_json, unknown=answer.unknown)
    if not as_json and max(answer.fallback_b, default=0.0) > 0:
        say(
            f"Popularity has {max(answer.fallback_b):.0%} of the say: little is known of this user."
        )


def _left_out(include_seen: bool | None) -> bool | None:
    """Return whether seen items are left out; None where nobody said, and the data decide."""
    return None if include_seen is None else not include_seen


def predict(
    bundle: Bundle,
    items: Annotated[
        list[str], typer.Option("--items", "--item", help="Item ids, with commas; repeatable.")
    ],
    user: User = None,
    history: HistoryText = None,
    history_file: HistoryFile = None,
    user_features: UserFeatures = None,
    as_json: Json = False,
) -> None:
    """Predict the ratings that a user, or a new user with a history, would give to items.

    Example: foretaste predict bundle --user 42 --items 50,172
    """
    past = _asked(user, history, history_file)
    asked = ids_from(items, "--items")
    if user is not None:
        frame = load(bundle).predict(
            [user], asked, user_features=user_features_from(user_features) or None
        )
    else:
        frame = load(bundle).predict(
            items=asked,
            history=past,
            user_features=user_features_from(user_features),
        )
    show_frame(frame, as_json)


def _asked(
    user: str | None, history: list[str] | None, file: Path | None
) -> list[str] | dict[str, float] | list[Entry] | None:
    """Return the history that is asked about; refuse a question that names no user, or two."""
    if (user is None) == (history is None and file is None):
        raise UsageError(
            "give either --user or --history.",
            fix="Describe a new user: --history 50=5,172=3.",
        )
    return history_of(history, file)


def similar(
    bundle: Bundle,
    item: Annotated[str, typer.Argument(help="An item id.")],
    k: Annotated[int, typer.Option("--k", "-k", help="Length of the list.")] = 10,
    as_json: Json = False,
) -> None:
    """List the items nearest to one, by cosine of the model's item vectors.

    Example: foretaste similar bundle 50
    """
    show_frame(load(bundle).similar(item, k=k), as_json)


def add_items(
    bundle: Bundle,
    items: Annotated[Path, typer.Argument(help="A table of new items: ids and item columns.")],
    out: Annotated[Path, typer.Option(help="Folder of the new bundle.")],
    as_json: Json = False,
) -> None:
    """Add new items to a bundle, placed by their columns; nothing is trained again.

    Example: foretaste add-items bundle new-films.csv --out bundle2
    """
    refuse_foreign(out)
    known = load(bundle)
    grown = known.with_items(items)
    grown.save(out)
    rows = slice(len(known.dataset.items), None)
    added = grown.dataset.items.values[rows].to_list()
    if as_json:
        emit({"bundle": out, "added": added, "items": len(grown.dataset.items)})
        return
    say(f"{len(added):,} items added, {len(grown.dataset.items):,} in all.")
    say(f"Bundle: {out}")
    say(f"Next: {shlex.join(['foretaste', 'similar', str(out), str(added[0])])}")


def explain(
    bundle: Bundle,
    item: Annotated[str, typer.Option(help="The item to be explained.")],
    user: User = None,
    history: HistoryText = None,
    history_file: HistoryFile = None,
    user_features: UserFeatures = None,
    as_json: Json = False,
) -> None:
    """Explain why an item is listed or not: what its score loses without items of the history.

    Example: foretaste explain bundle --user 42 --item 181
    """
    past = _asked(user, history, history_file)
    features = user_features_from(user_features)
    recommender = load(bundle)
    carried = recommender.explain(user, history=past, item=item, user_features=features)
    place = recommender.place(Request(user, history=past, user_features=features), item)
    if as_json:
        emit({"place": vars(place), "rows": carried.to_dicts()})
        return
    say(f"{item}: score {place.score:.4f}. {place.why}")
    show_frame(carried.head(10), as_json)
