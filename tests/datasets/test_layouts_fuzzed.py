"""Random small sets in every reader's format: each file is in one list, each object accounted for, each loss told.

COLDCUT_FUZZ_SECONDS makes it try for longer.
"""

import contextlib
import io
import json
import os
import shutil
import time
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from stages import index, paths
from stages.datasets import index_file, source
from stages.errors import UserError
from stages.params import with_overrides
from tests.datasets.kinds import (
    ARCHIVES,
    ONLY_IN_TEXT,
    READERS,
    SHARDS,
    SPELLINGS,
    Annotated,
    write,
)

ALL_READERS = READERS | ARCHIVES
SECONDS = float(os.environ.get("COLDCUT_FUZZ_SECONDS", "1"))
EXAMPLES = 15  # at a time
VOC = ("voc", "bccd", "voc2007")
LABELS = ("ant", "bee", "bee ", "señal")
BOXES = ((4.0, 4.0, 20.0, 20.0), (10.0, 10.0, 30.0, 30.0), (5.0, 5.0, 5.0, 9.0), (90.0, 90.0, 95.0, 95.0))
FOLDERS = ("", "cam 1/", "cam 1/deep/", "train/", "val/", "test/", "Ünder/", "images/", "masks/", "ant/", "bee/")
STEMS = ("im0", "im1", "im.2", "señal", "IM0", "100%")
SUFFIXES = (".jpg", ".JPG", ".png", ".heic", "", ".txt")
CONTENTS = ("image", "image", "image", "copy", "cut off", "text", "pointer", "missing")


@st.composite
def sets(draw: st.DrawFn, reader: str, contents: Callable[[str, int], bytes | None]) -> list[Annotated]:
    """Images of one set: where they lie, what they hold, what annotations call them and say of them."""
    images, used, annotations = list[Annotated](), set[str](), set[str]()
    chosen = ALL_READERS[reader]
    file_of, labels = chosen.file_of, (*chosen.labels, f"{chosen.labels[0]} ") if chosen.labels else LABELS
    for number in range(draw(st.integers(1, 7))):
        label = draw(st.sampled_from(labels))
        stem = draw(st.sampled_from(FOLDERS)) + draw(st.sampled_from(STEMS))
        path = stem + draw(st.sampled_from(chosen.suffixes or SUFFIXES))
        if chosen.class_folders:
            path = f"{label}/{path}"
        if reader == "folder":
            path = draw(st.sampled_from(("", "train/", "test/"))) + path
        if draw(st.booleans()):
            path = unicodedata.normalize("NFD", path)
        taken = path in used or any(other.startswith(f"{path}/") or path.startswith(f"{other}/") for other in used)
        if taken or (reader == "webdataset" and any(os.path.splitext(other)[0] == stem for other in used)):
            continue
        used.add(path)
        objects = draw(st.lists(st.tuples(st.sampled_from(labels), st.sampled_from(BOXES)), max_size=3))
        spellings = [name for name in SPELLINGS if not (file_of and name in ONLY_IN_TEXT)]
        spelled = SPELLINGS[draw(st.sampled_from(spellings))](path)
        annotation = file_of(spelled) if file_of else spelled
        name = None if draw(st.integers(0, 5)) == 0 or (file_of and annotation in annotations) else spelled
        annotations.add(annotation)
        data = contents(draw(st.sampled_from(CONTENTS)), number)
        images.append(Annotated(path, data, tuple(objects), name))
    return images


@pytest.mark.parametrize("reader", ALL_READERS)
def test_nothing_is_lost_without_a_word(
    workplace: Path,
    params: Callable[..., Any],
    jpeg: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
    reader: str,
) -> None:
    if reader in ARCHIVES:
        monkeypatch.setattr(source, "folder", lambda *_: workplace / "set")
    pixels = [jpeg(number) for number in range(7)]

    def contents(kind: str, number: int) -> bytes | None:
        broken = {"text": b"a note", "pointer": b"version https://git-lfs.github.com/spec/v1\n", "missing": None}
        return {"image": pixels[number], "copy": pixels[0], "cut off": pixels[number][:30], **broken}[kind]

    chosen = params(bad_images={"max_fraction": 1.0})
    outcomes = Counter[str]()

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(sets(reader, contents))
    def check(images: list[Annotated]) -> None:
        root = workplace / "set"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        knobs = write(reader, root, images)
        options = knobs.pop("datasets")[reader]
        changes = {f"datasets.{reader}.{name}": value for name, value in _flat(options)}
        console = io.StringIO()
        try:
            with contextlib.redirect_stdout(console):
                index.main(with_overrides(chosen, knobs | changes))
        except UserError as error:
            assert str(error).strip()  # noqa: PT017
            outcomes["refused"] += 1
            return
        outcomes["indexed"] += 1
        hold(reader, root, images, console.getvalue())

    end = time.monotonic() + SECONDS
    while not outcomes["indexed"] or time.monotonic() < end:
        check()
    print(dict(outcomes))


def _flat(options: dict[str, Any], above: str = "") -> list[tuple[str, Any]]:
    return [
        item
        for name, value in options.items()
        for item in (_flat(value, f"{above}{name}.") if isinstance(value, dict) else [(above + name, value)])
    ]


def hold(reader: str, root: Path, images: list[Annotated], console: str) -> None:
    """What must be true of every index."""
    rows = index_file.read(reader)
    summary = json.loads(paths.index(reader).with_suffix(".json").read_text())
    lists = {
        "used": [row.path for row in rows],
        "duplicates": [pair["path"] for pair in summary["duplicates"]],
        "conflicts": [copy["path"] for copies in summary["conflicts"] for copy in copies],
        "bad": [image["path"] for image in summary["bad"]],
        "not images": summary["not_images"],
        "excluded": [item["path"] for item in summary["excluded"]],
    }
    listed = Counter(path for names in lists.values() for path in names)
    assert not (twice := [path for path, count in listed.items() if count > 1]), (twice, lists)
    assert summary["files"] == sum(listed.values()), lists
    chosen = ALL_READERS[reader]
    home = chosen.images
    taken = set[str]()
    for row, image in enumerate(images):
        path = os.path.normpath(f"{home}/{image.path}")
        if reader == "parquet" and path.casefold() in taken:  # on some disks it would be the same file
            assert any(name.startswith(f"{home}/row-{row:06}") for name in listed), (path, lists)
            continue
        taken.add(path.casefold())
        if image.data is not None and (chosen.class_folders or image.path.lower().endswith((".jpg", ".png", ".heic"))):
            assert path in listed, (path, lists)
    if chosen.objects:
        used = sum(len(row.objects) for row in rows)
        dropped = sum(summary["dropped_objects"].values())
        assert used + len(summary["repeated_objects"]) + dropped == sum(map(_objects_of(reader), images)), summary
    used_labels = {label for row in rows for label in (row.label, *(box.label for box in row.objects))}
    for label in summary["lost_classes"]:
        assert label not in used_labels and f"no image is left of class {label!r}: " in console
    lost = {label for image in images for label in _labels(reader, image)} - used_labels
    assert lost <= set(summary["lost_classes"]), (lost, summary["lost_classes"])


def _objects_of(reader: str) -> Callable[[Annotated], int]:
    """How many objects the files tell of an image; FlickrLogos-32 has them beside the images, not beside the lists."""
    if reader == "flickrlogos32":
        return lambda image: len(image.objects) if image.data is not None else 0
    return lambda image: len(image.objects) if image.name is not None else 0


def _labels(reader: str, image: Annotated) -> set[str]:
    """The classes that must be used or told lost if this image is in the set."""
    chosen = ALL_READERS[reader]
    if chosen.class_folders:
        counts = image.data is not None and reader != "folder"
        return {image.path.partition("/")[0].lower()} if counts else set()
    labels = {label for label, _ in image.objects} if image.name is not None else set()
    if reader in SHARDS:
        labels = {image.objects[0][0]} if image.name is not None and image.objects else set()
    return {label.strip() for label in labels} if reader in (*VOC, "webdataset") else labels
