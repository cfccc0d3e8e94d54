"""What goes wrong with real data, by kind, in every reader that it can happen to."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from stages import index, paths
from stages.datasets import index_file
from stages.datasets.base import Box
from stages.errors import UserError
from stages.images.header import looks_like_image
from tests.datasets.kinds import BOXES, ONLY_IN_TEXT, READERS, SHARDS, SPELLINGS, Annotated, write

Make = Callable[..., Any]
ANT, BEE = ("ant", (4.0, 4.0, 20.0, 20.0)), ("bee", (10.0, 10.0, 30.0, 30.0))
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"


@pytest.fixture
def indexed(workplace: Path, params: Make) -> Make:
    """`indexed(reader, images, **options)`: rows by path, and the summary; images may be unreadable."""

    def make(
        reader: str, images: Sequence[Annotated], **options: Any
    ) -> tuple[dict[str, index_file.IndexRow], dict[str, Any]]:
        knobs = write(reader, workplace / "set", images)
        knobs["datasets"] = {reader: knobs["datasets"][reader] | options}
        index.main(params(**knobs, bad_images={"max_fraction": 1.0}))
        rows = {row.path: row for row in index_file.read(reader)}
        return rows, json.loads(paths.index(reader).with_suffix(".json").read_text())

    return make


def plain(jpeg: Make, count: int = 4, objects: Sequence[Any] = (ANT,)) -> list[Annotated]:
    return [Annotated(f"im{number}.jpg", jpeg(number), tuple(objects)) for number in range(count)]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("reader", BOXES)
def test_an_image_is_found_however_it_is_called(jpeg: Make, indexed: Make, reader: str, spelling: str) -> None:
    if READERS[reader].file_of and spelling in ONLY_IN_TEXT:
        pytest.skip("no file can be called so")
    paths = [f"señal {number}/im.{number}.jpg" for number in range(3)]
    images = [Annotated(path, jpeg(seed), name=SPELLINGS[spelling](path)) for seed, path in enumerate(paths)]
    rows, summary = indexed(reader, images)
    assert set(rows) == {f"{READERS[reader].images}/{path}" for path in paths}
    assert all(len(row.objects) == 1 for row in rows.values())
    assert summary["broken_annotations"] == summary["excluded"] == summary["bad"] == []


@pytest.mark.parametrize("reader", BOXES)
def test_of_several_files_of_one_stem_the_image_is_meant(
    jpeg: Make, indexed: Make, workplace: Path, reader: str
) -> None:
    home = workplace / "set" / READERS[reader].images
    home.mkdir(parents=True)
    for suffix in (".xml", ".txt", ".json"):
        (home / f"im0{suffix}").write_text("text")
    (home / "._im0.jpg").write_bytes(b"\0\5\x16\7")
    images = [Annotated("im0.jpg", jpeg(0), name="im0.jpeg"), *plain(jpeg)[1:]]
    rows, summary = indexed(reader, images)
    assert len(rows) == 4 and summary["broken_annotations"] == []


@pytest.mark.parametrize("reader", [name for name in BOXES if name != "yolo"])
def test_images_that_no_annotation_mentions_are_counted_and_told(
    jpeg: Make, indexed: Make, capsys: pytest.CaptureFixture[str], reader: str
) -> None:
    images = [*plain(jpeg), *(Annotated(f"new{number}.jpg", jpeg(9 + number), name=None) for number in range(3))]
    rows, summary = indexed(reader, images)
    assert len(rows) == 4 and summary["files"] == 7
    home = READERS[reader].images
    assert [item["path"] for item in summary["excluded"]] == [f"{home}/new{number}.jpg" for number in range(3)]
    assert "3 images are not used: 3 x no " in capsys.readouterr().out


@pytest.mark.parametrize("reader", BOXES)
def test_the_same_object_twice_counts_once(
    jpeg: Make, indexed: Make, capsys: pytest.CaptureFixture[str], reader: str
) -> None:
    rows, summary = indexed(reader, plain(jpeg, objects=(ANT, BEE, ANT)))
    assert all([box.label for box in row.objects] == ["ant", "bee"] for row in rows.values())
    assert len(summary["repeated_objects"]) == 4
    assert summary["repeated_objects"][0]["label"] == "ant"
    assert "4 objects stand twice" in capsys.readouterr().out


@pytest.mark.parametrize("reader", BOXES)
def test_records_of_one_file_have_their_objects_joined(jpeg: Make, indexed: Make, reader: str) -> None:
    again = Annotated("im0.jpg", None, (BEE,), name="IM0.jpg" if READERS[reader].file_of else "./im0.jpg")
    rows, summary = indexed(reader, [*plain(jpeg), again])
    assert {box.label for box in rows[f"{READERS[reader].images}/im0.jpg"].objects} == {"ant", "bee"}
    assert (summary["files"], summary["used"], summary["duplicates"]) == (4, 4, [])


@pytest.mark.parametrize("reader", ["coco", "voc"])
@pytest.mark.parametrize("turn", range(2, 9))
def test_boxes_of_the_stored_frame_are_turned_with_the_image(indexed: Make, reader: str, turn: int) -> None:
    """A white square on black, annotated as it is stored: it must be white where the box lies as it is shown."""
    import io

    import numpy as np
    from PIL import Image, ImageOps

    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[4:12, 60:76] = 255
    exif = Image.Exif()
    exif[0x112] = turn
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", exif=exif)
    images = [Annotated("im.png", stream.getvalue(), (("ant", (60, 4, 76, 12)),), size=(80, 40))]
    rows, summary = indexed(reader, images)
    (row,) = rows.values()
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(stream.getvalue()))))
    assert (row.height, row.width) == upright.shape[:2]
    if turn > 4:  # others keep the size: nobody can tell which frame was annotated
        x1, y1, x2, y2 = map(int, row.objects[0].box)
        assert upright[y1:y2, x1:x2].min() == 255 and upright.sum() == upright[y1:y2, x1:x2].sum()
        assert summary["broken_annotations"] == []


@pytest.mark.parametrize("reader", BOXES)
def test_when_no_image_can_be_used_the_reasons_are_told(jpeg: Make, indexed: Make, reader: str) -> None:
    broken = [Annotated(f"im{number}.jpg", jpeg(number)[:20]) for number in range(3)]
    images = [*broken, Annotated("pointer.jpg", LFS), Annotated("text.jpg", b"nothing to be seen")]
    with pytest.raises(UserError) as error:
        indexed(reader, images)
    message = str(error.value)
    assert (
        "No image was found" in message
        and "3 x " in message
        and "a Git LFS pointer" in message
        and "not an image" in message
    )


@pytest.mark.parametrize("reader", BOXES)
def test_when_no_object_can_be_used_the_reasons_are_told(jpeg: Make, indexed: Make, reader: str) -> None:
    outside = ("ant", (100.0, 100.0, 120.0, 120.0))
    with pytest.raises(UserError, match=r"None of 8 objects .* can be used: 8 x the box lies outside"):
        indexed(reader, plain(jpeg, objects=(outside, ("bee", (90.0, 90.0, 99.0, 99.0)))))


@pytest.mark.parametrize("reader", BOXES)
def test_a_class_of_objects_that_loses_all_of_them_is_named(
    jpeg: Make, indexed: Make, capsys: pytest.CaptureFixture[str], reader: str
) -> None:
    images = [*plain(jpeg), Annotated("im9.jpg", jpeg(9), (("owl", (100.0, 100.0, 120.0, 120.0)),))]
    rows, summary = indexed(reader, images)
    assert summary["lost_classes"] == ["owl"] and len(rows) == 5
    console = capsys.readouterr().out
    assert "no image is left of class 'owl'" in console and "1 image has lost all objects" in console


@pytest.mark.parametrize("reader", BOXES)
def test_classes_of_objects_can_be_left_out(jpeg: Make, indexed: Make, reader: str) -> None:
    rows, summary = indexed(reader, plain(jpeg, objects=(ANT, BEE)), exclude=["b*"])
    assert {box.label for row in rows.values() for box in row.objects} == {"ant"}
    assert summary["dropped_objects"] == {"`exclude` names it": 4} and summary["lost_classes"] == []


def in_classes(jpeg: Make, count: int = 3) -> list[Annotated]:
    return [Annotated(f"{label}/{number}.jpg", jpeg(100 * position + number), ((label, ANT[1]),))
            for position, label in enumerate(("ant", "bee", "cat")) for number in range(count)]  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("pattern", ["cat", "c*", "HOME/cat/*", "HOME/cat/", "*cat/*.jpg"])
def test_files_and_classes_can_be_left_out(jpeg: Make, indexed: Make, reader: str, pattern: str) -> None:
    pattern = pattern.replace("HOME/", "" if reader == "folder" else f"{READERS[reader].images}/")
    rows, summary = indexed(reader, in_classes(jpeg), exclude=[pattern])
    labels = {row.label for row in rows.values()} | {box.label for row in rows.values() for box in row.objects}
    assert labels - {""} == {"ant", "bee"}
    assert summary["lost_classes"] == []
    assert len(summary["excluded"]) + summary["used"] == summary["files"] == 9


@pytest.mark.parametrize("reader", READERS)
def test_a_pattern_that_names_nothing_is_refused(jpeg: Make, indexed: Make, reader: str) -> None:
    with pytest.raises(UserError, match=rf"`datasets.{reader}.exclude`: 'bees' matches no class .* did you mean .*bee"):
        indexed(reader, in_classes(jpeg), exclude=["bees"])


@pytest.mark.parametrize("reader", READERS)
def test_a_class_without_a_single_image_is_named(
    jpeg: Make, indexed: Make, capsys: pytest.CaptureFixture[str], reader: str
) -> None:
    images = in_classes(jpeg)
    lost = [Annotated(f"owl/{number}.jpg", LFS, (("owl", ANT[1]),)) for number in range(4)]
    _, summary = indexed(reader, [*images, *lost])
    assert summary["lost_classes"] == ["owl"]
    assert "no image is left of class 'owl': 4 x a Git LFS pointer" in capsys.readouterr().out


def test_the_pointer_of_git_lfs_is_not_taken_for_an_image() -> None:
    assert not looks_like_image(LFS)


@pytest.mark.parametrize("reader", ["folder", "csv"])
@pytest.mark.parametrize("strict", [False, True])
def test_one_image_of_two_classes(
    jpeg: Make, indexed: Make, workplace: Path, capsys: pytest.CaptureFixture[str], reader: str, strict: bool
) -> None:
    images = [*in_classes(jpeg), Annotated("ant/copy.jpg", jpeg(0))]
    for number in (1, 2):  # two pairs: an image of bee is one of cat as well
        images.append(Annotated(f"cat/bee{number}.jpg", jpeg(100 + number)))
    home = READERS[reader].images
    (workplace / "set").mkdir()
    lines = [f"{home}/{image.path},{image.path.partition('/')[0]}\n" for image in images]
    (workplace / "set/classes.csv").write_text("path,label\n" + "".join(lines))
    options = {"strict": strict} | ({"file": "classes.csv"} if reader == "csv" else {"exclude": ["classes.csv"]})
    if strict:
        with pytest.raises(UserError, match=r"(?s)2 images are in several classes.*bee/1.jpg.*bee/2.jpg"):
            indexed(reader, images, **options)
        return
    rows, summary = indexed(reader, images, **options)
    prefix = "" if reader == "folder" else f"{home}/"
    assert [[copy["path"] for copy in copies] for copies in summary["conflicts"]] == [
        [f"{prefix}bee/{number}.jpg", f"{prefix}cat/bee{number}.jpg"] for number in (1, 2)
    ]
    assert not any("bee1" in path or "bee/1" in path for path in rows)
    assert summary["duplicates"] == [{"path": f"{prefix}ant/copy.jpg", "of": f"{prefix}ant/0.jpg"}]
    console = capsys.readouterr().out
    assert all(f"bee/{number}.jpg (bee) = " in console for number in (1, 2))


def test_a_row_of_two_classes_for_one_file_is_a_contradiction_too(jpeg: Make, indexed: Make, workplace: Path) -> None:
    (workplace / "set").mkdir()
    (workplace / "set/classes.csv").write_text(
        "path,label\n" + "".join(f"im{number}.jpg,{label}\n" for number, label in enumerate("abab")) + "im0.jpg,b\n"
    )
    rows, summary = indexed("csv", plain(jpeg), file="classes.csv")
    assert len(rows) == 3
    assert summary["conflicts"] == [[{"path": "images/im0.jpg", "labels": ["a", "b"]}]]


@pytest.mark.parametrize("reader", READERS)
def test_classes_that_look_alike_are_asked_about(
    jpeg: Make, indexed: Make, capsys: pytest.CaptureFixture[str], reader: str
) -> None:
    labels = ["señal", "sen\u0303al", "Ant", "ant"]
    images = [
        Annotated(f"{label}/{number}.jpg", jpeg(number), ((label, ANT[1]),)) for number, label in enumerate(labels)
    ]
    indexed(reader, images)
    console = capsys.readouterr().out
    assert console.count("did you mean one?") == 2 and "'Ant' and 'ant'" in console and r"'sen\u0303al'" in console


@pytest.mark.parametrize("reader", [reader for reader in READERS if reader not in SHARDS])
def test_linked_folders_are_told_to_be_unwatched(
    jpeg: Make, indexed: Make, workplace: Path, capsys: pytest.CaptureFixture[str], reader: str
) -> None:
    other = workplace / "elsewhere"
    other.mkdir()
    (other / "0.jpg").write_bytes(jpeg(77))
    home = workplace / "set" / READERS[reader].images
    home.mkdir(parents=True)
    (home / "owl").symlink_to(other)
    rows, _ = indexed(reader, [*in_classes(jpeg), Annotated("owl/0.jpg", None, (("owl", ANT[1]),))])
    assert len(rows) == 10
    assert "owl is a link to another folder" in (console := capsys.readouterr().out)
    assert "`dvc repro -f -s index`" in console


def test_objects_that_count_nowhere_are_told(
    jpeg: Make, indexed: Make, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    indexed("coco", plain(jpeg))
    file = workplace / "set/all.json"
    tree = json.loads(file.read_text())
    for flag, count in (("1", 4), ("0", 0), (0, 0)):
        for annotation in tree["annotations"]:
            annotation["iscrowd"] = flag
        file.write_text(json.dumps(tree))
        capsys.readouterr()
        index.main(index_params(workplace))
        boxes = [box for row in index_file.read("coco") for box in row.objects]
        assert sum(box.crowd for box in boxes) == count and isinstance(boxes[0], Box)
        assert ("no object counts in any score: all 4" in capsys.readouterr().out) == bool(count)


def index_params(workplace: Path) -> Any:
    from stages.params import load

    return load(workplace / "params.yaml")


@pytest.mark.parametrize("kind", [str, float, int])
def test_ids_of_another_json_type_are_the_same(
    jpeg: Make, indexed: Make, workplace: Path, kind: Callable[[int], object]
) -> None:
    indexed("coco", plain(jpeg))
    file = workplace / "set/all.json"
    tree = json.loads(file.read_text())
    for annotation in tree["annotations"]:
        annotation["image_id"], annotation["category_id"] = kind(annotation["image_id"]), kind(0)
    file.write_text(json.dumps(tree))
    index.main(index_params(workplace))
    assert all(len(row.objects) == 1 for row in index_file.read("coco"))
