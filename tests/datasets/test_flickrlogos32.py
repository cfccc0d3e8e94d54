"""FlickrLogos-32 from a miniature archive in the official layout."""

import json
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages import download, index, paths, split
from stages.blocks import Source
from stages.datasets import flickrlogos32, index_file, splits
from stages.datasets.base import AnnotationFault, Box, EmptyClass, Item, Note, Record, UnusedFile
from stages.datasets.unpack import unpack
from stages.errors import UserError
from tests.datasets import miniature

Items = list[Item]


def scanned(archive: Path, protocol: str = "notebook") -> Items:
    home = archive.with_suffix(".unpacked")
    unpack(archive, home)
    source = flickrlogos32.Archives(images=Source(url="x.zip"))
    values = {"source": source, "protocol": protocol, "exclude": [], "strict": False}
    options = flickrlogos32.Options.model_validate(values)
    return list(flickrlogos32.scan(home, options))


def counts(items: Items, *, logos: bool) -> dict[str | None, int]:
    records = [item for item in items if isinstance(item, Record)]
    return Counter(record.split for record in records if (record.label != "no-logo") == logos)


@pytest.mark.parametrize(
    ("protocol", "logos", "plain"),
    [
        ("notebook", {"train": 3 * (2 + 2), "val": 3 * 2, "test": 3 * 3}, {"train": 3, "val": 3, "test": 6}),
        ("owners", {"train": 3 * 2, "val": 3 * 4, "test": 3 * 3}, {"val": 6, "test": 6}),
    ],
)
def test_each_list_goes_where_the_protocol_says(
    tmp_path: Path, protocol: str, logos: dict[str, int], plain: dict[str, int]
) -> None:
    items = scanned(miniature.flickrlogos32(tmp_path / "logos.zip"), protocol)
    assert counts(items, logos=True) == logos
    assert counts(items, logos=False) == plain
    names = [item.path for item in items if isinstance(item, Record)]
    assert len(set(names)) == len(names) == sum(logos.values()) + sum(plain.values())


def test_the_notebook_protocol_gives_the_published_numbers(tmp_path: Path) -> None:
    """In the proportions of the original, 10, 30 and 30 a brand and a hundredth of the brands' rest."""
    archive = miniature.flickrlogos32(tmp_path / "logos.zip", brands=["a"], train=10, val=30, test=30, no_logo=94)
    items = scanned(archive)
    per_split = counts(items, logos=True)
    assert {part: 32 * count for part, count in per_split.items()} == {"train": 320 + 480, "val": 480, "test": 960}
    assert counts(items, logos=False) == {"train": 47, "val": 47, "test": 94}


def test_alternate_entries_of_each_brand_go_to_train(tmp_path: Path) -> None:
    items = scanned(miniature.flickrlogos32(tmp_path / "logos.zip", brands=["a", "b"], train=1, val=3, no_logo=3))
    listed = [item for item in items if isinstance(item, Record) and item.split != "test"]
    assert [(record.label, record.split) for record in listed] == [
        *(("a", "train"), ("b", "train")),  # trainset
        *(("a", "train"), ("a", "val"), ("a", "train"), ("b", "train"), ("b", "val"), ("b", "train")),
        *(("no-logo", "train"), ("no-logo", "val"), ("no-logo", "train")),
    ]


def test_boxes_are_read_from_the_masks_and_brands_are_lower_case(tmp_path: Path) -> None:
    items = scanned(miniature.flickrlogos32(tmp_path / "logos.zip"))
    records = {item.path.rpartition("/")[2]: item for item in items if isinstance(item, Record)}
    assert not any(isinstance(item, AnnotationFault) for item in items)
    assert records["000000.jpg"].objects == (Box("adidas", (8, 12, 38, 32)),)
    assert records["000003.jpg"].objects == (Box("hp", (8, 12, 38, 32)), Box("hp", (40, 40, 56, 56)))
    assert {record.label for record in records.values()} == {"adidas", "hp", "ups", "no-logo"}
    assert all(not record.objects for record in records.values() if record.label == "no-logo")


def test_a_listed_image_that_is_not_there_is_bad(tmp_path: Path) -> None:
    missing = ["classes/jpg/adidas/000001.jpg", "classes/jpg/ups/000004.jpg"]
    items = scanned(miniature.flickrlogos32(tmp_path / "logos.zip", missing=missing))
    problems = {item.path: item.problem for item in items if isinstance(item, Record) and item.problem}
    assert problems == {f"FlickrLogos-v2/{path}": "the image is not there" for path in missing}


def rewritten(archive: Path, changes: dict[str, str | None]) -> Path:
    """A copy of an archive with other contents of some members; None leaves one out."""
    copy = archive.with_name("rewritten.zip")
    with zipfile.ZipFile(archive) as packed, zipfile.ZipFile(copy, "w") as changed:
        for entry in packed.namelist():
            if (content := changes.get(entry, packed.read(entry))) is not None:
                changed.writestr(entry, content)
    return copy


def test_lists_may_spell_images_otherwise_and_repeat_them(tmp_path: Path) -> None:
    archive = miniature.flickrlogos32(tmp_path / "logos.zip", brands=["HP", "ups"], train=2, val=2, test=1, no_logo=2)
    train = ".\\classes\\jpg\\hp\\000000.JPG\nclasses/jpg/hp/000001.jpg\nclasses/jpg/hp/000001.jpg\n"
    items = scanned(rewritten(archive, {"FlickrLogos-v2/trainset.relpaths.txt": train}))
    records = [item for item in items if isinstance(item, Record) and item.label == "hp" and item.split == "train"]
    names = [record.path.rpartition("/")[2] for record in records]
    assert names == ["000000.jpg", "000001.jpg", "000004.jpg"] and not any(record.problem for record in records)
    assert [item.text for item in items if isinstance(item, Note)] == [
        "1 image is listed again: the first of testset, trainset and the valsets counts"
    ]
    unused = [item for item in items if isinstance(item, UnusedFile)]
    assert [item.path.rpartition("/")[2] for item in unused] == ["000002.jpg", "000003.jpg"]  # trainset's of ups
    assert [item.objects for item in unused] == [1, 2]


def test_a_brand_that_no_list_names_is_told(tmp_path: Path) -> None:
    archive = miniature.flickrlogos32(tmp_path / "logos.zip", brands=["a", "b"], train=1, val=1, test=1, no_logo=2)
    lists = ("trainset", "valset-logosonly", "testset")
    with zipfile.ZipFile(archive) as packed:
        texts = {name: packed.read(f"FlickrLogos-v2/{name}.relpaths.txt").decode("utf-8-sig") for name in lists}
    without = {
        f"FlickrLogos-v2/{name}.relpaths.txt": "".join(
            line for line in text.splitlines(keepends=True) if "/b/" not in line
        )
        for name, text in texts.items()
    }
    items = scanned(rewritten(archive, without))
    assert {item for item in items if isinstance(item, EmptyClass)} == {EmptyClass("b", "no list names it")}


def test_another_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "logos.zip", "w") as packed:
        packed.writestr("FlickrLogos-v2/readme.txt", "")
    with pytest.raises(UserError, match=r"has no trainset.relpaths.txt: is it FlickrLogos-32"):
        scanned(tmp_path / "logos.zip")


@pytest.mark.parametrize("content", [None, "x y width height\n1 2 three 4\n", "x y width height\n1 2 3\n"])
def test_broken_boxes_are_told_with_their_file(tmp_path: Path, content: str | None) -> None:
    name = "FlickrLogos-v2/classes/masks/adidas/000000.jpg.bboxes.txt"
    items = scanned(rewritten(miniature.flickrlogos32(tmp_path / "logos.zip"), {name: content}))
    broken = [item for item in items if isinstance(item, AnnotationFault)]
    assert [item.path for item in broken] == [name]
    assert "000000.jpg" in broken[0].reason
    first = next(item for item in items if isinstance(item, Record) and item.path.endswith("/000000.jpg"))
    assert first.objects == () and first.label == "adidas"


def test_from_the_archive_to_the_split(workplace: Path, params: Callable[..., Any]) -> None:
    archive = miniature.flickrlogos32(workplace / "sent.zip")
    block = {"source": {"images": {"url": str(archive), "checksum": None}}}
    chosen = params(dataset="flickrlogos32", datasets={"flickrlogos32": block})
    download.main(chosen)
    index.main(chosen)
    split.main(chosen)
    rows = index_file.read("flickrlogos32")
    assert Counter(row.label for row in rows) == {"adidas": 9, "hp": 9, "ups": 9, "no-logo": 12}
    summary = json.loads(paths.index("flickrlogos32").with_suffix(".json").read_text())
    assert summary["lists"] == {"train": 15, "val": 9, "test": 15}
    assert summary["objects"]["train"]["adidas"] == {"objects": 5, "difficult": 0}
    assert summary["broken_annotations"] == []
    assert {part: len(images) for part, images in splits.read("flickrlogos32").items()} == summary["lists"]


def test_without_the_archive_the_message_says_where_it_comes_from(params: Callable[..., Any], workplace: Path) -> None:
    (workplace / "data/none").mkdir(parents=True)
    with pytest.raises(UserError, match=r"there is no file 'FlickrLogos-32_dataset_v2.zip \(its owners send it"):
        params(dataset="flickrlogos32")
