"""Files as chunks of whole lines in UTF-8: what can be opened, gzip, encodings.

The module does not know what a line means: `delimited.py` cuts it into cells.
"""

from __future__ import annotations

import codecs
import difflib
import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from foretaste.errors import DataError, RatingsFileError, UsageError

Progress = Callable[[int, int], None]  # bytes done, bytes in all

BLOCK = 1 << 20  # bytes; a block and what polars makes of it stay in the processor's cache
LONGEST_LINE = 64 << 20  # bytes
MULTIBYTE = re.compile(
    rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}"
)
FOREIGN = {
    b"PK\x03\x04": ("is a zip archive", "Unpack it first."),
    b"\xfd7zXZ\x00": ("is compressed with xz", "Unpack it first (xz -d)."),
    b"BZh": ("is compressed with bzip2", "Unpack it first (bzip2 -d)."),
    b"\x28\xb5\x2f\xfd": ("is compressed with zstd", "Unpack it first (zstd -d)."),
    b"SQLite format 3\x00": ("is a SQLite database", "Read it as sqlite:///PATH with a query."),
}


class NotUtf8Error(Exception):
    """The file is not UTF-8, although its beginning was: it must be read again as latin-1."""


@dataclass(frozen=True)
class Chunk:
    """A part of a file.

    Args:
        content: Whole lines in UTF-8, each with its line end.
        line: The number of the first line, from 1.
    """

    content: bytes
    line: int


def line_ends(content: bytes) -> int:
    """Return the number of line ends in some bytes.

    Args:
        content: The bytes.
    """
    # Three times as fast as bytes.count where lines are short.
    return int(np.count_nonzero(np.frombuffer(content, np.uint8) == ord("\n")))


def check_file(path: Path) -> bytes:
    """Return the first 16 bytes of a file that may hold ratings.

    Args:
        path: The file.

    Raises:
        DataError: The file cannot be read, is empty, or is of a kind that cannot hold ratings.
    """
    magic = first_bytes(path)
    for start, (what, fix) in FOREIGN.items():
        if magic.startswith(start):
            raise DataError(f"the file {what}.", where=path, fix=fix)
    if path.suffix == ".gz" and not magic.startswith(b"\x1f\x8b"):
        raise DataError(
            "the name ends in .gz but this is not a gzip file.", where=path,
            fix="Rename it to what it is, such as .csv, or download it again.",
        )  # fmt: skip
    return magic


def first_bytes(path: Path) -> bytes:
    """Return the first 16 bytes of a file.

    Args:
        path: The file.

    Raises:
        DataError: The file cannot be read, or is empty.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(16)
    except FileNotFoundError:
        raise DataError("there is no such file.", where=path, fix=_did_you_mean(path)) from None
    except PermissionError:
        raise DataError(
            "you may not read this file.", where=path, fix="Change its permissions."
        ) from None
    except OSError as error:
        raise DataError(
            f"the file cannot be opened ({error.strerror}).", where=path, fix="Check the path."
        ) from None
    if not magic:
        raise DataError("the file is empty.", where=path, fix="Give a file with ratings.")
    return magic


def _did_you_mean(path: Path) -> str:
    """Return a sentence about what there is in place of a missing file."""
    if not path.parent.is_dir():
        return f"There is no folder {path.parent} either."
    names = sorted(entry.name for entry in path.parent.iterdir())
    close = difflib.get_close_matches(path.name, names, n=3)
    if close:
        return f"Did you mean {' or '.join(close)}?"
    return f"The folder {path.parent} has: {', '.join(names[:8]) or 'nothing'}."


@dataclass
class TextFile:
    """A text file, plain or gzipped, in some encoding.

    Args:
        path: The file.
        asked: "auto", or the name of an encoding.
        progress: Called with the bytes read and the bytes in all.
        encoding: The encoding assumed at first with "auto"; after reading, the one found.
    """

    path: Path
    asked: str = "auto"
    progress: Progress | None = None
    encoding: str = "utf-8"

    def chunks(self) -> Iterator[Chunk]:
        """Yield chunks of whole lines.

        Raises:
            NotUtf8Error: The encoding was to be found, and the file is not UTF-8.
            RatingsFileError: A line is too long, or the file mixes encodings.
            DataError: The file is damaged, or not in the encoding that was asked for.
        """
        rest, line, multibyte = b"", 1, False
        for block in self._utf8_blocks():
            cut = block.rfind(b"\n") + 1
            if not cut:
                rest += block
                if len(rest) > LONGEST_LINE:
                    raise RatingsFileError(
                        self.path, line, what=f"the line is longer than {LONGEST_LINE >> 20} MiB.",
                        fix="Is this a text file with one rating a line?",
                    )  # fmt: skip
                continue
            content = block if cut == len(block) else block[:cut]
            content = rest + content if rest else content
            rest = block[cut:]
            multibyte = self._check_encoding(content, line, multibyte)
            yield Chunk(content, line)
            line += line_ends(content)
        if rest:
            self._check_encoding(rest, line, multibyte)
            yield Chunk(rest + b"\n", line)

    def _check_encoding(self, content: bytes, line: int, multibyte: bool) -> bool:
        """Return whether UTF-8 beyond ASCII has occurred so far; refuse a mix of encodings."""
        if self.asked != "auto" or self.encoding != "utf-8" or content.isascii():
            return multibyte
        try:
            content.decode()
        except UnicodeDecodeError as error:
            if multibyte or MULTIBYTE.search(content):
                raise _mixed(self.path, line + content.count(b"\n", 0, error.start)) from None
            raise NotUtf8Error from None
        return True

    def _utf8_blocks(self) -> Iterator[bytes]:
        """Yield the content in UTF-8, in blocks of any size."""
        blocks = self._blocks()
        first = next(blocks, b"")
        codec = self._codec(first)
        if codec.startswith("utf-8"):
            yield first.removeprefix(codecs.BOM_UTF8)
            yield from blocks
        elif codec == "latin-1":
            yield from self._from_latin_1(first, blocks)
        else:
            yield from self._from_codec(codec, first, blocks)

    def _codec(self, first: bytes) -> str:
        """Return the encoding that is asked for, or else found in the first block."""
        if self.asked not in ("auto", "utf-8", "latin-1"):
            try:
                self.encoding = codecs.lookup(self.asked).name
            except LookupError:
                raise UsageError(
                    f"encoding={self.asked!r} is unknown.",
                    fix="Use auto, utf-8, latin-1 or utf-16.",
                ) from None
            self.encoding = {"iso8859-1": "latin-1"}.get(self.encoding, self.encoding)
        elif self.asked != "auto":
            self.encoding = self.asked
        elif first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            self.encoding = "utf-16"
        return self.encoding

    def _from_latin_1(self, first: bytes, blocks: Iterator[bytes]) -> Iterator[bytes]:
        line = 1
        for block in _chain(first, blocks):
            if block.isascii():
                yield block
            else:
                both = MULTIBYTE.search(block) if self.asked == "auto" else None
                if both:
                    raise _mixed(self.path, line + block.count(b"\n", 0, both.start()))
                yield block.decode("latin-1").encode()
            line += line_ends(block)

    def _from_codec(self, codec: str, first: bytes, blocks: Iterator[bytes]) -> Iterator[bytes]:
        decoder = codecs.getincrementaldecoder(codec)()
        line = 1
        try:
            for block in _chain(first, blocks):
                text = decoder.decode(block).encode()
                line += text.count(b"\n")
                yield text
            yield decoder.decode(b"", final=True).encode()
        except UnicodeError as error:
            raise DataError(
                f"the text is not {codec}: {error} (line {line} or later).", where=self.path,
                fix="Name the right one with --encoding (encoding=).",
            ) from None  # fmt: skip

    def _blocks(self) -> Iterator[bytes]:
        total = self.path.stat().st_size
        with self.path.open("rb") as raw:
            zipped = raw.peek(2)[:2] == b"\x1f\x8b"
            stream: BinaryIO = gzip.GzipFile(fileobj=raw) if zipped else raw  # type: ignore[assignment]
            while block := self._read_lines(stream):
                if self.progress is not None:
                    self.progress(raw.tell(), total)
                yield block

    def _read_lines(self, stream: BinaryIO) -> bytes:
        """Return a block that ends with a line where that is near, so that nothing is copied."""
        try:
            block = stream.read(BLOCK)
            return block + stream.readline(BLOCK) if block else block
        except EOFError:
            what = "the gzip file is cut off before its end."
        except (gzip.BadGzipFile, zlib.error) as error:
            what = f"the gzip file is damaged ({error})."
        except OSError as error:
            what = f"the file cannot be read ({error.strerror or error})."
        raise DataError(what, where=self.path, fix="Download or copy it again.")


def _mixed(path: Path, line: int) -> RatingsFileError:
    return RatingsFileError(
        path, line, what="the file mixes UTF-8 with another encoding.",
        fix="Mend it, or choose with --encoding (encoding='utf-8' or 'latin-1').",
    )  # fmt: skip


def _chain(first: bytes, blocks: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from blocks
