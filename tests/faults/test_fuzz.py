"""Fuzzing of what is read: params, annotations, the index, feature files. All is read, or refused with a reason.

COLDCUT_FUZZ_SECONDS is the time for each (1 without it; it was run with 600).
"""

import csv
import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from stages import paths
from stages.datasets import annotations, coco, index_file, voc, yolo
from stages.datasets import csv as table
from stages.datasets.base import Record
from stages.errors import UserError
from stages.features import audit, h5
from stages.features.store import check
from stages.params import load
from tests import defaults
from tests.features.test_h5 import sealed, written

SECONDS = float(os.environ.get("COLDCUT_FUZZ_SECONDS", "1"))
EXAMPLES = 100  # at a time
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
Place = tuple[Any, ...]
Edits = list[tuple[int, bytes, int]]
EDITS = st.lists(st.tuples(st.integers(0, 1 << 30), st.binary(max_size=6), st.integers(0, 6)), min_size=1, max_size=5)


def fuzz(strategy: st.SearchStrategy[Any], reads: Callable[[Any], object]) -> None:
    """Tries examples until the time is over; a UserError with a message is a fine answer."""
    refused = tried = 0

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def one(value: Any) -> None:
        nonlocal refused, tried
        tried += 1
        try:
            reads(value)
        except UserError as error:
            refused += 1
            assert str(error).strip()  # noqa: PT017

    end = time.monotonic() + SECONDS
    while tried == 0 or time.monotonic() < end:
        one()
    print(f"{tried:,} tried, {refused:,} refused with a reason, {tried - refused:,} read")


def edited(data: bytes, edits: Edits) -> bytes:
    """Some places of it overwritten, lengthened or cut."""
    for where, new, removed in edits:
        at = where % (len(data) + 1)
        data = data[:at] + new + data[at + removed :]
    return data


def every(tree: Any, at: Place = ()) -> list[Place]:
    """The places of a tree of dictionaries and lists."""
    items = list(tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ())
    return [at, *(place for key, value in items for place in every(value, (*at, key)))]


def put(tree: Any, at: Place, value: Any) -> Any:
    """A copy of the tree with another value at a place."""
    if not at:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[at[0]] = put(copy[at[0]], at[1:], value)
    return copy


def altered(tree: Any) -> st.SearchStrategy[Any]:
    """Trees that differ from a good one in one or two places."""
    change = st.tuples(st.sampled_from(every(tree)), JSON)

    def apply(changes: list[tuple[Place, Any]]) -> Any:
        found = tree
        for at, value in changes:
            found = put(found, at, value) if at in every(found) else found
        return found

    return st.lists(change, min_size=1, max_size=2).map(apply)


@pytest.fixture
def good_params(repository: Path) -> bytes:
    """A params.yaml that is right."""
    return defaults.text().encode()


def test_params_of_other_values(workplace: Path, good_params: bytes) -> None:
    def reads(tree: Any) -> None:
        paths.PARAMS.write_text(yaml.safe_dump(tree, sort_keys=False))
        load()

    (workplace / "data/none").mkdir(parents=True)
    fuzz(altered(yaml.safe_load(good_params)), reads)


def test_params_of_other_bytes(workplace: Path, good_params: bytes) -> None:
    def reads(edits: Edits) -> None:
        paths.PARAMS.write_bytes(edited(good_params, edits))
        load()

    (workplace / "data/none").mkdir(parents=True)
    fuzz(EDITS, reads)


def fit(found: list[Any]) -> None:
    """What the index does with the records of a dataset."""
    rows = []
    for record in found:
        if isinstance(record, Record):
            objects = annotations.fit(record, (48, 40)).boxes
            label = annotations.largest(objects) if record.label is None else record.label
            rows.append(index_file.IndexRow(record.path, "0" * 64, 48, 40, label, objects, record.split))
    annotations.counts([record for record in found if isinstance(record, Record)])
    index_file.write(paths.index("x"), rows)
    assert index_file.read("x") == rows


COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 48, "height": 40}, {"id": 2, "file_name": "b.jpg"}],
    "categories": [{"id": 1, "name": "cell"}, {"id": 7, "name": "other"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 7, "bbox": [1.5, 2, 10, 10], "iscrowd": 0},
                    {"id": 2, "image_id": 2, "category_id": 1, "bbox": [1, 2, 3, 4], "ignore": 1}],
}  # fmt: skip


def test_cocos_annotations(workplace: Path, jpeg: Callable[..., bytes]) -> None:
    for name in ("a.jpg", "b.jpg"):
        (workplace / name).write_bytes(jpeg())

    def reads(tree: Any) -> None:
        (workplace / "a.json").write_text(json.dumps(tree))
        fit(list(coco.read(workplace, {"all": workplace / "a.json"})))

    fuzz(altered(COCO), reads)


XML = b"""<annotation><size><width>48</width><height>40</height></size><object><name>cell</name><difficult>0</difficult>
<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>20</xmax><ymax>30</ymax></bndbox></object></annotation>"""


def test_vocs_annotations(workplace: Path, jpeg: Callable[..., bytes]) -> None:
    for name in ("JPEGImages", "Annotations"):
        (workplace / name).mkdir()
    (workplace / "JPEGImages/a.jpg").write_bytes(jpeg())

    def reads(edits: Edits) -> None:
        (workplace / "Annotations/a.xml").write_bytes(edited(XML, edits))
        fit(list(voc.read(workplace, ())))

    fuzz(EDITS, reads)


TABLE = b"path,label,x1,y1,x2,y2,split\na.jpg,cell,1,2,10,20,train\nb.jpg,other,,,,,val\na.jpg,cell,3,4,5,6.5,train\n"


def test_tables(workplace: Path) -> None:
    def reads(edits: Edits) -> None:
        (workplace / "t.csv").write_bytes(edited(TABLE, edits))
        fit(
            list(table.scan(workplace, table.Options(file="t.csv", exclude=[], strict=False, separator="|", labels=[])))
        )

    fuzz(EDITS, reads)
    assert csv.field_size_limit() > 0


LABELS = b"0 0.5 0.5 0.25 0.5\n1 0.1 0.1 0.9 0.1 0.5 0.8\n"
DESCRIPTION = {"path": ".", "train": "images", "val": ["images"], "names": {0: "cell", 1: "other"}, "kpt_shape": None}


@pytest.fixture
def yolo_set(workplace: Path, jpeg: Callable[..., bytes]) -> Path:
    """An image with its labels."""
    for name, data in {"images/a.jpg": jpeg(), "labels/a.txt": LABELS, "data.yaml": b"names: [cell, other]"}.items():
        (workplace / name).parent.mkdir(exist_ok=True)
        (workplace / name).write_bytes(data)
    return workplace


def test_labels_of_yolo(yolo_set: Path) -> None:
    def reads(edits: Edits) -> None:
        (yolo_set / "labels/a.txt").write_bytes(edited(LABELS, edits))
        fit(list(yolo.scan(yolo_set, yolo.Options(exclude=[], strict=False))))

    fuzz(EDITS, reads)


def test_descriptions_of_yolo(yolo_set: Path) -> None:
    def reads(tree: Any) -> None:
        (yolo_set / "data.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
        fit(list(yolo.scan(yolo_set, yolo.Options(exclude=[], strict=False))))

    fuzz(altered(DESCRIPTION), reads)


INDEX = [
    {"path": "a.jpg", "sha256": "0" * 64, "width": 48, "height": 40, "label": "cell", "split": "train",
     "objects": [{"label": "cell", "box": [1.0, 2.0, 10.0, 20.0], "difficult": True}]},
    {"path": "b.jpg", "sha256": "1" * 64, "width": 48, "height": 40, "label": "x", "split": None, "objects": []},
]  # fmt: skip


def test_the_index_of_other_values(workplace: Path) -> None:
    paths.index("x").parent.mkdir(parents=True)

    def reads(tree: Any) -> None:
        lines = tree if isinstance(tree, list) else [tree]
        paths.index("x").write_text("".join(json.dumps(line) + "\n" for line in lines))
        for row in index_file.read("x"):
            assert isinstance(row.path, str) and isinstance(row.label, str) and row.width > 0
            assert all(box.area >= 0 for box in row.objects)

    fuzz(altered(INDEX), reads)


def test_the_index_of_other_bytes(workplace: Path) -> None:
    paths.index("x").parent.mkdir(parents=True)
    good = "".join(json.dumps(line) + "\n" for line in INDEX).encode()

    def reads(edits: Edits) -> None:
        paths.index("x").write_bytes(edited(good, edits))
        index_file.read("x")

    fuzz(EDITS, reads)


@pytest.mark.parametrize("keeps_length", [True, False])
def test_feature_files_whose_checksum_holds(workplace: Path, keeps_length: bool) -> None:
    good = written(workplace / "good.h5").read_bytes()
    path = workplace / "cache/store/features" / ("0" * 16) / ("0" * 16 + ".h5")
    path.parent.mkdir(parents=True)

    def reads(edits: Edits) -> None:
        if keeps_length:
            edits = [(where, new, len(new)) for where, new, _ in edits]
        path.write_bytes(good[: h5.USER_BLOCK] + edited(good[h5.USER_BLOCK :], edits))
        found = h5.read(sealed(path))
        for rows in found.members.values():
            np.asarray(rows).sum() if rows.dtype.kind != "S" else rows.tolist()
        assert len(found.sha256) == len(found.ok)
        with suppress(h5.Damaged):  # its name is another's
            check(path)

    fuzz(EDITS, reads)


def test_feature_files_of_other_bytes_are_all_refused(workplace: Path) -> None:
    good = written(workplace / "f.h5").read_bytes()
    digest = hashlib.sha256(good).digest()

    def reads(edits: Edits) -> None:
        data = edited(good, edits)
        (workplace / "f.h5").write_bytes(data)
        if hashlib.sha256(data).digest() != digest:
            with pytest.raises(h5.Damaged):
                h5.read(workplace / "f.h5")
            h5.provenance(workplace / "f.h5")

    fuzz(EDITS, reads)
    assert audit.parts() == []
