"""Unpacking: archives of every kind, nested ones in their place. Hostile ones: tests/faults/test_archives.py."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from stages.datasets.unpack import is_archive, unpack

FILES = {"a/one.jpg": b"1" * 100, "a/b/two.jpg": b"2", "three.txt": b""}


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tarred(files: dict[str, bytes], mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.zip", zipped(FILES)),
        ("a.tar", tarred(FILES)),
        ("a.tar.gz", tarred(FILES, "w:gz")),
        ("a.tgz", tarred(FILES, "w:gz")),
        ("a.tar.bz2", tarred(FILES, "w:bz2")),
        ("a.tar.xz", tarred(FILES, "w:xz")),
    ],
)
def test_archives_of_every_kind(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    assert is_archive(name) and is_archive(name.upper())
    unpack(tmp_path / name, tmp_path / "deep" / "out")
    assert contents(tmp_path / "deep" / "out") == FILES
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def test_an_archive_inside_takes_its_own_place(tmp_path: Path) -> None:
    inner = tarred({"101/x/1.jpg": b"one"}, "w:gz")
    (tmp_path / "a.zip").write_bytes(zipped({"top/inner.tar.gz": inner, "top/read.me": b"text"}))
    unpack(tmp_path / "a.zip", tmp_path / "out")
    assert contents(tmp_path / "out") == {"top/101/x/1.jpg": b"one", "top/read.me": b"text"}


def test_a_member_may_begin_with_dot_slash_and_folders_are_passed_over(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        folder = tarfile.TarInfo("./")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        member = tarfile.TarInfo("./x/1.jpg")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"one"))
    (tmp_path / "a.tar").write_bytes(stream.getvalue())
    unpack(tmp_path / "a.tar", tmp_path / "out")
    assert contents(tmp_path / "out") == {"x/1.jpg": b"one"}


def test_what_another_experiment_unpacked_stays(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped(FILES))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "theirs").write_bytes(b"x")
    unpack(tmp_path / "a.zip", tmp_path / "out")
    assert contents(tmp_path / "out") == {"theirs": b"x"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "out"]


def test_what_is_no_archive_by_name() -> None:
    assert not any(is_archive(name) for name in ("a.jpg", "a.gz", "zip", "a.zip.txt", "a.rar"))
