"""Flipped labels and known copies of Caltech-101, where its archive is at hand (see tests/test_real_images.py)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages import download, extract, index, paths, review, split
from stages.reviewing import suspicions
from tests.bench import review as bench
from tests.test_real_images import archive

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("caltech101")


def test_flipped_labels_and_copies_are_found(
    home: Path, params: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    url = str(archive("caltech-101.zip"))
    source = {"images": {"url": url, "checksum": None}}
    Path("data/none").mkdir(parents=True)
    knobs = params(
        dataset="caltech101", root="data/none", datasets={"caltech101": {"source": source}}, extract={"engine": "auto"}
    )
    for stage in (download, index, split, extract, review):
        stage.main(knobs)
    monkeypatch.setattr(bench, "load", lambda: knobs)
    described, y, classes = bench.cached()
    scores = [bench.score(described, y, classes, 0.05, None, seed) for seed in bench.SEEDS]
    assert sum(score.precision for score in scores) / len(scores) >= 0.88
    assert sum(score.recall for score in scores) / len(scores) >= 0.99
    found = suspicions.read(paths.REPORTS / "review.csv")
    pairs = {frozenset(Path(path).parts[-2:] for path in (row.path, row.other)) for row in found if row.other}
    assert frozenset({("Faces", "image_0114.jpg"), ("Faces_easy", "image_0114.jpg")}) in pairs
    mirrored = [row for row in found if row.what == suspicions.MIRROR_IMAGE and "/Leopards/" in row.path]
    assert len(mirrored) >= 90
    leaked = {
        row.path if row.split == "test" else row.other
        for row in found
        if {row.split, row.other_split} == {"train", "test"}
    }
    assert len(leaked) >= 42
