"""Tiny archives and folders in the official layouts of datasets that tests cannot fetch."""

import io
import json
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

BRANDS = ("adidas", "HP", "ups")
SIDE = 64  # pixels
BOM = "\ufeff"


def photograph(seed: int, size: tuple[int, int] = (SIDE, SIDE)) -> bytes:
    """A JPEG of `size` (width, height) that differs with every seed."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(blocks).resize(size, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def flickrlogos32(
    path: Path,
    *,
    brands: Sequence[str] = BRANDS,
    train: int = 2,
    val: int = 4,
    test: int = 3,
    no_logo: int = 6,
    missing: Iterable[str] = (),
) -> Path:
    """Writes FlickrLogos-32's archive to `path`: folders, masks, lists (some with a byte-order mark or CRLF).

    Args:
        path: where the zip goes.
        brands: their folders below classes/jpg; masks lie in lower case, as in the original.
        train: images a brand in trainset.
        val: images a brand in valset-logosonly.
        test: images a brand in testset and testset-logosonly.
        no_logo: images in valset-nologos, and as many in testset.
        missing: files that the archive lacks, as the lists name them.
    """
    number = iter(range(1_000_000))
    logos = {
        name: [f"classes/jpg/{brand}/{next(number):06}.jpg" for brand in brands for _ in range(count)]
        for name, count in (("trainset", train), ("valset-logosonly", val), ("testset-logosonly", test))
    }
    plain = [[f"classes/jpg/no-logo/{next(number):06}.jpg" for _ in range(no_logo)] for _ in ("val", "test")]
    lists = logos | {"valset-nologos": plain[0], "testset": logos["testset-logosonly"] + plain[1]}
    images = [name for names in (*logos.values(), *plain) for name in names]
    with zipfile.ZipFile(path, "w") as packed:
        for seed, name in enumerate(images):
            if name not in set(missing):
                packed.writestr(f"FlickrLogos-v2/{name}", photograph(seed))
        for name in (name for names in logos.values() for name in names):
            _, _, brand, file = name.split("/")
            boxes = "x y width height\n8 12 30 20\n" + ("40 40 16 16\n" if int(file[:6]) % 2 else "")
            packed.writestr(f"FlickrLogos-v2/classes/masks/{brand.lower()}/{file}.bboxes.txt", boxes)
        for name, entries in lists.items():
            mark, end = (BOM, "\r\n") if name.startswith("valset") else ("", "\n")
            packed.writestr(f"FlickrLogos-v2/{name}.relpaths.txt", mark + end.join(entries) + end)
        packed.writestr("FlickrLogos-v2/README.txt", "miniature")
    return path


Corners = tuple[float, float, float, float]  # xmin, ymin, xmax, ymax: from 1, inclusive
VOC_LISTS = {"train": 4, "val": 3, "test": 2}


def voc_xml(*objects: tuple[str, Corners], size: tuple[int, int] = (SIDE, SIDE), difficult: Iterable[int] = ()) -> str:
    """An annotation as VOC writes it, with a part in its first object; `difficult` numbers objects from 0."""
    text = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size><segmented>0</segmented>"
    for number, (name, corners) in enumerate(objects):
        tags = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
        box = "<bndbox>" + "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags) + "</bndbox>"
        flags = f"<truncated>{number % 2}</truncated><difficult>{int(number in set(difficult))}</difficult>"
        part = f"<part><name>head</name>{box}</part>" if number == 0 else ""
        text += f"<object><name>{name}</name><pose>Left</pose>{flags}{box}{part}</object>"
    return f"<annotation><folder>VOC</folder>{text}</annotation>"


def voc(
    home: Path, *, lists: Mapping[str, int] = VOC_LISTS, classes: Sequence[str] = ("cat", "dog"), seed: int = 0
) -> Path:
    """Writes a set in VOC's layout to `home`: JPEGImages, Annotations, ImageSets/Main; names and pixels follow `seed`.

    Every image has an object of the first class in turn and a small difficult one of the next; trainval is listed too.
    """
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main", "SegmentationClass"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    names: dict[str, list[str]] = {}
    for part, count in lists.items():
        names[part] = [f"{seed + len(names):05}_{number:06}" for number in range(count)]
        for number, name in enumerate(names[part]):
            first, second = (classes[(number + position) % len(classes)] for position in (0, 1))
            xml = voc_xml((first, (5, 9, 44, 48)), (second, (50, 50, 64, 64)), difficult=[1])
            (home / f"Annotations/{name}.xml").write_text(xml)
            (home / f"JPEGImages/{name}.jpg").write_bytes(photograph(zlib.crc32(name.encode())))
    if "train" in names:
        names["trainval"] = sorted(names["train"] + names.get("val", []))
    for part, listed in names.items():
        (home / f"ImageSets/Main/{part}.txt").write_text("\n".join(listed) + "\n")
    return home


def tar(path: Path, folder: Path) -> Path:
    """Packs a folder as the official tar archives are: its own name on top."""
    with tarfile.open(path, "w") as packed:
        packed.add(folder, folder.name)
    return path


def coco(home: Path, lists: Mapping[str, int], *, annotations: str = "annotations") -> dict[str, Path]:
    """Writes a set in COCO's layout: images in `home/<list>2017`, and `annotations/instances_<list>2017.json` for each.

    Categories have the numbers 1, 18 and 90. The images have none, one, two objects in turn, every fourth a crowd too.
    """
    files = {}
    for position, (part, count) in enumerate(lists.items()):
        described, objects = list[dict[str, Any]](), list[dict[str, Any]]()
        (home / f"{part}2017").mkdir(parents=True, exist_ok=True)
        for number in range(count):
            name, key = f"{number + 100 * position:012}.jpg", 7 * number + 1000 * position
            (home / f"{part}2017" / name).write_bytes(photograph(zlib.crc32(f"{part}{number}".encode())))
            described.append({"id": key, "file_name": name, "width": SIDE, "height": SIDE, "license": 1})
            mask, rle = [[1.5, 2, 9, 9]], {"counts": [3, 4], "size": [SIDE, SIDE]}
            shared = {"image_id": key, "area": 12.5, "iscrowd": 0, "segmentation": mask}
            for place_in, category in enumerate((18, 90)[: number % 3]):
                side = 30.25 - 20 * place_in
                objects.append(shared | {"category_id": category, "bbox": [3.5, 4, side, side]})
            if number % 4 == 3:
                objects.append(shared | {"category_id": 1, "bbox": [0, 0, 60, 60], "iscrowd": 1, "segmentation": rle})
        categories = [{"id": number, "name": name} for number, name in ((1, "person"), (18, "dog"), (90, "brush"))]
        tree = {"info": {}, "images": described, "annotations": objects, "categories": categories}
        files[part] = home / annotations / f"instances_{part}2017.json"
        files[part].parent.mkdir(parents=True, exist_ok=True)
        files[part].write_text(json.dumps(tree))
    return files


def pack(path: Path, folder: Path) -> Path:
    """Packs a folder into a zip, its own name on top."""
    with zipfile.ZipFile(path, "w") as packed:
        for file in sorted(folder.rglob("*")):
            packed.write(file, file.relative_to(folder.parent))
    return path
