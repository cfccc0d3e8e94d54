"""Golden values: what the pipeline makes of fixed images, and a fixed network of those.

Cached features are only found again by their provenance, and PIPELINE stands there for our own code. When this test
fails, the code changes what comes out: raise PIPELINE and renew the values with `python tests/features/test_golden.py`.
"""

import base64
import hashlib
import json
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from stages.backbones import cuts, zoo  # noqa: E402
from stages.images.decode import PIPELINE, decode, prepare  # noqa: E402
from stages.images.options import Augment  # noqa: E402
from stages.images.preprocessing import Preprocessing  # noqa: E402
from stages.images.views import names, view  # noqa: E402

GOLDEN = Path(__file__).with_name("golden.json")
CHANGED = "the pipeline's output changed: raise PIPELINE and renew the golden values"
RENEW = "PIPELINE is {}, the golden values are of {}: renew them with `python tests/features/test_golden.py`"
LEVELS = 1.0  # grey levels that libraries may differ by, on means of 7 x 7 pixels
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VIEWS = {
    "crop bilinear": Preprocessing(64, 56, "bilinear", MEAN, STD),
    "crop bicubic": Preprocessing(64, 56, "bicubic", MEAN, STD),
    "squash bilinear": Preprocessing(None, 56, "bilinear", MEAN, STD),
}
AUGMENT = Augment(crop=0.4, flip=True, rotate=20.0, lighting=0.2)
DRAWN = names(3, AUGMENT, 0)[1:]
# 72 x 54, colour blocks, EXIF orientation 6
JPEG = """
/9j/4AAQSkZJRgABAQAAAQABAAD/4QAiRXhpZgAATU0AKgAAAAgAAQESAAMAAAABAAYAAAAAAAD/2wBDAA0JCgsKCA0LCgsODg0PEyAVExISEycc
HhcgLikxMC4pLSwzOko+MzZGNywtQFdBRkxOUlNSMj5aYVpQYEpRUk//2wBDAQ4ODhMREyYVFSZPNS01T09PT09PT09PT09PT09PT09PT09PT09P
T09PT09PT09PT09PT09PT09PT09PT09PT0//wAARCAA2AEgDASIAAhEBAxEB/8QAHwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL/8QAtRAA
AgEDAwIEAwUFBAQAAAF9AQIDAAQRBRIhMUEGE1FhByJxFDKBkaEII0KxwRVS0fAkM2JyggkKFhcYGRolJicoKSo0NTY3ODk6Q0RFRkdISUpTVFVW
V1hZWmNkZWZnaGlqc3R1dnd4eXqDhIWGh4iJipKTlJWWl5iZmqKjpKWmp6ipqrKztLW2t7i5usLDxMXGx8jJytLT1NXW19jZ2uHi4+Tl5ufo6erx
8vP09fb3+Pn6/8QAHwEAAwEBAQEBAQEBAQAAAAAAAAECAwQFBgcICQoL/8QAtREAAgECBAQDBAcFBAQAAQJ3AAECAxEEBSExBhJBUQdhcRMiMoEI
FEKRobHBCSMzUvAVYnLRChYkNOEl8RcYGRomJygpKjU2Nzg5OkNERUZHSElKU1RVVldYWVpjZGVmZ2hpanN0dXZ3eHl6goOEhYaHiImKkpOUlZaX
mJmaoqOkpaanqKmqsrO0tba3uLm6wsPExcbHyMnK0tPU1dbX2Nna4uPk5ebn6Onq8vP09fb3+Pn6/9oADAMBAAIRAxEAPwA12N/7In4/u/8AoQrD
0i3lfztqZxt7j3rttX0nzNMmXz8Z287P9oe9YNrZ/wBnb/3nmeZjtjGP/wBddWHqKlQeHhrBu7fW+n+S6GmFUMLJV6bvBbt93p5PquhmT6fdtMxW
LIP+0P8AGt+7v7U2zgS88fwn1+lZ8+o+VMyeTnHfd/8AWqhPLmJuP1rbHOoqUFFaW/RGE8TUxVe7S5b/AINlibUrOLb5k2M9PlP+Fdj4dv7WTRLd
klyDu52n+8favM7qD7Tt+bbtz2zXb+GYPL0C2TdnG/nH+2a48RBvAwcu/wDmcmOp+xqOrT1vpr6fLsbGo3cEdjIzvhRjJwfUVxmvA6n5H2H975e7
f/DjOMdcehrc1eTfpky4xnb3/wBoVlaVFu835sYx2+teXhI0sJB1qjtUT0XSz06fPqdc3iqfwxV/68ybSdNvF02IGHnn+Iep96K04b77LEIfK3be
+7Ge9Fe5Tw0q0FV/m1+/U2jntSCUJJXWmz/zJUvLi4YRTSbkbqMAe9QahDGvl4X17/Sq0U8VvIJZm2ovU4J9qtLPFqP/AB5t5nl/e4Ixnp1+hrgx
eGlRd1UtHq9l+Z5VShi6mFlU96Nvsa67a9Py6GNPbxNMxZMk+5rSvNKsVtnZYMEY/jb1+tdDYfurONJOGGcj8TXnlrbyyXCKi5Y5wMj0pYfD1K84
zdZuMLN9Vbz1tayPUp0ZV6NNQjyuKV7LfRb7dup0GlaPp9x5vnW+7bjHzsPX3qG+uZtNu3s7J/KgjxtTAbGRk8nnqTUmmuum+Z9tPl+Zjb3zjOen
1FZWrWNzqGpS3VpF5kMmNrbgM4AB4PPUGuyLWNxcsKny04q6e8W9NFsur69GYVFKE3TqK6XVnQiNLg+VMNyN1GcVFd28Vls+yps353ck5x9frWVd
RPHbs7rhRjJz71nm0nvv+PWPfs+9yBjPTr9Kn6tB03WaUkvL+u5q4OnNKNTnj/N0Xlu/z6li9vLhLp1WTAGP4R6UVo6fKljZR2102yVM7lxnGST1
HsaKx/tKcPdjF2Xn/wAA5J15qTSwrl5238/h6j57Tz4Wi8zbu74zVjRrb+zfO+fzPM29sYxn/GtLxHbQ2OhXNzap5cybdrZJxlgDwfY1xkGr353Z
n/8AHF/wrOrCti6iwzfuy3Xpr0V+h69TETxkuXDu3r9/md5FJvjDYxmuOtB9nuUl+9tzx07VUfxBqsTlEusKOg8tf8KZaXEslyiu+VOcjA9KympU
P9noaX91+fTrfzFlVDHurUUpqyav6XfkdJDY/wBuZ/eeR5H+zuzn8vSrken/AGNBb+bv2fxbcZzz6+9VtDleLz9jYztzx9anubiY3DfP6dh6VlN1
sNBRpO0v0+aOHNZzeLnSi9rfkv8AM5q61P7RbvF5O3djndnv9Kfolz5Hn/Ju3be+PWsLRZpLrVYYJ23xtuyMYzhSe1dLNbxW2PITbu68k5/OvVp0
69Sk4UpJRe6ff7n5HThvq8aLwyjrJ38unn5Estn9skNx5mzf/DjOMcf0op0EriFQG/SivOnWpU5OE07rR/1c55ZzCjJ0tfd02XTTuN0r/kIxfj/I
1r6h/wAs/wAf6UUVrV/jx9P8x1f4Ev67GTN/rTS+IP8AkC3H/Af/AEIUUVng/irf13OnL/4NT0/RmN4c/wCXn/gP9a6SH/VCiivdw/8AAj/XVnz2
Y7/12G3/APx5yfh/MVg3H8P40UV5WO/32Hp/mfT5D/yLqn+L9InQ6N/yC4f+Bf8AoRooorN7norY/9k=
"""


def png(pixels: npt.NDArray[np.uint8 | np.uint16]) -> bytes:
    """A PNG written here, so that no library has a say in its bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = pixels.shape[:2]
    colour = 0 if pixels.ndim == 2 else {3: 2, 4: 6}[pixels.shape[2]]
    big_endian = pixels.astype(pixels.dtype.newbyteorder(">"))
    lines = b"".join(b"\0" + row.tobytes() for row in big_endian)
    head = struct.pack(">IIBBBBB", width, height, 8 * pixels.dtype.itemsize, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def noise(*shape: int, dtype: type[np.unsignedinteger] = np.uint8) -> npt.NDArray[np.uint8 | np.uint16]:
    """The same numbers everywhere: a linear congruential generator, high bits."""
    state, values = 12345, []
    for _ in range(int(np.prod(shape))):
        state = (1103515245 * state + 12345) % (1 << 31)
        values.append(state >> 15)
    return (np.array(values).reshape(shape) >> (0 if dtype is np.uint16 else 8)).astype(dtype)


def images() -> dict[str, bytes]:
    """Fixed bytes of images."""
    return {
        "noise, landscape": png(noise(61, 97, 3)),
        "noise, portrait": png(noise(150, 83, 3)),
        "noise with alpha": png(noise(70, 70, 4)),
        "16 bits": png(noise(66, 80, dtype=np.uint16)),
        "long": png(noise(5, 200, 3)),
        "jpeg, turned": base64.b64decode(JPEG),
    }


def make(data: bytes, drawn: str) -> tuple[torch.Tensor, npt.NDArray[np.float32]]:
    """A drawn view of an image."""
    return view(
        decode(data),
        drawn,
        sha256=hashlib.sha256(data).hexdigest(),
        preprocessing=VIEWS["crop bilinear"],
        augment=AUGMENT,
    )


def pooled_of(pixels: torch.Tensor) -> npt.NDArray[np.float32]:
    """Means of 7 x 7 pixels, flat."""
    pooled = torch.nn.functional.avg_pool2d(pixels.float(), 7)
    assert pooled.shape == (3, 8, 8)
    return pooled.flatten().numpy()


def measured() -> dict[str, Any]:
    """What the code makes of the images today."""
    views = {}
    for name, data in images().items():
        for how, preprocessing in VIEWS.items():
            pixels, affine = prepare(decode(data), preprocessing)
            views[f"{name}: {how}"] = {
                "pooled": [round(value, 2) for value in pooled_of(pixels).tolist()],
                "affine": [round(value, 5) for value in affine.flatten().tolist()],
            }
        for number, drawn in enumerate(DRAWN, 1):
            pixels, affine = make(data, drawn)
            views[f"{name}: drawn {number}"] = {
                "pooled": [round(value, 2) for value in pooled_of(pixels).tolist()],
                "affine": [round(value, 5) for value in affine.flatten().tolist()],
            }
    return {"pipeline": PIPELINE, "views": views, "features": features().tolist()}


def features() -> npt.NDArray[np.float32]:
    """The first 8 features of one image under a small network with the zoo's random weights."""
    backbone = zoo.load("mobilenet_v3_small", "random")
    how = backbone.preprocessing.at(64, "crop")
    pixels, _ = prepare(decode(images()["noise, portrait"]), how)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (how.mean, how.std))
    trunk = cuts.Network(backbone.model, how.crop, "mobilenet_v3_small").trunk("pooled")
    with torch.inference_mode():
        return trunk(((pixels / 255 - mean) / std)[None])[0, :8].numpy()


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(GOLDEN.read_text())
    if found["pipeline"] != PIPELINE:
        pytest.fail(RENEW.format(PIPELINE, found["pipeline"]))
    return found


@pytest.mark.parametrize("how", VIEWS)
@pytest.mark.parametrize("name", images())
def test_views_are_what_they_were(golden: dict[str, Any], name: str, how: str) -> None:
    expected = golden["views"][f"{name}: {how}"]
    pixels, affine = prepare(decode(images()[name]), VIEWS[how])
    assert np.abs(pooled_of(pixels) - expected["pooled"]).max() <= LEVELS, CHANGED
    np.testing.assert_allclose(affine.flatten(), expected["affine"], atol=1e-4, err_msg=CHANGED)


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("name", images())
def test_drawn_views_are_what_they_were(golden: dict[str, Any], name: str, number: int) -> None:
    expected = golden["views"][f"{name}: drawn {number}"]
    pixels, affine = make(images()[name], DRAWN[number - 1])
    assert np.abs(pooled_of(pixels) - expected["pooled"]).max() <= LEVELS, CHANGED
    np.testing.assert_allclose(affine.flatten(), expected["affine"], atol=1e-4, err_msg=CHANGED)


def test_the_golden_values_are_of_these_images(golden: dict[str, Any]) -> None:
    assert set(golden["views"]) == {f"{name}: {how}" for name in images() for how in (*VIEWS, "drawn 1", "drawn 2")}


def test_features_are_what_they_were(golden: dict[str, Any]) -> None:
    expected = np.array(golden["features"])
    np.testing.assert_allclose(
        features() / np.abs(expected).max(), expected / np.abs(expected).max(), atol=1e-3, err_msg=CHANGED
    )


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(measured(), indent=1) + "\n")
    print(f"{GOLDEN}: PIPELINE {PIPELINE}")
