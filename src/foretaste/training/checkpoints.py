"""Checkpoints and the log of a training: what a killed run goes on from, and how far it came.

The module does not know what is trained: a checkpoint is tensors and JSON values under the name of
a phase, and belongs to the run that gave its identity.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, uint8

from foretaste.bundle import LOCK, alone, atomic_write
from foretaste.errors import CheckpointError


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run, a file PHASE.checkpoint each, and its log, PHASE.jsonl.

    Each file is replaced in one step: killed at any moment, the old or the new one is there. Two
    runs in one folder do not spoil each other's files, but neither can tell that there are two.

    Args:
        folder: Where they are, made when first needed; None keeps nothing.
    """

    folder: Path | None

    def save(
        self, tensors: Mapping[str, Tensor], values: Mapping[str, Any], phase: str, identity: str
    ) -> None:
        """Replace the checkpoint of a phase.

        Args:
            tensors: Tensors of any shape and device, by name.
            values: What JSON can hold, by name.
            phase: Names the checkpoint within the run.
            identity: Names the run: everything that a run which goes on must have in common.

        Raises:
            CheckpointError: The folder cannot be written to.
        """
        if self.folder is None:
            return
        path = self.folder / f"{phase}.checkpoint"
        metadata = {"identity": identity, "values": json.dumps(values)}
        metadata["sha256"] = _digest(tensors, metadata)
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        # The lock is taken before old parts are swept up: another run's half-written file is not
        # "left".
        with _writing(self.folder), alone(self.folder / LOCK):
            for left in self.folder.glob(f"{phase}.checkpoint.*"):  # of a run that was killed
                left.unlink()
            atomic_write(path, lambda fresh: save_file(whole, fresh, metadata=metadata))

    def load(self, phase: str, identity: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return what the last checkpoint of a phase holds.

        Args:
            phase: Names the checkpoint within the run.
            identity: Names the run.

        Returns:
            Tensors (on the CPU) and values by name, or None where there is no checkpoint.

        Raises:
            CheckpointError: The checkpoint is damaged, or of a run with another identity.
        """
        path = None if self.folder is None else self.folder / f"{phase}.checkpoint"
        if path is None or not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            # Damage is told apart from another run's checkpoint first: a flipped bit may be in the
            # identity.
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

    def drop(self) -> None:
        """Remove all checkpoints: the run is complete, and its result is saved elsewhere."""
        for path in self.folder.glob("*.checkpoint*") if self.folder else ():
            path.unlink(missing_ok=True)

    def log(self, phase: str, lines: Sequence[Mapping[str, Any]]) -> None:
        """Replace the log of a phase.

        Args:
            phase: Names the log within the run.
            lines: What JSON can hold, one mapping for each epoch so far.

        Raises:
            CheckpointError: The folder cannot be written to.
        """
        if self.folder is None:
            return
        with _writing(self.folder):
            text = "".join(json.dumps(line) + "\n" for line in lines)
            atomic_write(self.folder / f"{phase}.jsonl", text)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Make the folder, and raise a CheckpointError where something cannot be written to it."""
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
    """Return the SHA-256 of every bit of a checkpoint."""
    sha = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().cpu().contiguous().view(-1).view(uint8).numpy().data)
    return sha.hexdigest()
