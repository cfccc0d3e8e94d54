"""An extraction of the images in `photos`, decoded by two processes of which some images do harm.

    HARM='{"10005": "crash"}' LIMIT=1 python -m tests.faults.decoding

HARM says what decoding does to files of a size in bytes (`wait`: to wait in a process that only decodes); LIMIT, after
how many seconds an image takes too long.
"""

import ctypes
import hashlib
import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import stages  # noqa: F401  # isort: skip  (before torch)
from stages.features import decoders, extraction, watchdog
from stages.images import decode as decoding
from tests.faults import toy

PART = 8
begin, decode = decoders.begin, decoding.decode


def harmful(data: bytes) -> Any:
    harm = json.loads(os.environ.get("HARM", "{}")).get(str(len(data)))
    if harm == "crash":
        ctypes.string_at(0)
    elif harm == "hang" or (harm == "wait" and multiprocessing.parent_process()):
        time.sleep(600)
    return decode(data)


def harmful_begin(*arguments: Any) -> None:
    """Prepares a process that decodes."""
    decoders.decode = harmful  # type: ignore[attr-defined]
    begin(*arguments)


def main() -> None:
    decoding.decode = harmful
    watchdog.LIMIT = float(os.environ.get("LIMIT", "600"))
    decoders.FEW_IMAGES, decoders.MOST_CHUNK = 0, 2
    decoders.cores = lambda: 2
    decoders.FEW_CORES = int(os.environ.get("FEW_CORES", "1"))
    decoders.begin = harmful_begin
    extraction.load_extractor, extraction.PART_VIEWS = toy.load_extractor(3), PART  # type: ignore[assignment]
    photos = Path("photos").resolve()
    images = [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in sorted(photos.iterdir())]
    watchdog.start()
    spec = toy.spec(photos, 4)
    computed, bad, _ = extraction.extract(spec, images, toy.OUT)
    print(json.dumps([computed, [[images[i][0], extraction.decoding_error(spec, images[i])] for i in bad]]))


if __name__ == "__main__":
    main()
