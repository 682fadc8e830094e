"""The public data sets: where each comes from and how its files are recognised.

The module downloads nothing: `fetching.py` asks the sources that stand here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from foretaste.bundle import atomic_write
from foretaste.data.building import build, items_only
from foretaste.data.dataset import Dataset, ReadReport
from foretaste.data.download import Files, Source, Wheel, Zip, sha256
from foretaste.data.reading import read
from foretaste.data.reading.items import read_items
from foretaste.data.reading.movielens import GENRES_100K
from foretaste.data.unpacking import Limits, MiB

_GROUPLENS = "Research only, no redistribution, no commercial use without permission (GroupLens)."
_GITHUB = "https://raw.githubusercontent.com/"
_KAGGLE = "https://www.kaggle.com/api/v1/datasets/download/"


@dataclass(frozen=True)
class DataFile:
    """A file of a data set, and how it is recognised.

    Args:
        name: Its name.
        sha256: The SHA-256 that it should have; "" where it is not checked.
        or_sha256: Another one that is as good.
        or_size: A size in bytes that is as good.
        needed: Whether the data set cannot be read without it.
    """

    name: str
    sha256: str = ""
    or_sha256: str = ""
    or_size: int | None = None
    needed: bool = True

    def wrong(self, path: Path) -> str:
        """Return what is wrong with a file, a sentence, or "".

        Args:
            path: Where the file is.
        """
        expected = [known for known in (self.sha256, self.or_sha256) if known]
        if not expected or path.stat().st_size == self.or_size:
            return ""
        got = sha256(path)
        return "" if got in expected else f"SHA-256 is {got}, expected {' or '.join(expected)}."


@dataclass(frozen=True)
class CatalogEntry:
    """A public data set.

    Args:
        name: Its short name, which is also that of its folder.
        title: Its name in full.
        licence: What its publisher allows, a sentence.
        home: The page of its publisher.
        files: Its files.
        sources: Where it can be downloaded, in the order in which they are tried.
        read: Makes a Dataset of its folder.
    """

    name: str
    title: str
    licence: str
    home: str
    files: tuple[DataFile, ...]
    sources: tuple[Source, ...]
    read: Callable[[Path], Dataset]


def _read_films(path: Path) -> Dataset:
    """Return films without ratings, a catalogue."""
    return items_only(read_items(path))


def _read_ratings_small(path: Path) -> Dataset:
    return read(path / "ratings_small.csv")


def _read_gowalla(path: Path) -> Dataset:
    """Return train.txt and test.txt as one Dataset, ordered by position in the two files."""
    parts = [read(path / file, layout="lists") for file in ("train.txt", "test.txt")]
    user, item, order, start = [], [], [], 0
    for part in parts:
        user.append(part.users[part.interactions.user_r])
        item.append(part.items[part.interactions.item_r])
        order.append(pl.Series(part.interactions.order_r + start))
        start += part.report.rows
    report = ReadReport(source=str(path), rows=start)
    return build(
        pl.concat(user), pl.concat(item), None, None, order=pl.concat(order), report=report
    )


def _from_recbole(raw: Path, into: Path) -> None:
    """Write the publisher's files of MovieLens 100K from those that RecBole carries.

    u.data and u.user are the published ones, byte for byte. u.item has the published ids, titles
    and genres, but no release days and no URLs, and three titles lack a space at their end.
    """
    ratings, users, items = (
        (raw / f"ml-100k.{kind}").read_text("utf-8").splitlines()[1:]  # the first is a header
        for kind in ("inter", "user", "item")
    )
    atomic_write(into / "u.data", _lines(ratings))
    atomic_write(into / "u.user", _lines(row.replace("\t", "|") for row in users))
    atomic_write(into / "u.item", _lines(map(_item_line, items)).encode("latin-1"))


def _lines(rows: Iterable[str]) -> str:
    return "".join(row + "\n" for row in rows)


def _item_line(row: str) -> str:
    """Return a line of u.item from one of ml-100k.item: id, title, year and genres in words."""
    item, title, year, genres = row.split("\t")
    # One film has no title and no year; RecBole spells that "unkonwn".
    named = "unknown" if title == "unkonwn" else f"{title} ({year})"
    flags = ["01"[genre in genres.split()] for genre in GENRES_100K]
    return "|".join([item, named, "", "", "", *flags])


_RECBOLE = Wheel(
    "recbole==1.2.1",
    sha256="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
    inside="recbole/dataset_example/ml-100k/",
    members=("ml-100k.inter", "ml-100k.item", "ml-100k.user"),
    convert=_from_recbole,
)


def _grouplens(name: str, sha256: str) -> Zip:
    url = f"https://files.grouplens.org/datasets/movielens/{name}.zip"
    return Zip(url, sha256, inside=f"{name}/")


_ENTRIES = (
    CatalogEntry(
        "ml-100k",
        "MovieLens 100K",
        _GROUPLENS,
        "https://grouplens.org/datasets/movielens/100k/",
        (
            DataFile("u.data", "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490"),
            DataFile(
                "u.item",
                "553841ebc7de3a0fd0d6b62a204ea30c1e651aacfb2814c7a6584ac52f2c5701",
                # As _from_recbole makes it.
                or_sha256="7698249c0dabca2a0600405079b8f79ea3543313e8c309d13e08b68af34fe12e",
            ),
            DataFile("u.user", "f120e114da2e8cf314fd28f99417c94ae9ddf1cb6db8ce0e4b5995d40e90e62c"),
            DataFile("README", needed=False),
        ),
        (
            _grouplens(
                "ml-100k", "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229"
            ),
            _RECBOLE,
        ),
        read,
    ),
    CatalogEntry(
        "ml-1m",
        "MovieLens 1M",
        _GROUPLENS,
        "https://grouplens.org/datasets/movielens/1m/",
        (
            DataFile(
                "ratings.dat",
                # That of our reconstruction; of the published file we know only the size, and the
                # SHA-256 of its archive.
                "93d0a964200ef4e7ea7bc2d238870d7194b9290791a63d8f52781d4917fdca35",
                or_size=24_594_131,
            ),
            DataFile(
                "movies.dat", "0140fc2356357c1a851d0f52e893a1e4d3696df632c4141cea8d5bc3d621f0b9"
            ),
            DataFile(
                "users.dat", "1dc3a95300cb19f7c10e027daf29b8cdf1d908dab65b5edfb45950aa389a10a3"
            ),
            DataFile("README", needed=False),
        ),
        (_grouplens("ml-1m", "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20"),),
        read,
    ),
    CatalogEntry(
        "ml-latest-small",
        "MovieLens latest small, edition of September 2018",
        _GROUPLENS,
        "https://grouplens.org/datasets/movielens/latest/",
        (
            DataFile(
                "ratings.csv", "aa289ca83157595d0df6aea1be6a4ded676ddc4385472e8313a8ed9805352646"
            ),
            DataFile(
                "movies.csv", "5a5f32dd9bb3797b8e728a1b98958789d2b13f294a69fdfbc5727f8a9611aa07"
            ),
            DataFile("links.csv", needed=False),
            DataFile("tags.csv", needed=False),
            DataFile("README.txt", needed=False),
        ),
        (
            _grouplens(
                "ml-latest-small",
                "696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436",
            ),
        ),
        read,
    ),
    CatalogEntry(
        "gowalla-lightgcn",
        "Gowalla check-ins, the LightGCN split",
        "No licence stated; SNAP asks to cite Cho, Myers and Leskovec 2011.",
        "https://github.com/gusye1234/LightGCN-PyTorch/tree/master/data/gowalla",
        (
            DataFile(
                "train.txt", "0f086326b28a56c2e6dcb81d86ee72d4ccb7eed3a8d26788392356d8f51111cc"
            ),
            DataFile(
                "test.txt", "099a2a73924e4b754dc6efd730d764f492321b53c38eb93298850c83acf57be3"
            ),
        ),
        (
            Files(_GITHUB + "gusye1234/LightGCN-PyTorch/master/data/gowalla/"),
            Files(_GITHUB + "kuandeng/LightGCN/master/Data/gowalla/"),
        ),
        _read_gowalla,
    ),
    CatalogEntry(
        "tmdb5000",
        "TMDB 5000 movies",
        "See the page: data of TMDB's API, its terms of use apply.",
        "https://www.kaggle.com/datasets/tmdb/tmdb-movie-metadata",
        (
            DataFile(
                "tmdb_5000_movies.csv",
                "1e0584a8dd374120e4ed4f2b81f0d2bd0eb95a554708e4a350d00ed5c46d2825",
            ),
            DataFile("tmdb_5000_credits.csv", needed=False),
        ),
        (Zip(_KAGGLE + "tmdb/tmdb-movie-metadata"),),
        _read_films,
    ),
    CatalogEntry(
        "the-movies-dataset",
        "The Movies Dataset, its small part",
        "CC0 on its page; the ratings are GroupLens's, research only.",
        "https://www.kaggle.com/datasets/rounakbanik/the-movies-dataset",
        (
            DataFile(
                "ratings_small.csv",
                "821795331fd974bbe7a8416f2a7eec2b548a485dedb47a073580b0a9a8a0a8d2",
            ),
            DataFile(
                "links_small.csv",
                "772cb400f68f03cc61b112a544601d25571b168788dab7dc96f462d93059c49f",
            ),
            DataFile(
                "keywords.csv", "428ef94a80255986ad71fd347855702e772ee776841f1e8923a618aa2d87a668"
            ),
        ),
        # The archive also has 26 million ratings, which are not unpacked.
        (Zip(_KAGGLE + "rounakbanik/the-movies-dataset", limits=Limits(download=300 * MiB)),),
        _read_ratings_small,
    ),
)
CATALOG = {entry.name: entry for entry in _ENTRIES}
ALIASES = {"tmdb-5000": "tmdb5000"}
