"""A small extraction for fault tests: real images, parts, files, locks; instead of a network, means of the pixels."""

import gc
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stages.features.decoders import ImageRef
from stages.features.extraction import Extractor, Spec
from stages.images import views
from stages.images.options import Augment
from stages.images.preprocessing import Preprocessing
from tests.conftest import encode, picture

OUT = Path("cache/features/toy/toy.h5")
AUGMENT = Augment(crop=0.4, flip=True, rotate=0.0, lighting=0.2)
FINISHED, KILLED, REFUSED, WRONG = 0, 1, 2, 3


def load_extractor(numbers: int) -> Callable[[Spec], Extractor]:
    """What stands for `extraction.load_extractor`: features of 3 x `numbers` float32."""

    def features(pixels: Any) -> list[np.ndarray[Any, Any]]:
        return [pixels.float().mean((2, 3)).numpy().repeat(numbers, 1)]

    how = Preprocessing(16, 16, "bilinear", (0, 0, 0), (1, 1, 1))
    layers = {"pooled": ((3 * numbers,), "f4")}
    return lambda spec: Extractor(features, how, layers, {"backbone": "toy"}, spec.batch_size)  # type: ignore[arg-type]


def photos(folder: Path, count: int) -> list[ImageRef]:
    """Distinct small JPEGs, and how an extraction asks for them."""
    folder.mkdir()
    found = []
    for number in range(count):
        data = encode(picture(number, (24, 20)), "JPEG")
        (folder / f"{number}.jpg").write_bytes(data)
        found.append((f"{number}.jpg", hashlib.sha256(data).hexdigest()))
    return found


def spec(folder: Path, batch_size: int) -> Spec:
    """All that an extraction needs to know."""
    return Spec(
        folder, "toy", "random", "pooled", 16, "crop", "float32", "float32", batch_size, "cpu",
        tuple(views.names(1, AUGMENT, 0)), AUGMENT,
    )  # fmt: skip


def forked(work: Callable[[], int]) -> int:
    """The exit code of some work in a process of its own, minus the number of the signal that ended it."""
    child = os.fork()
    if not child:
        gc.disable()  # what other tests have left over may wait for threads that are not here
        code = WRONG
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            code = work()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)
