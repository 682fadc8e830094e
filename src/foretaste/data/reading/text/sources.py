"""Files as chunks of whole lines in UTF-8: what can be opened, and in which encoding.

The module does not know what a line means (`delimited.py` cuts it into cells), how content is
unpacked (`streams.py`), or how an encoding is guessed (`encodings.py`).
"""

from __future__ import annotations

import codecs
import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np

from foretaste.data.reading.text.encodings import (
    LOOKED_AT,
    NO_TEXT,
    codec_named,
    foreign_run,
    guess,
    is_utf8,
    wide_codec,
)
from foretaste.data.reading.text.streams import DAMAGE, SUFFIXES, damaged, packed_as, unpacked
from foretaste.errors import DataError, RatingsFileError

Progress = Callable[[int, int], None]  # bytes done, bytes in all

BLOCK = 1 << 20  # bytes; a block and what polars makes of it stay in the processor's cache
MANY = 1000  # lines
LONGEST_LINE = 64 << 20  # bytes
MIXED = 0.3  # share of UTF-8 among lines beyond ASCII that other encodings do not reach by chance
FOREIGN = {
    b"SQLite format 3\x00": ("is a SQLite database", "Read it as sqlite:///PATH with a query."),
}


class NotUtf8Error(Exception):
    """The file is not UTF-8, although its beginning was: it must be read again by a guess."""


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
    kind = SUFFIXES.get(path.suffix)
    if kind and packed_as(magic) != kind:
        raise DataError(
            f"the name ends in {path.suffix} but this is not a {kind} file.", where=path,
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
    """A text file, plain or packed, in some encoding.

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
        rest, line = b"", 1
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
            self._check_encoding(content)
            yield Chunk(content, line)
            line += line_ends(content)
        if rest:
            self._check_encoding(rest)
            yield Chunk(rest + b"\n", line)

    def _check_encoding(self, content: bytes) -> None:
        """Refuse bytes that are not UTF-8 where the encoding was to be found."""
        if self.asked != "auto" or self.encoding != "utf-8" or content.isascii():
            return
        if not is_utf8(content):
            raise NotUtf8Error

    def _utf8_blocks(self) -> Iterator[bytes]:
        """Yield the content in UTF-8, in blocks of any size."""
        blocks = self._blocks()
        first = next(blocks, b"")
        codec = self._codec(first)
        if codec.startswith("utf-8"):
            yield first.removeprefix(codecs.BOM_UTF8)
            yield from blocks
        elif self.asked == "auto" and codec[:5] not in ("utf-1", "utf-3"):
            yield from self._from_guess(codec, first, blocks)
        else:
            yield from self._from_codec(codec, first, blocks)

    def _codec(self, first: bytes) -> str:
        """Return the encoding that is asked for, or else found in the first block."""
        if self.asked != "auto":
            self.encoding = codec_named(self.asked)
        elif self.encoding == "utf-8":
            self.encoding = wide_codec(first) or "utf-8"
        return self.encoding

    def _from_guess(self, codec: str, first: bytes, blocks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield blocks of whole lines in a guessed encoding, and look for UTF-8 in them."""
        foreign, line = foreign_run(codec), 1
        for block in _whole_lines(chain((first,), blocks)):
            if block.isascii():
                yield block
            else:
                if both := foreign.search(block):
                    raise mixed(self.path, line + block.count(b"\n", 0, both.start()))
                if codec == "latin-1" and any(0x80 <= byte < 0xA0 for byte in set(block)):
                    codec = self.encoding = "cp1252"
                try:
                    text = block.decode(codec)
                    at = found.start() if (found := NO_TEXT.search(text)) else -1
                    upto = text[:at].count("\n")
                except UnicodeDecodeError as error:
                    at, upto, text = error.start, block.count(b"\n", 0, error.start), ""
                if at >= 0:
                    raise RatingsFileError(
                        self.path, line + upto,
                        what=f"the text is not {codec}, as it seemed from the rest.",
                        fix="Mend the line, or name the encoding with --encoding (encoding=).",
                    )  # fmt: skip
                yield text.encode()
            line += line_ends(block)

    def _from_codec(self, codec: str, first: bytes, blocks: Iterator[bytes]) -> Iterator[bytes]:
        decoder = codecs.getincrementaldecoder(codec)()
        line = 1
        try:
            for block in chain((first,), blocks):
                text = decoder.decode(block).encode()
                text = text.removeprefix(codecs.BOM_UTF8) if line == 1 else text
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
            kind = packed_as(raw.peek(6)[:6])
            stream: BinaryIO = unpacked(raw, self.path) if kind else raw
            while block := self._read_lines(stream, kind):
                if self.progress is not None:
                    self.progress(raw.tell(), total)
                yield block

    def _read_lines(self, stream: BinaryIO, kind: str) -> bytes:
        """Return a block that ends with a line where that is near, so that nothing is copied."""
        try:
            block = stream.read(BLOCK)
            return block + stream.readline(BLOCK) if block else block
        except DAMAGE as error:
            raise damaged(error, kind, self.path) from None

    def with_guess(self) -> TextFile:
        """Return the file in the encoding that its lines beyond ASCII seem to be in.

        Raises:
            RatingsFileError: Some lines are UTF-8, and others are not.
            DataError: The encoding cannot be judged; says which there are.
        """
        seen = Beyond()
        line = 1
        for block in _whole_lines(self._blocks()):
            if not block.isascii():
                seen.add(block, line)
            line += line_ends(block)
            if seen.enough():
                break
        return TextFile(self.path, "auto", self.progress, self._judged(seen))

    def _judged(self, seen: Beyond) -> str:
        """Return the encoding of lines that are not all UTF-8."""
        if seen.n_utf8 > MIXED * (seen.n_utf8 + seen.n_other):
            codec, near = guess(seen.utf8 + seen.other)
            if not codec or any(map(foreign_run(codec).search, seen.utf8)):
                raise mixed(self.path, max(seen.first_utf8, seen.first_other))
        else:
            codec, near = guess(seen.other)
        if codec:
            return codec
        could = f" It could be {' or '.join(near)}." if near else ""
        raise RatingsFileError(
            self.path, seen.first_other,
            what=f"the text is not UTF-8, and its encoding cannot be judged.{could}",
            fix="Name it with --encoding (encoding=), for example --encoding "
            f"{near[0] if near else 'cp1252'}.",
        )  # fmt: skip


@dataclass
class Beyond:
    """Lines beyond ASCII: some of those that are UTF-8, some of the others, and how many."""

    utf8: list[bytes] = field(default_factory=list)
    other: list[bytes] = field(default_factory=list)
    n_utf8: int = 0
    n_other: int = 0
    first_utf8: int = 0
    first_other: int = 0
    size: int = 0

    def add(self, block: bytes, line: int) -> None:
        """Add the lines of a block.

        Args:
            block: Whole lines.
            line: The number of the first.
        """
        for i, text in enumerate(block.split(b"\n"), start=line):
            if text.isascii():
                continue
            if is_utf8(text):
                self.n_utf8 += 1
                self.first_utf8 = self.first_utf8 or i
                if len(self.utf8) < MANY:
                    self.utf8.append(text)
            else:
                self.n_other += 1
                self.first_other = self.first_other or i
                if self.size < LOOKED_AT:
                    self.other.append(text)
                    self.size += len(text)

    def enough(self) -> bool:
        """Return whether more lines would not change the judgement."""
        return self.size >= LOOKED_AT or (self.n_other > 0 and self.n_utf8 > MANY)


def mixed(path: Path, line: int) -> RatingsFileError:
    """Return the error of a file in two encodings.

    Args:
        path: The file.
        line: The first line in the second one.
    """
    return RatingsFileError(
        path, line, what="the file mixes UTF-8 with another encoding.",
        fix="Mend it, or choose with --encoding (encoding='utf-8' or 'latin-1').",
    )  # fmt: skip


def _whole_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield blocks that end where a line ends, because a character may span two blocks."""
    rest = b""
    for block in blocks:
        cut = block.rfind(b"\n") + 1
        if cut or len(rest) > LONGEST_LINE:
            yield rest + block[:cut]
            rest = block[cut:]
        else:
            rest += block
    if rest:
        yield rest
