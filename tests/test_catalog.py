from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from foretaste.data import catalog as public_sets
from foretaste.data import fetching as catalog
from foretaste.data.building import build
from foretaste.data.canonical import CANONICAL, canonical_splits, canonical_test
from foretaste.data.catalog import CATALOG, CatalogEntry, DataFile
from foretaste.data.dataset import Dataset
from foretaste.data.download import Progress
from foretaste.data.fetching import data_folder, fetch_entry
from foretaste.data.reading import read
from foretaste.data.splitting import split
from foretaste.errors import DataError, FetchError, UsageError

ONE, TWO = b"one\n", b"two\n"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Shelf:
    """A source at hand, which counts how often it is asked and can fail."""

    files: dict[str, bytes]
    fails: str = ""
    place: str = "the shelf"
    asked: int = 0

    def bring(
        self, names: Sequence[str], work: Path, into: Path, progress: Progress | None
    ) -> None:
        self.asked += 1
        if self.fails:
            raise FetchError(self.fails)
        for name in names:
            if name in self.files:
                (into / name).write_bytes(self.files[name])


def tiny(*shelves: Shelf) -> CatalogEntry:
    files = (
        DataFile("one.csv", digest(ONE)),
        DataFile("two.csv", digest(TWO)),
        DataFile("README", needed=False),
    )
    sources: tuple = shelves
    return CatalogEntry("tiny", "Tiny", "none", "https://tiny.example", files, sources, read)


def full() -> Shelf:
    return Shelf({"one.csv": ONE, "two.csv": TWO, "README": b"read me"})


def listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_folder_is_the_one_given_then_the_environment_then_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("FORETASTE_DATA", "/somewhere")
    assert data_folder("/given") == Path("/given")
    assert data_folder() == Path("/somewhere")
    monkeypatch.delenv("FORETASTE_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data_folder() == tmp_path / "foretaste" / "data"
    for unusable in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        assert data_folder() == Path.home() / ".cache" / "foretaste" / "data"


def test_what_is_missing_is_brought_and_only_that_is_left(tmp_path: Path):
    path = fetch_entry(tiny(full()), tmp_path / "new" / "root")
    assert path == tmp_path / "new" / "root" / "tiny"
    assert listing(path) == full().files
    assert [p.name for p in path.parent.iterdir() if not p.name.startswith(".")] == ["tiny"]
    assert not (path.parent / ".tiny.fetching").exists()


def test_a_complete_folder_is_used_as_it_is(tmp_path: Path):
    shelf = full()
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "one.csv").write_bytes(ONE)
    (tmp_path / "tiny" / "two.csv").write_bytes(TWO)
    fetch_entry(tiny(shelf), tmp_path)
    assert shelf.asked == 0
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]  # nothing is written beside it


def test_a_read_only_folder_that_is_complete_is_used(tmp_path: Path):
    fetch_entry(tiny(full()), tmp_path)
    tmp_path.chmod(0o555)
    try:
        assert fetch_entry(tiny(), tmp_path) == tmp_path / "tiny"
    finally:
        tmp_path.chmod(0o755)


def test_a_folder_that_lacks_a_file_keeps_what_it_has(tmp_path: Path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "one.csv").write_bytes(ONE)
    (tmp_path / "tiny" / "README").write_bytes(b"mine")
    (tmp_path / "tiny" / "notes.txt").write_bytes(b"mine too")
    fetch_entry(tiny(full()), tmp_path)
    assert listing(tmp_path / "tiny") == {
        "one.csv": ONE, "two.csv": TWO, "README": b"mine", "notes.txt": b"mine too",
    }  # fmt: skip


def test_a_wrong_file_of_the_user_is_named_and_kept(tmp_path: Path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "one.csv").write_bytes(b"mine")
    shelf = full()
    with pytest.raises(FetchError) as raised:
        fetch_entry(tiny(shelf), tmp_path)
    assert str(raised.value) == (
        f"{tmp_path}/tiny/one.csv: SHA-256 is {digest(b'mine')}, expected {digest(ONE)}. Move it "
        f"away and fetch again, or read the folder as it is: foretaste.read('{tmp_path}/tiny')."
    )
    assert (listing(tmp_path / "tiny"), shelf.asked) == ({"one.csv": b"mine"}, 0)


def test_a_source_that_fails_is_told_in_one_line_and_the_next_is_tried(tmp_path: Path):
    said: list[str] = []
    away = Shelf({}, fails="no answer.", place="https://away.example")
    wrong = Shelf({"one.csv": b"?", "two.csv": TWO}, place="the wrong one")
    half = Shelf({"one.csv": ONE}, place="the half one")
    fetch_entry(tiny(away, wrong, half, full()), tmp_path, say=said.append)
    assert listing(tmp_path / "tiny") == full().files
    assert [re.sub(r"\d\.\d s", "T", line) for line in said] == [
        "tiny: tried https://away.example: no answer (T)",
        f"tiny: tried the wrong one: one.csv: SHA-256 is {digest(b'?')}, "
        f"expected {digest(ONE)} (T)",
        "tiny: tried the half one: two.csv is not in it (T)",
    ]


def test_with_no_source_left_the_error_says_where_to_put_which_file(tmp_path: Path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "one.csv").write_bytes(ONE)
    with pytest.raises(FetchError) as raised:
        fetch_entry(tiny(Shelf({}, fails="no answer.")), tmp_path)
    assert re.sub(r"\d\.\d s", "T", str(raised.value)).splitlines() == [
        "tiny cannot be fetched; tried the shelf: no answer (T). Get Tiny from "
        "https://tiny.example and put",
        f"  two.csv at {tmp_path}/tiny/two.csv",
        "or set FORETASTE_DATA to the folder that has a folder tiny.",
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny"]


def test_offline_nothing_is_asked_and_nothing_is_written(tmp_path: Path):
    shelf = full()
    with pytest.raises(FetchError, match=r"tried nothing, offline as asked\. Get Tiny from"):
        fetch_entry(tiny(shelf), tmp_path / "root", offline=True)
    assert shelf.asked == 0
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FetchError, match=r"file/root: cannot be written to: .* FORETASTE_DATA\.$"):
        fetch_entry(tiny(full()), tmp_path / "file" / "root")


def test_a_listener_who_has_gone_is_not_taken_for_a_full_disk(tmp_path: Path):
    def say(line: str) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        fetch_entry(tiny(Shelf({}, fails="no answer.")), tmp_path, say=say)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        UsageError, match=r"no data set 'ml-20m' in the catalog\. Use one of ml-100k, "
    ):
        catalog.fetch("ml-20m")


def test_a_file_may_be_known_by_a_second_checksum_or_by_its_size(tmp_path: Path):
    (tmp_path / "x").write_bytes(ONE)
    for file, right in (
        (DataFile("x"), True),
        (DataFile("x", digest(ONE)), True),
        (DataFile("x", digest(TWO)), False),
        (DataFile("x", digest(TWO), or_sha256=digest(ONE)), True),
        (DataFile("x", digest(TWO), or_size=len(ONE)), True),
        (DataFile("x", digest(TWO), or_size=9), False),
    ):
        assert (file.wrong(tmp_path / "x") == "") is right


def test_every_entry_has_its_checksums_its_licence_and_a_source():
    for name, entry in CATALOG.items():
        assert entry.name == name
        assert entry.licence
        assert entry.sources
        for file in entry.files:
            assert not file.needed or re.fullmatch("[0-9a-f]{64}", file.sha256)


@pytest.mark.parametrize("name", CATALOG)
def test_the_development_data_is_complete_by_the_catalog(name: str, data_folder: Path):
    if not (data_folder / name).is_dir():
        pytest.skip(f"FORETASTE_DATA does not hold {name}")
    assert catalog.fetch(name, data_folder, offline=True) == data_folder / name


@pytest.mark.parametrize(
    ("name", "rows", "users", "items"),
    [
        ("ml-100k", 100_000, 943, 1_682),
        ("ml-1m", 1_000_209, 6_040, 3_706),
        ("ml-latest-small", 100_836, 610, 9_724),
        ("gowalla-lightgcn", 1_027_370, 29_858, 40_981),
        ("the-movies-dataset", 100_004, 671, 9_066),
    ],
)
def test_a_data_set_loads_with_its_published_counts(
    name: str, rows: int, users: int, items: int, data_folder: Path
):
    ratings = catalog.load_dataset(name, data_folder, offline=True)
    assert (len(ratings), len(ratings.users), len(ratings.items)) == (rows, users, items)
    assert (ratings.name, ratings.report.rows) == (name, rows)
    assert ratings.explicit == (name != "gowalla-lightgcn")


def test_a_table_of_films_is_a_catalogue_without_interactions(data_folder: Path):
    if not (data_folder / "tmdb5000").is_dir():
        pytest.skip("FORETASTE_DATA does not hold tmdb5000")
    films = catalog.load_dataset("tmdb-5000", data_folder, offline=True)
    assert (len(films), len(films.items), films.name) == (0, 4803, "tmdb5000")
    assert films.item_table is not None
    assert films.item_table["title"].null_count() == 0


def test_tmdb_5000_says_where_to_put_its_file(tmp_path: Path):
    with pytest.raises(FetchError) as raised:
        catalog.fetch("tmdb-5000", tmp_path, offline=True)
    said = str(raised.value)
    assert "https://www.kaggle.com/datasets/tmdb/tmdb-movie-metadata" in said
    assert f"tmdb_5000_movies.csv at {tmp_path / 'tmdb5000' / 'tmdb_5000_movies.csv'}" in said


def test_the_mirror_gives_the_published_layout(tmp_path: Path):
    raw, into = tmp_path / "raw", tmp_path / "into"
    raw.mkdir()
    into.mkdir()
    (raw / "ml-100k.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t242\t3\t881250949\n"
    )
    (raw / "ml-100k.user").write_text(
        "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
        "1\t24\tM\ttechnician\t85711\n"
    )
    (raw / "ml-100k.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "1\tToy Story\t1995\tAnimation Children's Comedy\n"
        "267\tunkonwn\tunkonwn\tunknown\n"
        "1369\tForbidden Christmas, The (Das Mädchen)\t1996\tDrama\n",
        encoding="utf-8",
    )
    public_sets._from_recbole(raw, into)
    assert listing(into) == {
        "u.data": b"196\t242\t3\t881250949\n",
        "u.user": b"1|24|M|technician|85711\n",
        "u.item": (
            "1|Toy Story (1995)||||0|0|0|1|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
            "267|unknown||||1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
            "1369|Forbidden Christmas, The (Das Mädchen) (1996)||||"
            "0|0|0|0|0|0|0|0|1|0|0|0|0|0|0|0|0|0|0\n"
        ).encode("latin-1"),
    }


@pytest.fixture
def mirrored(data_folder: Path, tmp_path: Path) -> Path:
    """A folder as the mirror makes it, from the publisher's files turned into the mirror's."""
    raw, target = tmp_path / "raw", tmp_path / "ml-100k"
    raw.mkdir()
    target.mkdir()
    published = data_folder / "ml-100k"
    ratings, users = (published / "u.data").read_text(), (published / "u.user").read_text()
    (raw / "ml-100k.inter").write_text("header\n" + ratings)
    (raw / "ml-100k.user").write_text("header\n" + users.replace("|", "\t"))
    items = ["header"]
    for line in (published / "u.item").read_text("latin-1").splitlines():
        item, title, _, _, _, *flags = line.split("|")
        named, _, year = title.rstrip().removesuffix(")").rpartition(" (")
        genres = [g for g, f in zip(public_sets.GENRES_100K, flags, strict=True) if f == "1"]
        row = [item, named, year] if named else [item, "unkonwn", "unkonwn"]
        items.append("\t".join([*row, " ".join(genres)]))
    (raw / "ml-100k.item").write_text("\n".join(items) + "\n", encoding="utf-8")
    public_sets._from_recbole(raw, target)
    return target


def test_the_mirror_gives_the_same_dataset_as_the_publisher(mirrored: Path, data_folder: Path):
    ours = catalog.load_dataset(
        "ml-100k", mirrored.parent, offline=True
    )  # checksums are right, then
    theirs = catalog.load_dataset("ml-100k", data_folder, offline=True)
    assert ours.fingerprint == theirs.fingerprint
    assert ours.user_table is not None
    assert theirs.user_table is not None
    assert ours.user_table.equals(theirs.user_table)
    assert ours.item_table is not None
    assert theirs.item_table is not None
    assert ours.item_table.equals(theirs.item_table)


def pairs(dataset: Dataset, mark_r: np.ndarray) -> set[tuple[int, int]]:
    x = dataset.interactions
    users, items = dataset.users[x.user_r[mark_r]], dataset.items[x.item_r[mark_r]]
    return set(zip(users.to_list(), items.to_list(), strict=True))


@pytest.mark.parametrize("which", ["u1", "u2", "u3", "u4", "u5", "ua", "ub"])
def test_a_split_of_movielens_100k_is_the_published_file(which: str, data_folder: Path):
    ratings = catalog.load_dataset("ml-100k", data_folder, offline=True)
    test_r = canonical_test(ratings, "ml-100k", which)
    for part, mark_r in (("test", test_r), ("base", ~test_r)):
        lines = (data_folder / "ml-100k" / f"{which}.{part}").read_text().splitlines()
        assert pairs(ratings, mark_r) == {
            (int(user), int(item)) for user, item, *_ in (line.split("\t") for line in lines)
        }


def test_the_split_of_gowalla_is_the_published_file(data_folder: Path):
    if not (data_folder / "gowalla-lightgcn").is_dir():
        pytest.skip("FORETASTE_DATA does not hold gowalla-lightgcn")
    ratings = catalog.load_dataset("gowalla-lightgcn", data_folder, offline=True)
    test_r = canonical_test(ratings, "gowalla-lightgcn", "lightgcn")
    published = set()
    for line in (data_folder / "gowalla-lightgcn" / "test.txt").read_text().splitlines():
        user, *items = map(int, line.split())
        published |= {(user, item) for item in items}
    assert pairs(ratings, test_r) == published


def rows(n: int, n_users: int = 500) -> Dataset:
    """n clicks in a file order that is not the order by user."""
    row = np.arange(n)
    return build(pl.Series(row * 7 % n_users), pl.Series(row // n_users), None, None)


@pytest.mark.parametrize(
    ("name", "which", "seed", "n", "n_test"),
    [
        ("ml-1m", "article", 1, 1_000_209, 200_042),
        ("ml-1m", "90-10", 0, 1_000_209, 100_021),
        ("ml-latest-small", "80-20", 42, 100_836, 20_168),
    ],
)
def test_a_drawn_split_is_the_first_of_the_permutation_of_file_rows(
    name: str, which: str, seed: int, n: int, n_test: int
):
    dataset = rows(n)
    drawn = np.random.RandomState(seed).permutation(n)[:n_test]
    test_r = canonical_test(dataset, name, which)
    assert set(dataset.interactions.order_r[test_r].tolist()) == set(drawn.tolist())
    assert test_r.sum() == n_test


@pytest.mark.parametrize(("which", "low", "high"), [("ua", 0, 10), ("ub", 10, 20)])
def test_ua_and_ub_take_ten_of_each_user_in_file_order(which: str, low: int, high: int):
    dataset = rows(100_000)
    x = dataset.interactions
    test_r = canonical_test(dataset, "ml-100k", which)
    for user in (0, 1, 250, 499):
        order = np.sort(x.order_r[x.user_r == user])
        tested = np.sort(x.order_r[(x.user_r == user) & test_r])
        np.testing.assert_array_equal(tested, order[low:high])


def test_the_five_folds_of_movielens_100k_cover_every_rating_once():
    dataset = rows(100_000)
    folds = sum(canonical_test(dataset, "ml-100k", f"u{k}").astype(int) for k in range(1, 6))
    assert (np.asarray(folds) == 1).all()


def test_a_part_of_a_data_set_has_no_canonical_split():
    dataset = rows(100_000)
    part = dataset.take(dataset.interactions.order_r < 99_999)
    with pytest.raises(DataError) as raised:
        canonical_test(part, "ml-100k", "u1")
    assert str(raised.value) == (
        "ratings: the split 'u1' is defined on all 100,000 interactions of ml-100k, here are "
        "99,999. Give all of it, no row dropped."
    )


@pytest.mark.parametrize(
    ("name", "more"), [("ml-1m", ", strong, strong-validation, article, 90-10"), ("ratings", "")]
)
def test_an_unknown_split_lists_the_known_ones(name: str, more: str):
    with pytest.raises(UsageError) as raised:
        canonical_test(rows(10), name, "u9")
    assert str(raised.value) == (
        f"no split 'u9' of {name!r}. Use one of random, leave-last, next-item, time, users{more}."
    )


def rated(n: int, n_users: int) -> Dataset:
    """n interactions, five levels of rating."""
    row = np.arange(n)
    value = pl.Series((row % 5 + 1).astype(np.float32))
    return build(pl.Series(row * 7 % n_users), pl.Series(row // n_users), value, None)


def pairs_of(dataset: Dataset) -> set[tuple[int, int]]:
    return set(dataset.frame().select("user", "item").iter_rows())


def test_strong_generalisation_holds_out_two_tenths_of_the_users_who_liked_five():
    dataset = replace(rated(1_000_209, 4_001), name="ml-1m")
    likes = dataset.frame().filter(pl.col("value") >= 4).group_by("user").agg("item")
    likes = {user: sorted(items) for user, items in likes.iter_rows() if len(items) >= 5}
    users = sorted(likes)
    permuted = np.random.RandomState(98_765).permutation(len(users))
    n_held = round(len(users) / 10)
    held = {"strong": permuted[-n_held:], "strong-validation": permuted[-2 * n_held : -n_held]}
    for how, asked in held.items():
        parts = split(dataset, how)
        rng = np.random.RandomState(98_765)
        hidden = set()
        for user in sorted(users[row] for row in asked):
            n = len(likes[user])
            chosen = rng.choice(n, max(1, int(0.2 * n)), replace=False)
            hidden |= {(user, likes[user][place]) for place in chosen}
        assert pairs_of(parts.test) == hidden
        of_asked = {(users[row], item) for row in asked for item in likes[users[row]]}
        assert pairs_of(parts.history) == of_asked - hidden
        kept = permuted[: -2 * n_held]
        assert pairs_of(parts.train) == {(users[r], i) for r in kept for i in likes[users[r]]}
        assert not parts.train.explicit


def test_a_split_of_whole_users_is_no_mark_of_interactions():
    with pytest.raises(UsageError) as raised:
        canonical_test(rows(1_000_209), "ml-1m", "strong")
    assert str(raised.value) == (
        "the split 'strong' of 'ml-1m' divides histories. Ask `split` for its parts."
    )


def test_canonical_splits_are_described():
    assert CANONICAL.keys() <= CATALOG.keys()
    assert canonical_splits("ml-1m")["article"].startswith("80/20: numpy.random.RandomState(1)")
    assert canonical_splits("tmdb5000") == {}


def test_gowalla_is_read_as_train_then_test(tmp_path: Path):
    folder = tmp_path / "gowalla-lightgcn"
    folder.mkdir()
    (folder / "train.txt").write_text("0 5 6\n1 5\n")
    (folder / "test.txt").write_text("0 7\n1 6 8\n")
    ratings = public_sets._read_gowalla(folder)
    x = ratings.interactions
    first = np.argsort(x.order_r)
    users, items = ratings.users[x.user_r[first]], ratings.items[x.item_r[first]]
    in_file = list(zip(users, items, strict=True))
    assert in_file == [(0, 5), (0, 6), (1, 5), (0, 7), (1, 6), (1, 8)]
    assert ratings.report.rows == 6


def test_fetch_and_load_look_in_the_folder_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FORETASTE_DATA", str(tmp_path))
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "one.csv").write_bytes(ONE)
    (tmp_path / "tiny" / "two.csv").write_bytes(TWO)
    readable = replace(tiny(), read=lambda path: rows(len(os.listdir(path))))
    monkeypatch.setitem(CATALOG, "tiny", readable)
    assert catalog.fetch("tiny") == tmp_path / "tiny"
    loaded = catalog.load_dataset("tiny", offline=True)
    assert (loaded.name, len(loaded)) == ("tiny", 2)
