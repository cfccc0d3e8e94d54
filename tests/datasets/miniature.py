"""Tiny archives and folders in the official layouts of datasets that tests cannot fetch."""

import io
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

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
