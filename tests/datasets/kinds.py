"""One small set written as each reader expects it, with the names that annotations give to its images."""

import csv
import io
import json
import re
import shutil
import tarfile
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import escape

from stages.datasets import caltech101, flickrlogos32, voc

Corners = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels from 0, right and bottom exclusive
SIZE = (48, 40)


@dataclass(frozen=True)
class Annotated:
    """An image and what an annotation says of it.

    Attributes:
        path: below the folder of images.
        data: its bytes; None where the file is not there.
        objects: class and corners of each object.
        name: how the annotation calls it; None where no annotation does.
        size: width and height as annotated.
    """

    path: str
    data: bytes | None
    objects: tuple[tuple[str, Corners], ...] = (("ant", (4, 4, 20, 20)),)
    name: str | None = ""
    size: tuple[int, int] = SIZE

    @property
    def called(self) -> str:
        """How the annotation calls it: by its path where nothing else is said."""
        return self.name or self.path


@dataclass(frozen=True)
class Reader:
    """How a set is written for a dataset, and which knobs it needs.

    Attributes:
        write: writes the annotations.
        images: the folder of the images.
        options: of its block below `datasets`.
        class_folders: whether the folder of an image is its class.
        objects: whether it reads objects.
        labels: the classes that it knows; empty if it takes any.
        file_of: the annotation file of an image of some name, where each image has a file of its own.
        suffixes: that images may have; empty if it takes any, or none.
    """

    write: Callable[[Path, Sequence[Annotated]], None]
    images: str
    options: dict[str, Any] = field(default_factory=dict)
    class_folders: bool = False
    objects: bool = True
    labels: tuple[str, ...] = ()
    file_of: Callable[[str], str] | None = None
    suffixes: tuple[str, ...] = ()


def write_coco(root: Path, images: Sequence[Annotated], name: str = "all.json") -> None:
    """One file of annotations."""
    labels = sorted({label for image in images for label, _ in image.objects} | {"ant"})
    annotations = [
        {"image_id": number, "category_id": labels.index(label), "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0}
        for number, image in enumerate(images)
        if image.name is not None
        for label, (x1, y1, x2, y2) in image.objects
    ]
    described = [
        {"id": number, "file_name": image.called, "width": image.size[0], "height": image.size[1]}
        for number, image in enumerate(images)
        if image.name is not None
    ]
    categories = [{"id": number, "name": label} for number, label in enumerate(labels)]
    tree = {"images": described, "annotations": annotations, "categories": categories}
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(tree))


def write_coco2017(root: Path, images: Sequence[Annotated]) -> None:
    """Two files of annotations, which share the images."""
    write_coco(root, images[::2], "annotations/instances_train2017.json")
    write_coco(root, images[1::2], "annotations/instances_val2017.json")


def write_csv(root: Path, images: Sequence[Annotated]) -> None:
    """`labels.csv` beside the folder of images."""
    with (root / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "x1", "y1", "x2", "y2"])
        for image in images:
            if image.name is not None:
                rows = [[image.called, label, *corners] for label, corners in image.objects]
                writer.writerows(rows or [[image.called, "", "", "", "", ""]])


def without_suffix(name: str) -> str:
    """A name without the suffix of an image."""
    return re.sub(r"(?i)\.(jpe?g|png|heic|txt)$", "", name)


def voc_annotation(name: str) -> str:
    """The annotation file of an image of this name."""
    return f"{without_suffix(name)}.xml"


def yolo_annotation(name: str) -> str:
    """The label file of an image of this name."""
    return f"{without_suffix(name)}.txt"


def write_voc(root: Path, images: Sequence[Annotated], home: str = "") -> None:
    """One file per image in `Annotations`, called like it; corners from 1."""
    (root / home / "Annotations").mkdir(parents=True, exist_ok=True)
    for image in images:
        if image.name is not None:
            objects = "".join(
                f"<object><name>{escape(label)}</name><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin>"
                f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
                for label, (x1, y1, x2, y2) in image.objects
            )
            size = f"<size><width>{image.size[0]}</width><height>{image.size[1]}</height></size>"
            path = root / home / "Annotations" / voc_annotation(image.called)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"<annotation>{size}{objects}</annotation>", encoding="utf-8")


def write_yolo(root: Path, images: Sequence[Annotated]) -> None:
    """One file per image in `labels`, called like it; `data.yaml` names the classes."""
    names = sorted({label for image in images for label, _ in image.objects} | {"ant"})
    (root / "data.yaml").write_text(json.dumps({"nc": len(names), "names": names}), encoding="utf-8")
    for image in images:
        if image.name is not None:
            lines = list[str]()
            for label, (x1, y1, x2, y2) in image.objects:
                shares = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
                sides = [f"{share / size:.6f}" for share, size in zip(shares, image.size * 2, strict=True)]
                lines.append(" ".join([str(names.index(label)), *sides]))
            path = root / "labels" / yolo_annotation(image.called)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{line}\n" for line in lines))


def write_folder(root: Path, images: Sequence[Annotated]) -> None:
    """Nothing: classes are folders."""


def write_flickrlogos32(root: Path, images: Sequence[Annotated]) -> None:
    """Lists that name the images in turn, and a file of boxes for every image that is there."""
    lists: dict[str, list[str]] = {name: [] for name in flickrlogos32.LISTS}
    home = root / "FlickrLogos-v2"
    for image, entries in zip(images, cycle(lists.values())):
        if image.name is not None:
            entries.append(f"classes/jpg/{image.called}")
        if image.data is not None:
            lines = [f"{x1:g} {y1:g} {x2 - x1:g} {y2 - y1:g}" for _, (x1, y1, x2, y2) in image.objects]
            boxes = home / "classes/masks" / f"{image.path}.bboxes.txt"
            boxes.parent.mkdir(parents=True, exist_ok=True)
            boxes.write_text("\n".join(["x y width height", *lines, ""]))
    for name, entries in lists.items():
        (home / f"{name}.relpaths.txt").write_text("\n".join([*entries, ""]), encoding="utf-8")


def write_webdataset(root: Path, images: Sequence[Annotated], name: str = "shard") -> None:
    """One tar of the images that are there, each with its first class beside it; an empty class is no label."""
    with tarfile.open(root / f"{name}.tar", "w") as packed:
        for image in images:
            members = {image.path: image.data}
            if image.name is not None and image.objects:
                members[str(PurePosixPath(image.path).with_suffix(".cls"))] = image.objects[0][0].encode()
            for path, data in members.items():
                if data is not None:
                    member = tarfile.TarInfo(path)
                    member.size = len(data)
                    packed.addfile(member, io.BytesIO(data))
    shutil.rmtree(root / name, ignore_errors=True)


def write_parquet(root: Path, images: Sequence[Annotated], name: str = "shard") -> None:
    """One file as Hugging Face writes it: a struct of bytes and path, and numbers of classes, named in the schema."""
    import pyarrow as pa
    from pyarrow import parquet

    first = [image.objects[0][0] if image.name is not None and image.objects else None for image in images]
    names = sorted({label for label in first if label is not None})
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    pictures = [image.data and {"bytes": image.data, "path": image.path} for image in images]
    numbers = [None if label is None else names.index(label) for label in first]
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", struct), ("label", pa.int64())])
    described = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(
        pa.table([pa.array(pictures, struct), pa.array(numbers, pa.int64())], described), root / f"{name}.parquet"
    )
    shutil.rmtree(root / name, ignore_errors=True)


READERS = {
    "coco": Reader(write_coco, "images", {"annotations": {"all": "all.json"}}),
    "csv": Reader(write_csv, "images"),
    "voc": Reader(write_voc, "JPEGImages", file_of=voc_annotation),
    "yolo": Reader(write_yolo, "images", file_of=yolo_annotation),
    "folder": Reader(write_folder, ".", class_folders=True, objects=False),
    "webdataset": Reader(write_webdataset, "shard", objects=False, suffixes=(".jpg", ".JPG", ".png", ".heic")),
    "parquet": Reader(write_parquet, "shard", objects=False),
}
SHARDS = ("webdataset", "parquet")
BOXES = [name for name in READERS if READERS[name].objects]
SENT = {"source": {"images": {"url": __file__}}}  # a file that is there
BLOOD_CELLS = ("RBC", "WBC", "Platelets")
ARCHIVES = {  # as they are unpacked
    "bccd": Reader(partial(write_voc, home="BCCD"), "BCCD/JPEGImages", labels=BLOOD_CELLS, file_of=voc_annotation),
    "caltech101": Reader(write_folder, f"caltech-101/{caltech101.FOLDER}", class_folders=True, objects=False),
    "coco2017": Reader(write_coco2017, "images"),
    "flickrlogos32": Reader(write_flickrlogos32, "FlickrLogos-v2/classes/jpg", SENT, class_folders=True),
    "voc2007": Reader(
        partial(write_voc, home="VOC2007"), "VOC2007/JPEGImages", labels=voc.CLASSES[:4], file_of=voc_annotation
    ),
}

SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": lambda path: path,
    "another suffix": lambda path: str(PurePosixPath(path).with_suffix(".png")),
    "no suffix": lambda path: str(PurePosixPath(path).with_suffix("")),
    "capitals": str.upper,
    "decomposed": lambda path: unicodedata.normalize("NFD", path),
    "percent-encoded": quote,
    "its name alone": lambda path: PurePosixPath(path).name,
    "backslashes": lambda path: path.replace("/", "\\"),
    "of another machine": lambda path: f"/home/ann/{path}",
    "upwards": lambda path: f"../{path}",
}
ONLY_IN_TEXT = ("backslashes", "of another machine", "upwards")  # what no file can be called


def write(reader: str, root: Path, images: Sequence[Annotated]) -> dict[str, Any]:
    """Writes a set; returns the knobs to read it with."""
    chosen = (READERS | ARCHIVES)[reader]
    home = root / chosen.images
    for image in images:
        if image.data is not None:
            (home / image.path).parent.mkdir(parents=True, exist_ok=True)
            (home / image.path).write_bytes(image.data)
    home.mkdir(parents=True, exist_ok=True)
    chosen.write(root, images)
    return {"dataset": reader, "root": str(root), "datasets": {reader: chosen.options}}
