"""Two backbones as one: their vectors side by side, and nothing computed twice."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages import paths
from stages.datasets import index_file, splits
from stages.datasets.index_file import IndexRow
from stages.errors import UserError
from stages.features import extraction, h5
from stages.features.extraction import extract, load_extractor
from stages.features.joined import extract_joined
from stages.training import data, loop
from tests.features.test_extraction import listed, spec_of, truncate, views_of

CPU = torch.device("cpu")
OUT = Path("cache/features/folder/squeezenet1_1+resnet18-pooled.h5")
Folder = Callable[..., Path]


@pytest.fixture(autouse=True)
def forget_extractors() -> Any:
    yield
    load_extractor.cache_clear()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The backbone of every part that is computed."""
    seen: list[str] = []
    compute = extraction.compute_part

    def counted(spec: Any, split: Any, names: Any) -> Any:
        seen.append(spec.backbone)
        return compute(spec, split, names)

    monkeypatch.setattr(extraction, "compute_part", counted)
    return seen


def specs_of(folder: Path, **changes: Any) -> list[extraction.Spec]:
    return [spec_of(folder, backbone=name, **changes) for name in ("squeezenet1_1", "resnet18")]


def test_the_vectors_stand_side_by_side(workplace: Path, class_folder: Folder) -> None:
    specs, wanted = specs_of(class_folder(2), views=views_of(2)), listed(class_folder(2))
    for number, spec in enumerate(specs):
        extract(spec, wanted, Path(f"{number}.h5"))
    computed, bad, _ = extract_joined(specs, wanted, OUT)
    first, second, both = (h5.read(path) for path in (Path("0.h5"), Path("1.h5"), OUT))
    expected = np.concatenate([first.layers["pooled"], second.layers["pooled"]], 2)
    np.testing.assert_array_equal(both.layers["pooled"], expected)
    assert both.layers["pooled"].shape == (6, 2, 1024) and both.sha256 == first.sha256
    assert (computed, bad) == (0, [])  # the store had it all
    assert [path.name for path in OUT.parent.iterdir()] == [OUT.name]
    found = both.provenance
    assert (found["backbone"], found["weights"]) == ("squeezenet1_1+resnet18", "random+random")
    assert found["parameters"] == first.provenance["parameters"] + second.provenance["parameters"]
    assert found["joined"] == [first.provenance, second.provenance] and found["views"] == list(views_of(2))


def test_nothing_is_computed_twice(workplace: Path, class_folder: Folder, calls: list[str]) -> None:
    specs, wanted = specs_of(class_folder(2)), listed(class_folder(2))
    extract(specs[0], wanted, Path("0.h5"))
    assert extract_joined(specs, wanted, OUT)[0] == 6
    before = OUT.read_bytes()
    extract(specs[1], wanted, Path("1.h5"))
    extract_joined(specs, wanted, OUT)
    assert calls == ["squeezenet1_1"] * len(calls[: len(calls) // 2]) + ["resnet18"] * (len(calls) // 2)
    assert OUT.read_bytes() == before


def test_a_bad_image_is_bad_in_both(workplace: Path, class_folder: Folder) -> None:
    folder = class_folder(2)
    truncate(folder / "bee" / "001.jpg")
    wanted = listed(folder)
    (place,) = extract_joined(specs_of(folder), wanted, OUT)[1]
    assert wanted[place][0] == "bee/001.jpg"
    assert not h5.read(OUT).layers["pooled"][place].any()


def test_what_is_consumed_is_compared_with_params(
    workplace: Path, class_folder: Folder, params: Callable[..., Any]
) -> None:
    folder = class_folder(3)
    wanted = listed(folder)
    one, other = specs_of(folder)
    extract_joined([one, replace(other, image_size=96)], wanted, OUT)  # networks of different input sizes
    rows = [IndexRow(path, sha256, 8, 8, path.split("/")[0], (), None) for path, sha256 in wanted]
    index_file.write(paths.index("folder"), rows)
    joined = {"dataset": "folder", "root": str(folder), "backbone": "squeezenet1_1+resnet18"}
    chosen = params(**joined, weights="random")
    split = {name: [row.sha256 for row in rows[start::3]] for start, name in enumerate(("train", "val", "test"))}
    splits.write(paths.split("folder"), split, source="by hand", choices=chosen.split)
    found = data.load_data(chosen)
    assert found.shape == (1024,)
    assert len(loop.fit("linear", found, params=chosen.model_copy(update={"epochs": 1}), device=CPU).history) == 1
    with pytest.raises(UserError, match="was extracted with image_size 64, params ask for 96"):
        data.load_data(params(**joined, weights="random", image_size=96))
    with pytest.raises(UserError, match="was extracted with image_size 96, params ask for 64"):
        data.load_data(params(**joined, weights="random", image_size=64))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"backbone": "resnet18+resnet81"}, "did you mean resnet"),
        (
            {"backbone": "resnet18+resnet34", "cut": "map"},
            "the vectors of 2 networks, which needs cut=pooled, found cut=map",
        ),
        ({"backbone": "resnet18+resnet34", "weights": "random+random+random"}, "3 weights for the 2 networks"),
    ],
)
def test_what_cannot_be_joined_is_refused(params: Callable[..., Any], knobs: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        params(**knobs)
