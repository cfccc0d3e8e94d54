"""plan: sizes are exact, times follow from what was measured, nothing is written to the store."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages import index, paths, plan
from stages.backbones.encoders import ENCODERS
from stages.datasets import index_file
from stages.errors import UserError
from stages.features import forecast
from stages.features.extraction import load_extractor
from stages.params import with_overrides
from tests.trained import SMALL, VIT

NETWORK = ("squeezenet1_1", "random")

Make = Callable[..., Any]


@pytest.fixture
def planned(
    workplace: Path, class_folder: Callable[..., Path], params: Make, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    chosen = params(**SMALL, dataset="folder", root=str(class_folder(4)))
    index.main(chosen)
    monkeypatch.setattr(plan, "load", lambda: chosen)

    def main(**given: Any) -> None:
        names = ("images", "backbone", "cut", "views", "dtype")
        assert plan.main(argparse.Namespace(**dict.fromkeys(names) | {"seconds": 0.2, "list": False} | given)) == 0

    return main


def test_sizes_are_those_of_the_features(planned: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    planned(images=1e6, cut="map", views=2)
    said = capsys.readouterr().out
    spec = plan.specify(with_overrides(plan.load(), {"cut": "map", "views": 2}), Path("."), NETWORK)
    size = 2 * forecast.view_bytes(load_extractor(spec).layers)
    rows = [line.split() for line in said.splitlines() if line.startswith("map ")]
    assert " ".join(rows[0][3:]) == f"{forecast.in_bytes(size)} {forecast.in_bytes(1e6 * size)}"
    assert "1,000,000 images of folder: " in said and "squeezenet1_1 (" in said
    assert not (paths.store() / "features").exists() or not any((paths.store() / "features").rglob("*.h5"))


def test_the_cuts_of_tokens_are_among_the_choices(
    planned: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    planned(images=1e6, backbone=VIT, cut="cls+avg@4")
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line[:1].islower()}
    assert "cls+avg@4" in rows and "cls" in rows and "map" in rows and "pyramid" not in rows


def test_the_work_comes_in_parts(planned: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    planned(images=1e9)
    spec = plan.specify(plan.load(), Path("."), NETWORK)
    step = plan.part_images(load_extractor(spec), 1)
    size = forecast.in_bytes(step * forecast.view_bytes(load_extractor(spec).layers))
    assert f"{-(-(10**9) // step):,} parts of {step:,} images, {size} each." in capsys.readouterr().out
    planned(images=3)
    assert "1 part of 3 images" in capsys.readouterr().out


def test_of_the_dataset_by_default(planned: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    planned()
    said = capsys.readouterr().out
    assert "12 images of folder" in said
    for cut in ("pooled", "map", "input"):
        assert any(line.startswith(cut) for line in said.splitlines())
    assert "float32" in said  # as an alternative


def test_kept_images_are_as_large_as_those_of_the_dataset(
    planned: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    planned(cut="input")
    rows = index_file.read("folder")
    size = 3 * max(row.height for row in rows) * max(row.width for row in rows)
    assert "12 images of folder: " in (said := capsys.readouterr().out)
    assert forecast.in_bytes(12 * size) in said.partition("12 images of folder")[2].splitlines()[0]
    assert "at most" not in said


@pytest.mark.parametrize(
    ("options", "message"),
    [({"views": 65}, "`views` must be less than or equal to 64"), ({"backbone": "resnet81"}, "did you mean resnet18")],
)
def test_arguments_are_checked_as_params_are(
    planned: Callable[..., None], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        planned(**options)


def test_the_time_is_that_of_the_measured_speed() -> None:
    measurement = plan.Measurement(start=2.0, images=500, seconds=5.0)
    assert measurement.speed == 100


@pytest.mark.parametrize(
    ("seconds", "told"), [(3.2, "3 s"), (90, "90 s"), (150, "2.5 minutes"), (9e3, "2.5 hours"), (2.6e5, "3.0 days")]
)
def test_times_are_told_in_their_unit(seconds: float, told: str) -> None:
    assert forecast.duration(seconds) == told


def test_advice_follows_from_the_numbers(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert plan.advice(1000, 10, 5.0) == []
    monkeypatch.setattr(plan.files, "free", lambda path: 1000)
    assert plan.advice(1000, 500, 5.0) == []
    (full,) = plan.advice(1000, 501, 5.0)  # the file and its parts
    assert "1 kB free, and 1 kB are needed" in full
    (days,) = plan.advice(1000, 10, 2.5 * 86400)
    assert "In a day: 3 machines" in days
    monkeypatch.setattr(plan.mapped, "room", lambda: 100)
    assert "shuffled blocks" in plan.advice(1000, 200, 5.0)[0]


def test_the_list_says_what_each_encoder_takes(
    planned: Callable[..., None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = list[str]()

    def measure(spec: Any, images: Any, seconds: float) -> plan.Measurement:
        measured.append(spec.backbone)
        assert spec.weights == "random" and spec.cut == "pooled" and len(spec.views) == 1
        return plan.Measurement(start=1.0, images=100, seconds=1.0)

    monkeypatch.setattr(plan, "measure", measure)
    planned(list=True, images=1e6, views=3)
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split() for line in lines[1 : len(ENCODERS) + 1]}
    assert list(rows) == [encoder.name for encoder in ENCODERS] and sorted(measured) == sorted(plan.KINDS.values())
    assert all(rows[name][3:] == ["100", "2.8", "hours", "(measured)"] for name in measured)
    assert float(rows["resnet50"][3]) == pytest.approx(100 * 1.81 / 4.09, abs=0.1)
    assert float(rows["timm:vit_base_patch16_224.dino"][3]) == pytest.approx(100 * 4.6 / 17.56, abs=0.1)
