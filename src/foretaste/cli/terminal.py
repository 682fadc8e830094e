"""Streams that the command line writes to: characters they cannot show, and no room for output.

The module does not know commands; `main` calls it around the one that runs.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
import unicodedata

PLAIN = {
    "█": "#", "━": "-", "–": "-", "—": "-", "…": "...", "×": "x", "±": "+-", "≥": ">=", "≤": "<=",
    "“": '"', "”": '"', "‘": "'", "’": "'", "„": '"', "·": ".", "•": "*", "→": "->", "ß": "ss",
    "æ": "ae", "Æ": "AE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "œ": "oe", "Œ": "OE",
}  # fmt: skip


def use_plain_characters() -> None:
    """Let both streams write something near for a character that their encoding lacks."""
    codecs.register_error("foretaste.plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="foretaste.plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Return ASCII for the characters that an encoding lacks, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = []
    for char in error.object[error.start : error.end]:
        near = unicodedata.normalize("NFKD", char).encode("ascii", "ignore").decode()
        found.append(PLAIN.get(char, near or "?"))
    return "".join(found), error.end


def explained(error: OSError) -> str:
    """Return a sentence about output or a file that cannot be written or read.

    Args:
        error: What the operating system said.
    """
    where = f"{error.filename}: " if error.filename else ""
    what = error.strerror or str(error) or type(error).__name__
    if where:
        return f"{where}this cannot be read or written ({what}). Check the path and the disk."
    return f"the output cannot be written ({what}). Make room, or write it to another place."


def close_streams() -> None:
    """Send what is left of both streams nowhere, so that the end of the process does not fail."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
            continue
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
