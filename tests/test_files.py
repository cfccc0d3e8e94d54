"""Whole or not at all: what a full disk, a short write or an exception leaves behind is nothing."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages import files
from stages.errors import UserError


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder" / "file"
    with files.atomic_write(path) as descriptor:
        files.write_at(descriptor, b"world", 5)
        files.write_at(descriptor, b"hello", 0)
        assert not path.exists()
        (temporary,) = path.parent.iterdir()
        assert temporary.name.startswith("file.") and temporary.name.endswith(files.TEMPORARY)
    assert path.read_bytes() == b"helloworld"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        with files.atomic_write(tmp_path / "file") as descriptor:
            files.write_at(descriptor, b"half", 0)
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    files.write_bytes(path, b"old")

    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(files.Unwritable, match="file cannot be written: input/output error"):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_takes_the_place_of_the_old_one_or_changes_nothing(tmp_path: Path) -> None:
    home = tmp_path / "head"

    def fill(name: str, *, fails: bool = False) -> None:
        with files.whole_folder(home) as folder:
            files.write_bytes(folder / "deep" / name, b"1")
            assert not (home / "deep" / name).exists()
            if fails:
                raise KeyboardInterrupt

    fill("a")
    with pytest.raises(KeyboardInterrupt):
        fill("b", fails=True)
    (tmp_path / f"head.new{files.TEMPORARY}" / "killed").mkdir(parents=True)
    assert [path.name for path in home.rglob("*")] == ["deep", "a"]
    fill("c")
    assert [path.name for path in home.rglob("*")] == ["deep", "c"] and list(tmp_path.iterdir()) == [home]


def test_a_folder_that_cannot_be_renamed_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, replace = tmp_path / "head", os.replace
    (home / "old").mkdir(parents=True)

    def refuse_the_new(source: Path, target: Path) -> None:
        if source.name == f"head.new{files.TEMPORARY}":
            raise OSError(errno.EIO, "input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse_the_new)
    with pytest.raises(files.Unwritable, match="input/output error"), files.whole_folder(home) as folder:
        (folder / "new").mkdir()
    assert [path.name for path in home.iterdir()] == ["old"] and list(tmp_path.iterdir()) == [home]


def test_a_folder_behind_a_link_is_replaced_there(tmp_path: Path) -> None:
    (tmp_path / "elsewhere/old").mkdir(parents=True)
    (tmp_path / "head").symlink_to(tmp_path / "elsewhere")
    with files.whole_folder(tmp_path / "head") as folder:
        (folder / "new").mkdir()
    assert (tmp_path / "head").is_symlink()
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["new"]


def test_what_was_there_is_replaced_and_not_written_into(tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    files.write_bytes(path, b"old")
    os.link(path, other)
    files.write_bytes(path, b"new")
    assert (path.read_bytes(), other.read_bytes()) == (b"new", b"old")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300), most=st.integers(1, 50))
def test_short_writes_are_continued(
    data: bytes, most: int, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real, calls = tmp_path_factory.mktemp("short") / "file", os.pwrite, []

    def short(descriptor: int, view: memoryview, offset: int) -> int:
        calls.append(offset)
        return real(descriptor, view[:most], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", short)
        files.write_bytes(path, data)
    assert path.read_bytes() == data
    assert calls == list(range(0, len(data), most))


def test_a_view_of_wide_items_is_written_as_bytes(tmp_path: Path) -> None:
    with files.atomic_write(tmp_path / "file") as descriptor:
        files.write_at(descriptor, memoryview(b"abcdefgh").cast("I"), 0)
    assert (tmp_path / "file").read_bytes() == b"abcdefgh"


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "no space left on device")


def test_a_full_disk_shows_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    begun = []

    def write() -> None:
        with files.atomic_write(tmp_path / "file", 1000) as descriptor:
            begun.append(descriptor)

    with pytest.raises(
        files.Unwritable, match=r"file cannot be written, the disk is full: 1,000 bytes are needed, [\d,]+ are"
    ):
        write()
    assert begun == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["pwrite", "fsync"])
def test_a_disk_that_fills_in_the_middle_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(os, call, full)
    with pytest.raises(files.Unwritable, match="the disk is full: 4 bytes are needed"):
        files.write_bytes(tmp_path / "file", b"data")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("with_blocks", [True, False])
def test_the_size_is_reserved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_blocks: bool) -> None:
    if not with_blocks:  # macOS
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    with files.atomic_write(tmp_path / "file", 70_000) as descriptor:
        assert os.fstat(descriptor).st_size == 70_000
        if with_blocks and hasattr(os, "posix_fallocate"):
            assert os.fstat(descriptor).st_blocks * 512 >= 70_000
    assert (tmp_path / "file").read_bytes() == bytes(70_000)


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    used = []
    for number in range(3):
        with files.atomic_write(tmp_path / str(number)) as descriptor:
            used.append(descriptor)
    for descriptor in used:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def test_the_file_is_synced_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def noted(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            order.append(name)
            return real(*arguments)

        return call

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
    files.write_bytes(tmp_path / "file", b"data")
    assert order == ["fsync", "replace", "fsync"]  # the file, its name, the folder


def test_what_killed_writers_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    kept = [path, tmp_path / "f.h5x.01234567.partial", tmp_path / "g.h5.01234567.partial", tmp_path / "f.h5.json"]
    left = [tmp_path / "f.h5.01234567.partial", tmp_path / "f.h5.0.partial"]
    for name in (*kept, *left):
        name.write_bytes(b"")
    files.remove_leftovers(path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    files.remove_leftovers(tmp_path / "no folder" / "file")


def test_the_room_is_told_for_a_path_that_is_not_there_yet(tmp_path: Path) -> None:
    assert files.free(tmp_path / "deep" / "file") > 0


def test_a_failed_link_leaves_nothing_beside_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"new")
    target.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(files.Unwritable, match="target cannot be written"):
        files.link(source, target)
    assert target.read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == [source, target]


def test_a_link_replaces_what_was_there(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "deep" / "target"
    source.write_bytes(b"content")
    for _ in range(2):
        files.link(source, target)
        assert target.stat().st_ino == source.stat().st_ino
        target.unlink()
        target.write_bytes(b"old")
    assert list(target.parent.iterdir()) == [target]


def test_a_copy_where_links_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "source", tmp_path / "deep" / "target"
    content = os.urandom((1 << 20) + 17)
    source.write_bytes(content)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    files.link(source, target)
    assert target.read_bytes() == content
    assert target.stat().st_ino != source.stat().st_ino
    assert list(target.parent.iterdir()) == [target]


def test_linking_what_is_linked_already_leaves_nothing_behind(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"rows")
    for _ in range(2):
        files.link(source, target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_copy_does_not_write_into_what_the_name_was_linked_to(tmp_path: Path) -> None:
    cached, out, source = tmp_path / "cached", tmp_path / "out", tmp_path / "source"
    cached.write_bytes(b"old")
    files.link(cached, out)
    source.write_bytes(b"new")
    files.copy(source, out)
    assert (cached.read_bytes(), out.read_bytes()) == (b"old", b"new")


def test_json_ends_with_a_line_break_and_keeps_names_that_are_not_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9 \xc3\xa9")
    files.write_json(tmp_path / "a.json", {"b": name, "a": 1}, sort_keys=True, ensure_ascii=False)
    text = (tmp_path / "a.json").read_text()
    assert text == '{"a": 1, "b": "caf\\udce9 é"}\n' and json.loads(text)["b"] == name
    files.write_json_lines(tmp_path / "a.jsonl", [{"path": name}, {"path": "x"}])
    assert [json.loads(line)["path"] for line in (tmp_path / "a.jsonl").read_text().splitlines()] == [name, "x"]


def test_a_table_has_a_header_and_empty_cells(tmp_path: Path) -> None:
    rows = [{"a": 1, "b": 0.123456789}, {"a": None, "b": "x,y"}, {"b": 1e-7}]
    files.write_csv(tmp_path / "t.csv", ("a", "b"), rows, digits=3)
    assert (tmp_path / "t.csv").read_text() == 'a,b\n1,0.123\n,"x,y"\n,1e-07\n'
    files.write_csv(tmp_path / "t.csv", ("a", "b"), rows[:1])
    assert (tmp_path / "t.csv").read_text() == "a,b\n1,0.123456789\n"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_from_a_spreadsheet(tmp_path: Path, separator: str) -> None:
    """Where the decimal sign is a comma, spreadsheets put semicolons between cells."""
    lines = [("path", "note", "decision"), ('"a, b; c.jpg"', "x", "keep"), ("d.jpg", "")]
    (tmp_path / "t.csv").write_text("\ufeff" + "\n".join(map(separator.join, lines)), encoding="utf-8")
    first, second = files.read_table(tmp_path / "t.csv", ("decision", "path"), expected="a table")
    assert first == ({"path": "a, b; c.jpg", "decision": "keep"}, f"{tmp_path / 't.csv'}, line 2")
    assert second[0] == {"path": "d.jpg", "decision": ""}


def test_what_a_table_lacks(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path;other\n")
    with pytest.raises(UserError, match=r"t\.csv lacks the columns label, decision: expected a copy of it\."):
        files.read_table(tmp_path / "t.csv", ("path", "label", "decision"), expected="a copy of it")
