"""How training runs: device, precision, seeds, progress on the terminal, checkpoints on disk."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from foretaste.errors import CheckpointError, UsageError

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
    folder: where checkpoints and the run log live; None keeps nothing.  progress: where to show it.
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

    # -- checkpoints: one safetensors file, written to a temporary name and renamed

    def save_checkpoint(
        self, tensors: Mapping[str, Tensor], values: Mapping[str, Any], phase: str, identity: str
    ) -> None:
        """Replace a phase's checkpoint; killed at any moment, the old or the new one is there."""
        if self.folder is None:
            return
        path, fresh = self.folder / f"{phase}.checkpoint", self.folder / f"{phase}.checkpoint.new"
        metadata = {"identity": identity, "values": json.dumps(values)}
        metadata["sha256"] = _digest(tensors, metadata)
        with _writing(self.folder):
            save_file({k: t.contiguous() for k, t in tensors.items()}, fresh, metadata=metadata)
            with fresh.open("rb") as file:
                os.fsync(file.fileno())
            fresh.replace(path)

    def load_checkpoint(
        self, phase: str, identity: str
    ) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The last checkpoint of this very run, or None; CheckpointError for one of another run."""
        path = None if self.folder is None else self.folder / f"{phase}.checkpoint"
        if path is None or not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            if metadata.pop("sha256", None) != _digest(tensors, metadata):
                raise ValueError("its SHA-256 is another")
        except (OSError, SafetensorError, ValueError):
            raise CheckpointError(
                "the checkpoint is damaged.",
                where=path,
                fix="Start again with --fresh, which removes it.",
            ) from None
        if metadata["identity"] != identity:
            raise CheckpointError(
                "the checkpoint is of another run: model, fields, seed, data or precision differ.",
                where=path,
                fix="Run what it was made with, or start again with --fresh, which removes it.",
            )
        return tensors, json.loads(metadata["values"])

    def drop_checkpoints(self) -> None:
        """The run is complete and saved elsewhere: what it could be resumed from goes."""
        for path in self.folder.glob("*.checkpoint*") if self.folder else ():
            path.unlink(missing_ok=True)

    def log(self, phase: str, lines: list[dict[str, Any]]) -> None:
        """Write the run log (PHASE.jsonl), a JSON object for each epoch, replacing the old one."""
        if self.folder is None:
            return
        path, fresh = self.folder / f"{phase}.jsonl", self.folder / f"{phase}.jsonl.new"
        with _writing(self.folder):
            fresh.write_text("".join(json.dumps(line) + "\n" for line in lines))
            fresh.replace(path)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Make the folder; a full disk or a file in its place is a CheckpointError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot be written ({error}).",
            where=folder,
            fix="Make room, or choose another folder.",
        ) from None


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 over every bit of a checkpoint."""
    sha = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
