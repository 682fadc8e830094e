"""How training runs: device, precision, seeds, progress on the terminal, and in which folder.

What lies in that folder is checkpoints.py's; what is trained is the models'.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from foretaste.errors import UsageError

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}


@dataclass
class Meter:
    """A progress line: a live bar on a terminal, a plain line every ten seconds elsewhere."""

    label: str
    total: int
    stream: TextIO | None
    _bar: Progress | None = None
    _done: int = 0
    _printed: float = field(default_factory=time.monotonic)
    _started: float = field(default_factory=time.monotonic)

    def advance(self, steps: int = 1, note: str = "") -> None:
        """`steps` more of `total` are done; `note` is what to show beside the bar."""
        self._done += steps
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done, note=note)
        elif self.stream is not None and time.monotonic() - self._printed > 10:
            self._printed = time.monotonic()
            left = (self._printed - self._started) * (self.total - self._done) / max(self._done, 1)
            done = f"{self._done:,}/{self.total:,}"
            print(f"{self.label}: {done}, {left:.0f} s left  {note}", file=self.stream, flush=True)


@dataclass(frozen=True)
class Engine:
    """One object that carries everything about *how*: nothing else knows devices, seeds or files.

    device: "auto", "cpu", "cuda", ...  precision: "float32" or "bfloat16" (autocast).
    folder: where Checkpoints live; None keeps nothing.  progress: where to show it.
    save_every: seconds between checkpoints within an epoch.  drawn: keys of random numbers that
    were asked for: none, and another seed gives the same model.
    """

    device: str = "auto"
    precision: str = "float32"
    seed: int = 0
    folder: Path | None = None
    progress: TextIO | None = None
    save_every: float = 10.0
    drawn: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse a precision that does not exist, and a device that is not here."""
        if self.precision not in PRECISIONS:
            raise UsageError(
                f"precision={self.precision!r}.", fix=f"Use one of {', '.join(PRECISIONS)}."
            )
        try:
            torch.empty(0, device=self.torch_device)
        except (RuntimeError, AssertionError) as error:  # torch raises both
            said = str(error).splitlines()[0].rstrip(".")
            raise UsageError(
                f"device={self.device!r}: {said}.",
                fix="Use auto, which takes what is here, or cpu.",
            ) from None

    @property
    def torch_device(self) -> torch.device:
        """The device that "auto" stands for here."""
        if self.device != "auto":
            return torch.device(self.device)
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def generator(self, *key: object) -> torch.Generator:
        """Random numbers that depend on the seed and the key only, not on what was drawn before."""
        return torch.Generator(device="cpu").manual_seed(self._seed_of(key))

    def rng(self, *key: object) -> np.random.Generator:
        """The same for numpy."""
        return np.random.default_rng(self._seed_of(key))

    def _seed_of(self, key: tuple[object, ...]) -> int:
        text = json.dumps([self.seed, *map(str, key)])
        self.drawn.add(text)
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The precision of matrix products inside."""
        dtype = PRECISIONS[self.precision]
        if dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.torch_device.type, dtype=dtype)

    @contextlib.contextmanager
    def meter(self, label: str, total: int) -> Iterator[Meter]:
        """A progress line for `total` steps."""
        if self.progress is None or not self.progress.isatty():
            yield Meter(label, total, self.progress)
            return
        columns = (
            TextColumn("{task.description}"), BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn(), TextColumn("<"),
            TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        with Progress(*columns, console=Console(file=self.progress)) as bar:
            bar.add_task(label, total=total, note="")
            yield Meter(label, total, self.progress, bar)
