"""Requests a second of `foretaste serve`, with the history read from the store each time.

    python -m bench.serving BUNDLE [--db URL] [--connections 8] [--seconds 10] [--workers 1]

One process asks, another answers, each pinned to a core of its own.  CPU is what the server spent
for a request, whatever else the machine does meanwhile; memory is what is its own and what it
shares with other processes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np

import foretaste as ft
from foretaste.service.records import Event
from foretaste.service.store import Store

WARM = 1.0  # seconds before counting


async def ask(port: int, users: list[str], until: float, waited: list[tuple[float, float]]) -> None:
    """Ask for one list after the other on one connection; (when, how long) of each."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for n in range(10**9):
        body = b'{"user":"%s","k":10}' % users[n % len(users)].encode()
        started = time.perf_counter()
        writer.write(
            b"POST /api/recommend HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%s" % (len(body), body)
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        ended = time.perf_counter()
        waited.append((ended, ended - started))
        if ended > until:
            break
    writer.close()


async def load(port: int, users: list[str], connections: int, seconds: float) -> np.ndarray:
    """Milliseconds of every answer after the warm-up."""
    start, waited = time.perf_counter(), list[tuple[float, float]]()
    shares = [users[n::connections] for n in range(connections)]
    until = start + WARM + seconds
    await asyncio.gather(*(ask(port, share, until, waited) for share in shares))
    return np.array([took * 1000 for ended, took in waited if ended > start + WARM])


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of processes so far."""
    ticks = 0
    for pid in pids:
        spent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(spent[11]) + int(spent[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """A process and its children that serve."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def memory(pid: int) -> str:
    """Resident memory in MiB: all of it, and what no other process shares."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kib = {line.partition(":")[0]: int(line.split()[1]) for line in lines}
    own = kib["Private_Clean"] + kib["Private_Dirty"]
    return f"{kib['Rss'] / 1024:.0f} MiB, {own / 1024:.0f} of them its own"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--db")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--port", type=int, default=8791)
    asked = parser.parse_args()
    ids = ft.load(asked.bundle).dataset
    users = [str(user) for user in ids.users.values.sample(fraction=1, shuffle=True, seed=0)]
    with tempfile.TemporaryDirectory() as folder:
        db = asked.db or f"sqlite:///{folder}/events.sqlite"
        store = Store.open(db)  # five events for every user: every history is a merged one
        items, rng = ids.items.values.to_list(), np.random.default_rng(0)
        now = time.time_ns() // 1_000_000
        for user in users:
            drawn = rng.choice(len(items), 5, replace=False)
            store.add([Event(user, str(items[i]), ids.scale[1], now) for i in drawn])
        store.close()
        cores = sorted(os.sched_getaffinity(0))
        command = [sys.executable, "-c", "from foretaste.cli import main; main()", "serve"]
        command += [str(asked.bundle), "--db", db, "--port", str(asked.port)]
        command += ["--workers", str(asked.workers)]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            await_ready(asked.port)
            os.sched_setaffinity(0, {cores[-1]})
            for pid in family(server.pid):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    os.sched_setaffinity(int(task.name), set(cores[: asked.workers]))
            for connections in asked.connections:
                pids = family(server.pid)
                before = cpu_seconds(pids)
                took = asyncio.run(load(asked.port, users, connections, asked.seconds))
                spent = (cpu_seconds(pids) - before) * asked.seconds / (asked.seconds + WARM)
                p50, p99 = np.percentile(took, [50, 99])
                print(
                    f"{connections} connections: {len(took) / asked.seconds:,.0f} lists a second, "
                    f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, CPU {1000 * spent / len(took):.2f} ms"
                )
            for pid in family(server.pid):
                print(f"process {pid}: {memory(pid)}")
        finally:
            server.terminate()
            server.wait()


def await_ready(port: int) -> None:
    for _ in range(600):
        try:
            httpx.get(f"http://127.0.0.1:{port}/health/ready").raise_for_status()
            return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise SystemExit("the server did not start")


if __name__ == "__main__":
    main()
