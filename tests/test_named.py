"""Downloads, against a small server on loopback that the test starts."""

from __future__ import annotations

import gzip
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest

from pixelfit import files
from pixelfit.data import named
from pixelfit.data.named import RemoteFile, download, mnist_file
from pixelfit.errors import DataError, DownloadError
from pixelfit.progress import Silent

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
FILE = RemoteFile("digits.gz", hashlib.md5(CONTENT).hexdigest())
ZIPPED = gzip.compress(CONTENT)


class Mirror(BaseHTTPRequestHandler):
    """/good serves, /broken cuts its first answer short, /wrong serves other content, anything else is not found."""

    ranges: list[str | None]
    cut: list[bool]

    def do_GET(self) -> None:
        which = urlparse(self.path).path.split("/")[1]
        wanted = self.headers.get("Range")
        self.ranges.append(wanted)
        if which not in ("good", "broken", "wrong"):
            self.send_error(404)
            return
        body = gzip.compress(b"something else") if which == "wrong" else ZIPPED
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        if which == "broken" and not self.cut:
            self.cut.append(True)
            body = body[: len(body) // 2]
        self.wfile.write(body[start:])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Mirror.ranges, Mirror.cut = [], []
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()
    thread.join()


class Counting(Silent):
    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def count(self, title: str, done: int, total: int) -> None:
        self.seen.append((done, total))


def test_there_are_two_mirrors_for_mnist() -> None:
    assert len(set(named.MNIST_MIRRORS)) >= 2
    assert all(mirror.startswith("https://") for mirror in named.MNIST_MIRRORS)


def test_a_download_reports_progress_and_leaves_only_the_file(server: str, tmp_path: Path) -> None:
    progress = Counting()
    assert download(FILE, tmp_path / "cache" / FILE.name, [f"{server}/good"], progress) == CONTENT
    assert progress.seen[-1] == (len(ZIPPED), len(ZIPPED))
    assert [file.name for file in (tmp_path / "cache").iterdir()] == [FILE.name]


def test_a_broken_connection_goes_on_where_it_stood(server: str, tmp_path: Path) -> None:
    assert download(FILE, tmp_path / FILE.name, [f"{server}/broken"], Silent()) == CONTENT
    assert Mirror.ranges[0] is None
    assert int(str(Mirror.ranges[1]).removeprefix("bytes=").rstrip("-")) > 0


def test_a_missing_or_wrong_mirror_is_passed_over(server: str, tmp_path: Path) -> None:
    mirrors = [f"{server}/missing", f"{server}/wrong", f"{server}/good"]
    assert download(FILE, tmp_path / FILE.name, mirrors, Silent()) == CONTENT


def test_when_none_answers_the_error_lists_what_was_tried(server: str, tmp_path: Path) -> None:
    mirrors = [f"{server}/missing", f"{server}/wrong", "http://127.0.0.1:9"]
    with pytest.raises(DownloadError) as caught:
        download(FILE, tmp_path / FILE.name, mirrors, Silent())
    text = str(caught.value)
    assert all(mirror in text for mirror in mirrors)
    assert "404" in text
    assert "wrong checksum" in text
    assert "--data-dir" in text
    assert not (tmp_path / FILE.name).exists()


def test_cache_and_data_dir_come_before_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = tmp_path / ".cache" / "pixelfit" / "mnist" / FILE.name
    cached.parent.mkdir(parents=True)
    cached.write_bytes(ZIPPED)
    monkeypatch.setattr(files.platformdirs, "user_cache_dir", lambda *args, **kwargs: str(tmp_path / ".cache" / "pixelfit"))
    assert mnist_file(FILE, None, [], Silent()) == CONTENT
    cached.write_bytes(ZIPPED[:-200])  # a damaged cache is fetched anew, which fails without mirrors
    with pytest.raises(DownloadError):
        mnist_file(FILE, None, [], Silent())
    own = tmp_path / "own"
    own.mkdir()
    (own / FILE.name).write_bytes(gzip.compress(CONTENT, 1))  # compressed otherwise: the content counts
    assert mnist_file(FILE, own, [], Silent()) == CONTENT
    monkeypatch.setenv("PIXELFIT_DATA", str(own))
    assert mnist_file(FILE, None, [], Silent()) == CONTENT


def test_a_data_dir_without_the_file_or_with_another_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path} holds no file digits.gz"):
        mnist_file(FILE, tmp_path, [], Silent())
    (tmp_path / FILE.name).write_bytes(gzip.compress(b"other"))
    with pytest.raises(DataError, match=r"digits.gz is not the official MNIST file"):
        mnist_file(FILE, tmp_path, [], Silent())


def test_mnist_from_its_files(data_folder: Path) -> None:
    table = named.load_mnist(data_folder / "mnist", Silent())
    assert table.arrays.shape == (70_000, 28, 28, 1)
    assert (table.parts == "test").sum() == 10_000
    assert (table.parts[60_000:] == "test").all()
    assert table.targets[:5].tolist() == [5, 0, 4, 1, 9]
    assert table.targets[60_000:60_005].tolist() == [7, 2, 1, 0, 4]
