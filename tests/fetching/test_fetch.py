"""Fetching: whole and checked, or a message that says what to do and nothing left behind."""

import hashlib
import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages import files, paths
from stages.blocks import Source
from stages.errors import UserError
from stages.fetching import fetch as module
from stages.fetching import web
from stages.fetching.fetch import fetch
from stages.fetching.web import digest

CONTENT = b"an archive of pictures"
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()
WRONG = "sha256:" + "0" * 64


def downloads() -> list[Path]:
    below = (paths.store() / "downloads").rglob("*")
    return [path for path in below if path.is_file() and path.name != files.LOCK]


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """The address of a web server on this machine that has `/good.zip`, and the paths it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            exists = self.path.startswith("/good")
            self.send_response(200 if exists else 404)
            body = CONTENT if exists else b"not here"
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}", asked
    running.shutdown()
    running.server_close()


# --- a local file


@pytest.mark.parametrize("checksum", [SHA256, MD5])
def test_a_local_file_is_used_where_it_is(workplace: Path, checksum: str) -> None:
    path = workplace / "a.zip"
    path.write_bytes(CONTENT)
    assert fetch(Source(url=str(path), checksum=checksum), key="k") == path
    assert not paths.store().exists()


def test_a_relative_path_is_of_the_main_checkout(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workplace / "main/files").mkdir(parents=True)
    (workplace / "main/files/a.zip").write_bytes(CONTENT)
    source = Source(url="files/a.zip", checksum=SHA256)
    with pytest.raises(UserError, match="there is no file"):
        fetch(source, key="k")
    monkeypatch.setenv("DVC_ROOT", str(workplace / "main"))
    assert fetch(source, key="k") == workplace / "main/files/a.zip"


@pytest.mark.parametrize("checksum", [WRONG, "md5:" + "0" * 32])
def test_a_local_file_with_another_checksum(workplace: Path, checksum: str) -> None:
    (workplace / "a.zip").write_bytes(CONTENT)
    with pytest.raises(UserError, match=rf"`datasets.x.checksum`: a.zip has .*, expected {checksum}\."):
        fetch(Source(url="a.zip", checksum=checksum), key="datasets.x")


def test_a_file_that_is_not_there(workplace: Path) -> None:
    with pytest.raises(UserError, match=rf"`k.url`: there is no file 'no.zip' \({workplace}/no.zip\)"):
        fetch(Source(url="no.zip", checksum=SHA256), key="k")
    with pytest.raises(UserError, match="there is no file"):
        fetch(Source(url=str(workplace)), key="k")  # a folder


def test_without_a_checksum_it_says_what_to_pin(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workplace / "a.zip").write_bytes(CONTENT)
    fetch(Source(url="a.zip"), key="datasets.x")
    assert f"`datasets.x.checksum`: {SHA256}" in capsys.readouterr().err


def test_the_digest_is_written_as_params_write_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(CONTENT)
    assert digest(tmp_path / "a") == SHA256
    assert digest(tmp_path / "a", "md5") == MD5


# --- the web


@pytest.mark.parametrize("checksum", [SHA256, MD5])
def test_from_the_web_once(workplace: Path, server: tuple[str, list[str]], checksum: str) -> None:
    address, asked = server
    source = Source(url=f"{address}/good.zip?download=1", checksum=checksum)
    path = fetch(source, key="k")
    assert path.read_bytes() == CONTENT and path.name == "good.zip"
    assert paths.store() / "downloads" in path.parents
    assert fetch(source, key="k") == path
    assert asked == ["/good.zip?download=1"]
    assert downloads() == [path]


def test_not_found_says_which_knob_takes_a_file(workplace: Path, server: tuple[str, list[str]]) -> None:
    url = f"{server[0]}/none.zip"
    with pytest.raises(UserError, match=rf"`k.url`: {url} cannot be fetched \(404.*-S k.url=/path/to/none.zip"):
        fetch(Source(url=url, checksum=SHA256), key="k")
    assert downloads() == []


def test_another_checksum_on_the_web_leaves_nothing(workplace: Path, server: tuple[str, list[str]]) -> None:
    with pytest.raises(UserError, match=r"`k.checksum`: .*good.zip is not what was expected"):
        fetch(Source(url=f"{server[0]}/good.zip", checksum=WRONG), key="k")
    assert downloads() == []


def test_no_server_at_all(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "PAUSE", 0.0)
    with pytest.raises(UserError, match=r"cannot be fetched .*fetch it by hand"):
        fetch(Source(url="http://127.0.0.1:9/a.zip", checksum=SHA256), key="k")
    assert downloads() == []


def test_another_checksum_is_another_file(workplace: Path, server: tuple[str, list[str]]) -> None:
    first = fetch(Source(url=f"{server[0]}/good.zip", checksum=SHA256), key="k")
    second = fetch(Source(url=f"{server[0]}/good.zip", checksum=MD5), key="k")
    assert first != second


def test_a_kept_download_that_was_damaged_is_refused(workplace: Path, server: tuple[str, list[str]]) -> None:
    source = Source(url=f"{server[0]}/good.zip", checksum=SHA256)
    fetch(source, key="k").write_bytes(b"damage")
    with pytest.raises(UserError, match="expected sha256"):
        fetch(source, key="k")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://x.org/a/b.zip?c=d#e", "b.zip"),
        ("https://x.org/a%20b%2f..%2fc.zip", "a-b-..-c.zip"),
        ("https://x.org/", "download"),
        ("pypi:some-name==1.0", "some-name==1.0.whl"),
    ],
)
def test_the_name_of_a_download_stays_in_its_folder(url: str, name: str) -> None:
    assert module._file_name(url) == name


# --- the package index


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A pip that finds one small wheel, and what it was asked."""
    asked: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append([str(word) for word in command])
        requirement = Path(command[command.index("-r") + 1]).read_text()
        asked.append([requirement])
        if WRONG in requirement:
            text = (
                f"ERROR: THESE PACKAGES DO NOT MATCH\n        Expected {WRONG}\n             Got        {SHA256[7:]}\n"
            )
            return subprocess.CompletedProcess(command, 1, "", text)
        if "none" in requirement:
            return subprocess.CompletedProcess(command, 1, "", "WARNING: x\nERROR: No matching distribution\n")
        (Path(command[command.index("-d") + 1]) / "tiny-1.0-py3-none-any.whl").write_bytes(CONTENT)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(module.subprocess, "run", run)
    return asked


def test_a_wheel_is_asked_for_with_its_hash(workplace: Path, pip: list[list[str]]) -> None:
    path = fetch(Source(url="pypi:tiny==1.0", checksum=SHA256), key="k")
    assert path.read_bytes() == CONTENT and path.name == "tiny==1.0.whl"
    assert pip[0][:4] == [sys.executable, "-m", "pip", "download"] and "--require-hashes" in pip[0]
    assert {"--no-deps", "--only-binary=:all:"} <= set(pip[0])
    assert pip[1] == [f"tiny==1.0 --hash={SHA256}\n"]
    fetch(Source(url="pypi:tiny==1.0", checksum=SHA256), key="k")
    assert len(pip) == 2  # once
    assert downloads() == [path]


def test_a_wheel_with_another_hash(workplace: Path, pip: list[list[str]]) -> None:
    with pytest.raises(UserError, match=rf"`k.checksum`: pypi:tiny==1.0 has {SHA256}, expected {WRONG}"):
        fetch(Source(url="pypi:tiny==1.0", checksum=WRONG), key="k")
    assert downloads() == []


def test_a_wheel_with_another_md5(workplace: Path, pip: list[list[str]]) -> None:
    assert fetch(Source(url="pypi:tiny==1.0", checksum=MD5), key="k").read_bytes() == CONTENT
    assert "--require-hashes" not in pip[0]
    with pytest.raises(UserError, match="expected md5:0000"):
        fetch(Source(url="pypi:tiny==1.0", checksum="md5:" + "0" * 32), key="k")


def test_a_wheel_that_does_not_exist(workplace: Path, pip: list[list[str]]) -> None:
    with pytest.raises(UserError, match=r"`k.url`: pip cannot fetch pypi:none==1.0: ERROR: No matching distribution"):
        fetch(Source(url="pypi:none==1.0", checksum=SHA256), key="k")
    assert downloads() == []


def test_the_real_pip_refuses_another_hash(workplace: Path, font_wheel_hash: str) -> None:
    with pytest.raises(UserError, match=rf"has sha256:{font_wheel_hash}, expected {WRONG}"):
        fetch(Source(url="pypi:fontawesomefree==6.6.0", checksum=WRONG), key="k")
    assert downloads() == []


@pytest.fixture(scope="session")
def font_wheel_hash(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("index")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    done = subprocess.run([*command, "fontawesomefree==6.6.0"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"the package index cannot be reached: {done.stderr.strip()[-200:]}")
    return hashlib.sha256(next(folder.glob("*.whl")).read_bytes()).hexdigest()
