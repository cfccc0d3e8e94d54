"""`python -m stages.store export --parquet`: what other tools read is what the feature file holds."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import files, paths, store
from stages.datasets import index_file
from stages.datasets.index_file import IndexRow
from stages.errors import UserError
from stages.features import h5, parquet_export
from tests import defaults

parquet = pytest.importorskip("pyarrow.parquet")
SHAS = [f"{number:064x}" for number in range(5)]


def features(path: Path, shape: tuple[int, ...] = (4,), views: int = 2) -> None:
    members = h5.layout(len(SHAS), views, {"pooled": (shape, "f2")})
    values = np.random.default_rng(0).normal(size=(len(SHAS), views, *shape)).astype("f2")
    arrays: dict[str, h5.Array] = {
        "features/pooled": values,
        "sha256": np.array(SHAS, "S64"),
        "ok": np.array([1, 1, 0, 1, 1], "u1"),
        "views": np.zeros((len(SHAS), views, 2, 3), "f4"),
    }
    h5.write(path, members=members, provenance={"backbone": "toy"}, pieces=iter([(0, arrays)]))


def rows(**values: Any) -> list[IndexRow]:
    return [IndexRow(f"{number}.jpg", sha, 9, 9, f"c{number % 2}" if number else "", (), None, **values)
            for number, sha in enumerate(SHAS)]  # fmt: skip


@pytest.fixture
def run(workplace: Path) -> Path:
    """Features and an index as params.yaml names them."""
    (workplace / "params.yaml").write_text(defaults.text())
    (workplace / "data/none").mkdir(parents=True)
    index_file.write(paths.index("logos"), rows())
    parts = {"train": SHAS[:2], "val": [SHAS[2]], "test": [SHAS[3]]}
    files.write_json(paths.split("logos"), parts | {"source": "made up", "choices": {}})
    features(paths.features("logos", "efficientnet_lite0", "pooled"))
    return workplace


def test_a_row_per_decoded_image(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_export, "GROUP", 3)
    store.export(run / "out/features.parquet")
    table = parquet.read_table(run / "out/features.parquet")
    stored = h5.read(paths.features("logos", "efficientnet_lite0", "pooled"))
    assert table.column("path").to_pylist() == ["0.jpg", "1.jpg", "3.jpg", "4.jpg"]
    assert table.column("sha256").to_pylist() == [SHAS[number] for number in (0, 1, 3, 4)]
    assert table.column("label").to_pylist() == [None, "c1", "c1", "c0"]
    assert table.column("split").to_pylist() == ["train", "train", "test", None]
    assert str(table.schema.field("vector").type) == "fixed_size_list<element: float>[4]"
    assert table.column("vector").to_pylist() == stored.layers["pooled"][[0, 1, 3, 4], 0].astype("f4").tolist()
    assert json.loads(table.schema.metadata[b"coldcut"]) == {"backbone": "toy"}


def test_several_labels_are_a_list(run: Path) -> None:
    path = paths.features("logos", "efficientnet_lite0", "pooled")
    parquet_export.write(run / "a.parquet", h5.read(path), rows(labels=("ant", "bee")), {})
    assert parquet.read_table(run / "a.parquet").column("labels").to_pylist()[0] == ["ant", "bee"]


def test_maps_are_refused_and_nothing_is_left(run: Path) -> None:
    features(paths.features("logos", "efficientnet_lite0", "pooled"), (4, 2, 2))
    with pytest.raises(UserError, match="only vectors can be written: take cut=pooled"):
        store.export(run / "a.parquet")
    assert not list(run.glob("a.parquet*"))


def test_features_of_another_index_are_refused(run: Path) -> None:
    index_file.write(paths.index("logos"), rows()[1:])
    with pytest.raises(UserError, match="features of other images"):
        store.export(run / "a.parquet")
