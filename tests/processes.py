"""What tests run in processes of their own, in order to kill them: real processes, real signals."""

from __future__ import annotations

import multiprocessing
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

import foretaste as ft
from foretaste.models.embedding_net import EmbeddingModel
from foretaste.recommending import export
from foretaste.service.store import Event, Store
from foretaste.training.engine import Engine
from tests.conftest import synthetic

# a server that has imported torch once and forks from there: a start takes 0.1 s instead of 5 s
# (the first step of an optimizer imports torch._dynamo)
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.processes", "torch._dynamo"])


@contextmanager
def started(target: Callable[..., None], *arguments: Any) -> Iterator[BaseProcess]:
    """A process that runs `target(*arguments, ready)`, from the moment it says it is ready."""
    ready = FORKS.Event()
    process = FORKS.Process(target=target, args=(*arguments, ready), daemon=True)
    process.start()
    try:
        assert ready.wait(60), "the process did not start"
        yield process
    finally:
        process.kill()
        process.join()


def killed_after(seconds: float, target: Callable[..., None], *arguments: Any) -> int | None:
    """Exit code of a process that gets SIGKILL after so many seconds, unless it is done before."""
    with started(target, *arguments) as process:
        process.join(seconds)
        process.kill()
        process.join()
        return process.exitcode


KILLED = -signal.SIGKILL


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Until the condition holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.002)


def small_model(**fields: Any) -> EmbeddingModel:
    """A network that learns 900 ratings in a tenth of a second."""
    return EmbeddingModel(
        **{"n_factors": 8, "hidden": [16, 8], "dropouts": [0.2], "epochs": 3, "batch_size": 128}
        | fields
    )


# -- targets


def train(fields: dict[str, Any], folder: Path | None, out: Path, ready: Any) -> None:
    """Train with a checkpoint after every step, and write what was learned."""
    ratings = synthetic()
    ready.set()
    model = small_model(**fields).fit(ratings, Engine(seed=5, folder=folder, save_every=0))
    save_file({name: tensor.contiguous() for name, tensor in model.state()[0].items()}, out)


def train_to_bundle(fields: dict[str, Any], folder: Path, out: Path, ready: Any) -> None:
    """Train as a user does, and save a bundle."""
    ratings = synthetic()
    ready.set()
    ft.fit(small_model(**fields), ratings, folder=folder, progress=False).save(out)


def save_alternately(bundles: list[Path], out: Path, ready: Any) -> None:
    """Save one bundle over the other, for ever; ready after the first round, which is slower."""
    recommenders = [ft.load(bundle) for bundle in bundles]
    while True:
        for recommender in recommenders:
            recommender.save(out)
        ready.set()


def write_events(url: str, acknowledged: Path, round_: int, ready: Any) -> None:
    """Write events for ever, each once by its key however often it is sent; note each answer."""
    store = Store.open(url)
    with acknowledged.open("w") as file:
        for n in range(10**9):
            item = f"{round_}-{n}"
            for _ in range(2):  # a client that did not hear the answer asks again
                store.add([Event("u", item, 1.0, n)], key=item, body=item)
            print(item, file=file, flush=True)
            if n == 0:
                ready.set()


def recommend_slowly(bundle: Path, out: Path, ready: Any) -> None:
    """Lists for everyone into a file, a user every tenth of a second."""
    recommender = ft.load(bundle)
    quickly = recommender.answer

    def slowly(*args: Any, **options: Any) -> Any:
        time.sleep(0.1)
        return quickly(*args, **options)

    recommender.answer = slowly  # type: ignore[method-assign]
    export.CHUNK_USERS = 1
    ready.set()
    recommender.export(out)


@contextmanager
def service(
    bundle: Path, *options: str, kill: bool = False, pids: list[int] | None = None
) -> Iterator[int]:
    """The port of `foretaste serve` in a process of its own; ended by SIGTERM when done.

    options: of the command.  kill: it gets SIGKILL after a second instead.  pids: gets its id.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = "from foretaste.cli import main; main()"
    command = [sys.executable, "-c", program, "serve", str(bundle), "--port", str(port), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if pids is not None:
        pids.append(process.pid)
    try:
        wait_for(lambda: _answers(process, port), seconds=180)  # two busy cores
        if kill:
            threading.Timer(1.0, process.kill).start()
        yield port
        process.terminate()
        assert process.wait(30) in (0, -signal.SIGTERM, KILLED if kill else 0)
    finally:
        process.kill()
        process.wait()


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    assert process.poll() is None, "the service ended at once"
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0
