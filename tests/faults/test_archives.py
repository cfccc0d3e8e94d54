"""Hostile archives: nothing outside the destination, nothing left behind."""

import io
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.datasets import unpack as module
from stages.datasets.unpack import unpack
from stages.errors import UserError
from tests.datasets.test_unpack import FILES, contents, tarred, zipped


def tar_of(*members: tuple[str, bytes, str]) -> bytes:
    """A tar of special members: name, type, link name."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, kind, target in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            content = b"content" if kind == tarfile.REGTYPE else b""
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def lying_size() -> bytes:
    """A zip whose member says that it is 10 bytes and is 1,000."""
    data = bytearray(zipped({"a.jpg": b"x" * 1000}))
    for mark, offset in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        place = data.index(mark) + offset
        assert struct.unpack_from("<I", data, place) == (1000,)
        struct.pack_into("<I", data, place, 10)
    return bytes(data)


def duplicate(one: str, other: str) -> bytes:
    stream = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch, zipfile.ZipFile(stream, "w") as archive:
        patch.setattr("warnings.warn", lambda *_, **__: None)
        archive.writestr(one, b"1")
        archive.writestr(other, b"2")
    return stream.getvalue()


def zip_link() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        entry = zipfile.ZipInfo("link")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, "/etc/passwd")
        archive.writestr("link/file", b"x")
    return stream.getvalue()


def encrypted() -> bytes:
    data = bytearray(zipped({"a.jpg": b"x" * 10}))
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(mark) + offset] |= 1
    return bytes(data)


def bad_crc() -> bytes:
    data = bytearray(zipped({"a.jpg": b"x" * 10}))
    data[data.index(b"PK\1\2") + 16] ^= 1
    return bytes(data)


REG, SYM, HARD = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
HOSTILE: dict[str, Callable[[], bytes]] = {
    "traversal.zip": lambda: zipped({"ok.jpg": b"1", "../evil": b"x"}),
    "traversal.tar": lambda: tarred({"ok.jpg": b"1", "../evil": b"x"}),
    "deep traversal.tar": lambda: tarred({"a/b/../../../evil": b"x"}),
    "dots.tar": lambda: tarred({"a/./b": b"x"}),
    "absolute.zip": lambda: zipped({"/tmp/coldcut-evil": b"x"}),
    "absolute.tar": lambda: tarred({"/tmp/coldcut-evil": b"x"}),
    "double slash.tar": lambda: tarred({"a//b": b"x"}),
    "dot slash absolute.tar": lambda: tarred({".//tmp/coldcut-evil": b"x"}),
    "drive.zip": lambda: zipped({"C:/evil": b"x"}),
    "drive relative.tar": lambda: tarred({"C:evil": b"x"}),
    "backslash.tar": lambda: tarred({"..\\evil": b"x"}),
    "control.tar": lambda: tarred({"a\nb": b"x"}),
    "link.zip": zip_link,
    "symlink.tar": lambda: tar_of(("link", SYM, ".."), ("link/evil", REG, "")),
    "absolute symlink.tar": lambda: tar_of(("link", SYM, "/tmp"), ("link/coldcut-evil", REG, "")),
    "hard link.tar": lambda: tar_of(("link", HARD, "../archive")),
    "chain.tar": lambda: tar_of(("a", SYM, "."), ("a/b", SYM, ".."), ("c", HARD, "a/b"), ("c/evil", REG, "")),
    "device.tar": lambda: tar_of(("dev", tarfile.CHRTYPE, "")),
    "block device.tar": lambda: tar_of(("dev", tarfile.BLKTYPE, "")),
    "pipe.tar": lambda: tar_of(("pipe", tarfile.FIFOTYPE, "")),
    "duplicate.zip": lambda: duplicate("a.jpg", "a.jpg"),
    "duplicate.tar": lambda: tar_of(("a", REG, ""), ("a", REG, "")),
    "case.zip": lambda: duplicate("a/B.jpg", "A/b.jpg"),
    "file and folder.zip": lambda: duplicate("a", "a/b"),
    "folder and file.zip": lambda: duplicate("a/b", "a"),
    "lying.zip": lying_size,
    "encrypted.zip": encrypted,
    "crc.zip": bad_crc,
    "no archive.zip": lambda: b"text",
    "no archive.tar.gz": lambda: b"text",
    "empty.tar": lambda: b"",
    "truncated.tar.gz": lambda: tarred({"a": bytes(range(256)) * 40}, "w:gz")[:-30],
    "truncated.tar": lambda: tarred({"a": b"x" * 5000})[:2000],
    "truncated.zip": lambda: zipped(FILES)[:-30],
    "nested.zip": lambda: zipped({"ok": b"1", "x/inner.tar": tarred({"../../../evil": b"x"})}),
    "nested link.zip": lambda: zipped({"inner.tar": tar_of(("l", SYM, "/tmp"), ("l/coldcut-evil", REG, ""))}),
    "nested over.zip": lambda: zipped({"inner.tar": tarred({"ok": b"2"}), "ok": b"1"}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives(tmp_path: Path, name: str) -> None:
    home = tmp_path / "x" / "y" / "z"
    home.mkdir(parents=True)
    archive = home / name
    archive.write_bytes(HOSTILE[name]())
    before = contents(tmp_path)
    with pytest.raises(UserError) as caught:
        unpack(archive, home / "out")
    assert str(caught.value)
    assert contents(tmp_path) == before
    assert [path.name for path in home.iterdir()] == [name]
    assert not Path("/tmp/coldcut-evil").exists()


@pytest.mark.parametrize("make", [zipped, lambda files: tarred(files, "w:gz")], ids=["zip", "tar.gz"])
def test_a_bomb_stops_early(
    tmp_path: Path, make: Callable[[dict[str, bytes]], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLACK", 1 << 20)
    name = "bomb.zip" if make is zipped else "bomb.tar.gz"
    (tmp_path / name).write_bytes(make({"zeros": bytes(8 << 20)}))
    with pytest.raises(UserError, match=f"{name} unpacks to more than 200 times its size: refused"):
        unpack(tmp_path / name, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_all_members_share_one_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLACK", 1000)
    monkeypatch.setattr(module, "MAX_RATIO", 0)
    monkeypatch.setattr(module, "MEMBER", 0)
    (tmp_path / "a.zip").write_bytes(zipped({"a": b"x" * 500, "b": b"x" * 500}))
    unpack(tmp_path / "a.zip", tmp_path / "fits")
    (tmp_path / "b.zip").write_bytes(zipped({"a": b"x" * 500, "b": b"x" * 501}))
    with pytest.raises(UserError, match="unpacks to more than"):
        unpack(tmp_path / "b.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_archives_inside_share_the_budget_of_the_outer_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLACK", 1 << 20)
    inner = {f"{number}.zip": zipped({f"{number}.zeros": bytes(1 << 19)}) for number in range(3)}
    (tmp_path / "one.zip").write_bytes(zipped({"0.zip": inner["0.zip"]}))
    unpack(tmp_path / "one.zip", tmp_path / "one")
    (tmp_path / "bomb.zip").write_bytes(zipped(inner))
    with pytest.raises(UserError, match="unpacks to more than 200 times its size"):
        unpack(tmp_path / "bomb.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_empty_files_without_number_are_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLACK", 1 << 16)
    (tmp_path / "bomb.tar.gz").write_bytes(tarred({str(number): b"" for number in range(2000)}, "w:gz"))
    monkeypatch.setattr(module, "MAX_RATIO", 10)
    with pytest.raises(UserError, match="unpacks to more than"):
        unpack(tmp_path / "bomb.tar.gz", tmp_path / "out")


def test_the_archives_are_as_many_as_promised() -> None:
    print(f"{len(HOSTILE)} hostile archives and 4 bombs")
    assert len(HOSTILE) >= 30
