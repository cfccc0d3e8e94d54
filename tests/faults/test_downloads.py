"""Ten ways for a web server to misbehave: the right file, or a clear error and nothing under the final name."""

import hashlib
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stages import files
from stages.blocks import Source
from stages.errors import UserError
from stages.fetching import web
from stages.fetching.fetch import fetch

CONTENT = b"".join(b"block %06d of an archive\n" % number for number in range(4000))
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
HALF = len(CONTENT) // 2


class Server(http.server.ThreadingHTTPServer):
    """A server that answers as `behave` says; `asked` has the range of each request, '' for none."""

    behave: Callable[["Handler"], None]
    asked: list[str]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.headers.get("Range", ""))
        self.server.behave(self)

    def log_message(self, *_: object) -> None:
        pass

    @property
    def first(self) -> int:
        """Where the wanted range begins."""
        return int(self.headers.get("Range", "bytes=0-")[6:-1])

    def say(self, code: int, length: int | None, **headers: str) -> None:
        self.send_response(code)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def good(self, content: bytes = CONTENT, tag: str = '"1"', stop: int | None = None) -> None:
        """As a server should: the range that was asked for where the validator is still right; cut at `stop`."""
        first = self.first if self.headers.get("If-Range", tag) == tag else 0
        rest = content[first:]
        if first:
            self.say(206, len(rest), ETag=tag, Content_Range=f"bytes {first}-{len(content) - 1}/{len(content)}")
        else:
            self.say(200, len(rest), ETag=tag)
        self.wfile.write(rest if stop is None else content[first:stop])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server on this machine that answers as it should, until told otherwise."""
    monkeypatch.setattr(web, "PAUSE", 0.001)
    monkeypatch.setattr(web, "BLOCK", 1000)
    running = Server(("127.0.0.1", 0), Handler)
    running.asked, running.behave = [], Handler.good
    threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


def wanted(server: Server, checksum: str | None = SHA256) -> Path:
    return fetch(Source(url=f"http://127.0.0.1:{server.server_port}/a.zip", checksum=checksum), key="k")


def nothing_in_place(workplace: Path) -> bool:
    left = [path for path in workplace.rglob("*") if path.is_file()]
    return all(path.name.endswith(files.TEMPORARY) or path.name == files.LOCK for path in left)


def begun(server: Server, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first run that ends after half of the file; then the content of the partial file is replaced."""
    server.behave = lambda handler: handler.good(stop=HALF)
    with monkeypatch.context() as patch:
        patch.setattr(web, "ATTEMPTS", 0)
        patch.setattr(web, "_fetch", lambda *arguments: web._attempt(*arguments))
        with pytest.raises(web._Cut):
            wanted(server)
    (partial,) = Path("cache").rglob(f"a.zip{files.TEMPORARY}")
    assert partial.read_bytes() == CONTENT[:HALF]
    partial.write_bytes(content)
    server.asked.clear()
    server.behave = Handler.good


def test_cut_in_the_middle_it_goes_on(workplace: Path, server: Server) -> None:
    server.behave = lambda handler: handler.good(stop=handler.first + len(CONTENT) // 3)
    assert wanted(server).read_bytes() == CONTENT
    assert server.asked[0] == "" and server.asked[1].startswith("bytes=") and len(server.asked) >= 3


def test_a_later_run_goes_on(workplace: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    begun(server, CONTENT[:HALF], monkeypatch)
    assert wanted(server).read_bytes() == CONTENT
    assert server.asked == [f"bytes={HALF}-"]
    assert not list(Path("cache").rglob(f"*{files.TEMPORARY}"))


def test_a_server_without_ranges_sends_all_again(workplace: Path, server: Server) -> None:
    def behave(handler: Handler) -> None:
        handler.say(200, len(CONTENT), ETag='"1"')
        handler.wfile.write(CONTENT[:HALF] if len(server.asked) == 1 else CONTENT)

    server.behave = behave
    assert wanted(server).read_bytes() == CONTENT
    assert len(server.asked) == 2


def test_a_server_that_always_cuts_is_given_up(workplace: Path, server: Server) -> None:
    def behave(handler: Handler) -> None:
        handler.say(200, len(CONTENT))
        handler.wfile.write(CONTENT[:HALF])

    server.behave = behave
    with pytest.raises(UserError, match=r"`k.url`: .* cannot be fetched .* -S k.url=/path/to/a.zip"):
        wanted(server)
    assert nothing_in_place(workplace)
    assert len(server.asked) == web.ATTEMPTS + 1


def test_another_validator_begins_anew(workplace: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    begun(server, b"x" * HALF, monkeypatch)  # of the old file
    server.behave = lambda handler: handler.good(tag='"2"')
    assert wanted(server).read_bytes() == CONTENT
    assert server.asked == [f"bytes={HALF}-"]


def test_a_weak_or_missing_validator_begins_anew(workplace: Path, server: Server) -> None:
    def behave(handler: Handler) -> None:
        handler.say(200, len(CONTENT), ETag='W/"1"')
        handler.wfile.write(CONTENT[:HALF] if len(server.asked) == 1 else CONTENT)

    server.behave = behave
    assert wanted(server).read_bytes() == CONTENT
    assert server.asked == ["", ""]


def test_a_wrong_byte_is_refused(workplace: Path, server: Server) -> None:
    server.behave = lambda handler: handler.good(b"?" + CONTENT[1:])
    with pytest.raises(UserError, match=r"`k.checksum`: .*a.zip is not what was expected: it has sha256:"):
        wanted(server)
    assert nothing_in_place(workplace) and not list(workplace.rglob("a.zip*"))


def test_a_poisoned_partial_file_is_fetched_anew(
    workplace: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(server, b"x" * HALF, monkeypatch)
    assert wanted(server).read_bytes() == CONTENT
    assert server.asked == [f"bytes={HALF}-", ""]


def test_a_partial_file_that_is_too_long_is_fetched_anew(
    workplace: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(server, CONTENT + b"more", monkeypatch)

    def behave(handler: Handler) -> None:
        handler.good() if handler.first < len(CONTENT) else handler.say(416, 0)

    server.behave = behave
    assert wanted(server).read_bytes() == CONTENT


def test_another_range_than_asked_for_is_not_taken(
    workplace: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(server, CONTENT[:HALF], monkeypatch)

    def behave(handler: Handler) -> None:
        if not handler.first:
            return handler.good()
        handler.say(206, HALF, ETag='"1"', Content_Range=f"bytes 0-{HALF - 1}/{len(CONTENT)}")
        handler.wfile.write(CONTENT[:HALF])
        return None

    server.behave = behave
    assert wanted(server).read_bytes() == CONTENT


def test_not_found_is_told_at_once(workplace: Path, server: Server) -> None:
    server.behave = lambda handler: handler.say(404, 0)
    with pytest.raises(UserError, match="404"):
        wanted(server)
    assert len(server.asked) == 1 and nothing_in_place(workplace)


def test_a_busy_server_is_asked_again(workplace: Path, server: Server) -> None:
    server.behave = lambda handler: handler.say(503, 0) if len(server.asked) < 3 else handler.good()
    assert wanted(server).read_bytes() == CONTENT
    assert len(server.asked) == 3


def test_an_endless_file_is_cut_off(workplace: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "MAX_BYTES", 1 << 20)
    sent = []

    def behave(handler: Handler) -> None:
        handler.say(200, None)
        while True:
            handler.wfile.write(b"x" * (1 << 16))
            sent.append(1 << 16)

    server.behave = behave
    with pytest.raises(UserError, match="sends more than 1,048,576 bytes"):
        wanted(server)
    assert nothing_in_place(workplace) and sum(sent) < 1 << 25


def test_no_more_is_taken_than_was_declared(workplace: Path, server: Server) -> None:
    def behave(handler: Handler) -> None:
        handler.say(200, len(CONTENT))
        handler.wfile.write(CONTENT + b"more")

    server.behave = behave
    assert wanted(server).read_bytes() == CONTENT


def test_a_slow_server_is_waited_for_and_a_silent_one_asked_again(
    workplace: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "TIMEOUT", 0.4)

    def behave(handler: Handler) -> None:
        if len(server.asked) == 1:
            handler.say(200, len(CONTENT), ETag='"1"')
            for first in range(0, HALF, HALF // 4):
                handler.wfile.write(CONTENT[first : min(HALF, first + HALF // 4)])
                time.sleep(0.1)
            time.sleep(1)  # no byte more
        else:
            handler.good()

    server.behave = behave
    assert wanted(server).read_bytes() == CONTENT
    assert len(server.asked) == 2 and server.asked[1].startswith("bytes=")


@pytest.mark.parametrize("checksum", [SHA256, None])
def test_without_a_length_the_end_is_where_the_connection_ends(
    workplace: Path, server: Server, checksum: str | None
) -> None:
    def behave(handler: Handler) -> None:
        handler.say(200, None)
        handler.wfile.write(CONTENT)

    server.behave = behave
    assert wanted(server, checksum).read_bytes() == CONTENT


def test_a_full_disk_says_so_and_keeps_what_came(
    workplace: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = files.write_at

    def full(descriptor: int, data: bytes, offset: int) -> None:
        if offset > HALF:
            raise OSError(28, "No space left on device")
        real(descriptor, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_at", full)
        with pytest.raises(UserError, match="the disk is full"):
            wanted(server)
    assert nothing_in_place(workplace)
    assert wanted(server).read_bytes() == CONTENT
    assert server.asked[1].startswith("bytes=")
