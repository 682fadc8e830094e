"""Files of typed columns: Parquet, Arrow (Feather), Excel and Avro; and files that are no table.

A file is known by its first bytes, never by its name. The module does not know which column has
which role.
"""

from __future__ import annotations

import gzip
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from foretaste.data.reading.text.sources import first_bytes
from foretaste.errors import DataError

BY_HAND = "Open it where it was made, and hand a table to foretaste.from_frame, or write Parquet."
KINDS = {                         # how a file of each kind begins
    b"PAR1": "Parquet", b"ARROW1": "Arrow", b"\xff\xff\xff\xff": "Arrow stream",
    b"Obj\x01": "Avro", b"\xd0\xcf\x11\xe0": "Excel",
}  # fmt: skip
FOREIGN = (
    (rb"FEA1", "a file of Feather's first version", "Write it again, as version 2 or Parquet."),
    (rb"\x93NUMPY", "a NumPy array, which has no ids", "Hand its columns to "
     "foretaste.from_frame({'user': ..., 'item': ...})."),
    (rb"\x89HDF\r\n", "an HDF5 file (pandas, Keras, MATLAB 7.3)", BY_HAND),
    (rb"\x80[\x02-\x05]", "a pickle, which may run any code when it is opened", BY_HAND),
    (rb"RD[AX][23]\n|[XA]\n\x00\x00\x00[\x02\x03]", "a file of R (RData or RDS)",
     "Write it with arrow::write_parquet or write.csv."),
    (rb"MATLAB 5.0 MAT", "a MATLAB file", BY_HAND),
    (rb"ORC[\x00-\x1f]", "an ORC file", "Write it as Parquet: pyarrow.orc.read_table reads it."),
    (rb"<stata_dta>", "a Stata file", BY_HAND),
    (rb"\$FL[23]", "an SPSS file", BY_HAND),
    (rb"PGDMP", "a dump of PostgreSQL", "Restore it, and read the database by its URL."),
    (rb".{8}DUCK", "a DuckDB database", "Hand a relation of it to foretaste.from_frame."),
    (rb"%PDF-", "a PDF", "Give the table itself, such as CSV."),
    (rb"\s*<(!doctype|html)", "a web page, not the file behind it", "Download the file itself."),
    (rb"\s*<\?xml", "XML", "Write it as CSV or JSON Lines."),
    (rb"\x89PNG|\xff\xd8\xff|GIF8", "a picture", "Give the table itself, such as CSV."),
)  # fmt: skip
IN_ZIP = (
    (r"xl/workbook\.(xml|bin)", "Excel", ""),
    (r"content\.xml", "Excel", ""),  # OpenDocument, which fastexcel reads as well
    (r".*\.npy", "", "a NumPy archive (.npz)"),
    (r".*data\.pkl", "", "a file of PyTorch, which is a pickle"),
)
Pick = Callable[[Sequence[str]], Sequence[str]]  # from all columns to those that are read


def kind_of(path: Path) -> str:
    """Return the kind of a file of typed columns; "" for what may be text.

    Args:
        path: The file.

    Raises:
        DataError: The file cannot be read, or is of a kind that has no table of interactions.
    """
    if path.exists() and not path.is_file():
        return ""  # a pipe can be read once, and only as text
    magic = first_bytes(path)
    if magic.startswith(b"PK\x03\x04"):
        return _kind_in_zip(path)
    for start, kind in KINDS.items():
        if magic.startswith(start):
            return kind
    if magic.startswith(b"\x1f\x8b"):
        _refuse_foreign_kind(path, _unpacked(path), packed=True)
    _refuse_foreign_kind(path, magic)
    return "Parquet" if path.suffix == ".parquet" else ""


def _unpacked(path: Path) -> bytes:
    """Return how the content of a gzip file begins; b"" where it cannot be unpacked."""
    try:
        with gzip.open(path) as opened:
            return opened.read(300)
    except (OSError, EOFError, zlib.error):
        return b""


def _refuse_foreign_kind(path: Path, content: bytes, packed: bool = False) -> None:
    """Refuse content that is of a known kind and no text."""
    inside = " (compressed)" if packed else ""
    for pattern, what, fix in FOREIGN:
        if re.match(pattern, content, re.IGNORECASE | re.DOTALL):
            raise DataError(f"this is {what}{inside}.", where=path, fix=fix)


def _kind_in_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return ""  # whoever unpacks archives says what is wrong with it
    for pattern, kind, refused in IN_ZIP:
        if any(re.fullmatch(pattern, name) for name in names):
            if refused:
                raise DataError(f"this is {refused}.", where=path, fix=BY_HAND)
            return kind
    return ""


def parquet_files(folder: Path) -> list[Path]:
    """Return the Parquet files of a folder and the folders in it, in the order of their names.

    Files and folders whose names begin with "." or "_", such as `_SUCCESS`, are passed over.

    Args:
        folder: The folder.

    Raises:
        DataError: It is a Delta or Iceberg table, where some files do not count any more.
    """
    for mark, kind in (("_delta_log", "Delta"), ("metadata/version-hint.text", "Iceberg")):
        if (folder / mark).exists():
            raise DataError(
                f"this is a {kind} table, whose files do not all count.", where=folder,
                fix="Read it with polars (scan_delta, scan_iceberg) and hand it to "
                "foretaste.from_frame.",
            )  # fmt: skip
    found = []
    for file in sorted(folder.rglob("*")):
        inner = file.relative_to(folder).parts
        if not any(part.startswith((".", "_")) for part in inner) and file.is_file():
            found.append(file)
    return [file for file in found if _is_parquet(file)]


def _is_parquet(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(4) == b"PAR1"


def read_columns(
    path: Path, kind: str, pick: Pick, files: Sequence[Path] = ()
) -> tuple[list[str], pl.DataFrame, list[str]]:
    """Return the names of all columns, the table of those that are picked, and notes.

    Args:
        path: The file, or the folder of the files.
        kind: What `kind_of` said.
        pick: Returns which of the columns are read.
        files: The Parquet files of the folder.

    Raises:
        DataError: The file is damaged, or a library for it is missing.
    """
    notes = [f"read as {kind}"] if kind != "Parquet" else []
    if files:
        notes.append(f"{len(files):,} Parquet {'file' if len(files) == 1 else 'files'} as one")
    try:
        if kind == "Excel":
            table, sheets = _excel(path)
            notes += sheets
        elif kind == "Parquet":
            hive = bool(files) and any("=" in part for part in files[0].relative_to(path).parts)
            table = pl.scan_parquet(
                list(files) or path, hive_partitioning=hive, try_parse_hive_dates=False,
                glob=False,
            )  # fmt: skip
        elif kind == "Avro":
            table = pl.read_avro(path)
        else:
            table = pl.read_ipc_stream(path) if kind == "Arrow stream" else pl.scan_ipc(path)
        lazy = table.lazy()
        names = lazy.collect_schema().names()
        return names, lazy.select(pick(names)).collect(), notes
    except ImportError:
        raise DataError(
            "reading a workbook needs fastexcel.", where=path,
            fix="pip install 'foretaste[excel]', or save the sheet as CSV.",
        ) from None  # fmt: skip
    except DataError:
        raise
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the readers also panic, which is no Exception
        _refuse_other_columns(path, files)
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"this is not a whole {kind} file ({line}).", where=path,
            fix="Write or download it again.",
        ) from None  # fmt: skip


def _refuse_other_columns(folder: Path, files: Sequence[Path]) -> None:
    """Refuse a folder whose files are several tables, not parts of one."""
    try:
        columns = {file: list(pl.read_parquet_schema(file)) for file in files}
    except (pl.exceptions.PolarsError, OSError):
        return  # one of them is damaged
    for file, names in columns.items():
        if sorted(names) != sorted(columns[files[0]]):
            listed = (
                f"{f.relative_to(folder)} ({', '.join(columns[f])})" for f in (files[0], file)
            )
            raise DataError(
                f"these Parquet files are not parts of one table: {', '.join(listed)}.",
                where=folder, fix="Name one file in it.",
            ) from None  # fmt: skip


def _excel(path: Path) -> tuple[pl.DataFrame, list[str]]:
    """Return the first sheet of a workbook that has rows, and a note where there are several."""
    sheets = pl.read_excel(path, sheet_id=0, raise_if_empty=False)
    filled = {name: sheet for name, sheet in sheets.items() if len(sheet)}
    if not filled:
        raise DataError("there is no row in it.", where=path, fix="Give a file with ratings.")
    name, table = next(iter(filled.items()))
    others = [other for other in sheets if other != name]
    note = f"sheet {name!r} read; the others are not: {', '.join(others[:8])}"
    return table, [note] if others else []
