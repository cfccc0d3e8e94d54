"""Caltech-101 from a miniature archive in the official nesting: a zip with a tar.gz inside."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from stages import download, index, paths
from stages.blocks import Source
from stages.datasets import caltech101, index_file
from stages.datasets.base import Record, UnusedFile
from stages.datasets.unpack import unpack
from stages.errors import UserError

CLASSES = ("BACKGROUND_Google", "Faces", "accordion")


def options() -> caltech101.Options:
    return caltech101.Options(source=caltech101.Archives(images=Source(url="x.zip")), exclude=[], strict=False)


@pytest.fixture
def archive(tmp_path: Path, jpeg: Callable[..., bytes]) -> Path:
    """caltech-101.zip as the owner nests it, with macOS's litter."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as packed:
        for position, label in enumerate(CLASSES):
            for number in (1, 2, 3, 4):
                content = jpeg(10 * position + number)
                member = tarfile.TarInfo(f"101_ObjectCategories/{label}/image_{number:04}.jpg")
                member.size = len(content)
                packed.addfile(member, io.BytesIO(content))
        litter = tarfile.TarInfo("101_ObjectCategories/Faces/.DS_Store")
        packed.addfile(litter, io.BytesIO())
    path = tmp_path / "caltech-101.zip"
    with zipfile.ZipFile(path, "w") as outer:
        outer.writestr("caltech-101/101_ObjectCategories.tar.gz", inner.getvalue())
        outer.writestr("caltech-101/show_annotation.m", "text")
        outer.writestr("__MACOSX/caltech-101/._101_ObjectCategories.tar.gz.txt", "litter")
        outer.writestr("__MACOSX/101_ObjectCategories/x", "litter")
    return path


@pytest.fixture
def unpacked(archive: Path, tmp_path: Path) -> Path:
    unpack(archive, tmp_path / "images")
    return tmp_path / "images"


def test_the_images_of_every_class(unpacked: Path) -> None:
    records = [item for item in caltech101.scan(unpacked, options()) if isinstance(item, Record)]
    images = [record for record in records if record.path.endswith(".jpg")]
    assert [record.label for record in images] == [label for label in CLASSES for _ in range(4)]
    assert {record.path.rpartition("/")[2] for record in records if record not in images} == {".DS_Store"}
    assert records[0].path == "caltech-101/101_ObjectCategories/BACKGROUND_Google/image_0001.jpg"
    assert all((unpacked / record.path).is_file() and record.split is None for record in records)


def test_images_outside_of_the_classes_are_told(unpacked: Path, jpeg: Callable[..., bytes]) -> None:
    home = unpacked / "caltech-101/101_ObjectCategories"
    for path in (home / "loose.jpg", unpacked / "caltech-101/elsewhere.jpg", home / "Faces/more/deep.jpg"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(jpeg(99))
    items = list(caltech101.scan(unpacked, options()))
    unused = {item.path.rpartition("/")[2]: item.reason for item in items if isinstance(item, UnusedFile)}
    assert unused == {
        "elsewhere.jpg": "it lies outside of caltech-101/101_ObjectCategories",
        "loose.jpg": "it lies in no class folder",
    }
    assert any(isinstance(item, Record) and item.path.endswith("Faces/more/deep.jpg") for item in items)


def test_another_archive(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="has no folder 101_ObjectCategories: is it the official"):
        list(caltech101.scan(tmp_path / "other", options()))


def test_download_and_index(archive: Path, workplace: Path, params: Callable[..., object]) -> None:
    source = {"source": {"images": {"url": str(archive), "checksum": None}}, "exclude": ["Faces"]}
    chosen = params(dataset="caltech101", datasets={"caltech101": source})
    download.main(chosen)  # type: ignore[arg-type]
    downloaded = paths.raw("caltech101") / "caltech-101.zip"
    assert downloaded.read_bytes() == archive.read_bytes() and downloaded.stat().st_ino != archive.stat().st_ino
    index.main(chosen)  # type: ignore[arg-type]
    rows = index_file.read("caltech101")
    assert [row.label for row in rows] == ["BACKGROUND_Google"] * 4 + ["accordion"] * 4
    assert {(row.width, row.height) for row in rows} == {(48, 40)}
