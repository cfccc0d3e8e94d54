"""Two backbones as one: their vectors side by side, and nothing computed twice."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from stages import paths
from stages.datasets import index_file, splits
from stages.datasets.index_file import IndexRow
from stages.errors import UserError
from stages.features import extraction, h5
from stages.features.extraction import extract, load_extractor
from stages.features.joined import extract_joined
from stages.heads.registry import HEADS, heads_taking
from stages.training import data, loop, model
from tests import trained
from tests.features.test_extraction import listed, spec_of, truncate, views_of
from tests.trained import SMALL, VIT

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

    def counted(spec: Any, split: Any, names: Any, *decoders: Any) -> Any:
        seen.append(spec.backbone)
        return compute(spec, split, names, *decoders)

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
    joined_data = data.load_data(chosen)
    assert joined_data.shape == (1024,)
    assert len(loop.fit("linear", joined_data, params=chosen.model_copy(update={"epochs": 1}), device=CPU).history) == 1
    with pytest.raises(UserError, match="was extracted with image_size 64, params ask for 96"):
        data.load_data(params(**joined, weights="random", image_size=96))
    with pytest.raises(UserError, match="was extracted with image_size 96, params ask for 64"):
        data.load_data(params(**joined, weights="random", image_size=64))


def test_a_view_is_the_same_crop_for_every_backbone(
    workplace: Path, tmp_path: Path, jpeg: Callable[..., bytes]
) -> None:
    """Also where a large photograph is decoded smaller for one of them: then up to the rounding to whole pixels."""
    width, height, sides = 800, 640, (32, 128)
    (tmp_path / "photo.jpg").write_bytes(jpeg(1, (width, height)))
    wanted = listed(tmp_path)
    boxes = []
    for side in sides:
        spec = spec_of(tmp_path, image_size=side, views=views_of(6))
        affine = extraction.compute_part(spec, wanted, spec.views)["views"][0, 1:]
        left, top = (-affine[:, i, 2] / affine[:, i, i] for i in (0, 1))
        boxes.append(np.stack([left, top, side / affine[:, 0, 0], side / affine[:, 1, 1]], 1))
    assert np.ptp(boxes[0][:, 2]) > 50  # crops that differ from view to view
    np.testing.assert_allclose(boxes[0], boxes[1], atol=16)


VECTOR_HEADS = [head for head in heads_taking("vector") if not HEADS[head].finds_objects]


@pytest.mark.parametrize("head", VECTOR_HEADS)
def test_every_head_on_vectors_takes_the_views_of_two_backbones(
    workplace: Path, class_folder: Folder, params: Callable[..., Any], head: str
) -> None:
    """Each view of an image is one row of both backbones, and the views are averaged."""
    knobs = {"views": 3, "decide": {"tta": True}, "head": head, "backbone": "squeezenet1_1+resnet18"}
    chosen = params(**SMALL | knobs, dataset="folder", root=str(class_folder(8)))
    trained.finish(chosen)
    joined_data = data.load_data(chosen)
    assert joined_data.splits["train"].x.shape == (12, 3, 1024)
    module, described = model.load_head(paths.HEAD)
    assert described["shape"] == [1024] and len(described["features"]["joined"]) == 2
    averaged = model.averaged_logits(module, joined_data.splits["test"], 3).softmax(1)
    kept = load_file(paths.PREDICTIONS / "probabilities.safetensors")["test"]
    torch.testing.assert_close(kept, averaged, atol=1e-5, rtol=0)


@pytest.mark.parametrize("cut", ["cls", "avg", "cls+avg", "cls+avg@2"])
def test_the_vectors_of_tokens_stand_side_by_side(workplace: Path, class_folder: Folder, cut: str) -> None:
    """Of networks with different numbers of tokens."""
    wanted = listed(class_folder(2))
    specs = [spec_of(class_folder(2), backbone=VIT, cut=cut, image_size=size, views=views_of(2)) for size in (64, 96)]
    for number, spec in enumerate(specs):
        extract(spec, wanted, Path(f"{number}.h5"))
    extract_joined(specs, wanted, OUT)
    first, second, both = (h5.read(path).layers[cut] for path in (Path("0.h5"), Path("1.h5"), OUT))
    np.testing.assert_array_equal(both, np.concatenate([first, second], 2))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"backbone": "resnet18+resnet81"}, "did you mean resnet"),
        (
            {"backbone": "resnet18+resnet34", "cut": "map"},
            r"the vectors of 2 networks, which needs a cut that gives vectors \(pooled, .*found cut=map: take",
        ),
        ({"backbone": "resnet18+resnet34", "weights": "random+random+random"}, "3 weights for the 2 networks"),
    ],
)
def test_what_cannot_be_joined_is_refused(params: Callable[..., Any], knobs: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        params(**knobs)
