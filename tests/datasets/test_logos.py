"""The built-in dataset: deterministic, honest boxes, visible marks, and nothing of a brand where there is none."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from stages.blocks import Source
from stages.datasets import logos

SIZE = 96
NUMBERS = (1, 2)
CASES = [(label, number) for label in logos.LABELS[::4] for number in NUMBERS]  # no-logo is the last of 33: included


@pytest.fixture(scope="session")
def font_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--quiet", "--no-deps", "--only-binary=:all:", "-d", str(folder))
    command = (sys.executable, "-m", "pip", "download", *options, "fontawesomefree==6.6.0")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no wheel of fontawesomefree 6.6.0: {done.stderr.strip()[-200:]}")
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def archives(font_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same seed twice with two scenes a class, and once with three."""
    archives = {}
    for name, scenes in (("two", 2), ("again", 2), ("three", 3)):
        out = tmp_path_factory.mktemp(name)
        logos.build({"font": font_wheel}, options(scenes), out)
        archives[name] = out / logos.ARCHIVE
    return archives


def options(scenes: int) -> logos.Options:
    source = logos.Archives(font=Source(url="pypi:fontawesomefree==6.6.0"))
    return logos.Options(source=source, scenes=scenes, size=SIZE, seed=7)


def contents(archive: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def test_same_options_same_bytes(archives: dict[str, Path]) -> None:
    assert archives["two"].read_bytes() == archives["again"].read_bytes()
    assert [path.name for path in archives["two"].parent.iterdir()] == [logos.ARCHIVE]


def test_more_scenes_leave_the_first_ones_as_they_were(archives: dict[str, Path]) -> None:
    two, three = contents(archives["two"]), contents(archives["three"])
    assert len(three) - len(two) == len(logos.LABELS)
    boxes = set(two.pop(logos.DETECTION).splitlines())
    assert boxes < set(three[logos.DETECTION].splitlines())
    assert all(three[name] == data for name, data in two.items())


def test_another_seed_draws_another_scene(font_wheel: Path) -> None:
    first, second = (
        logos.draw_scene(logos.glyphs(font_wheel), seed, size=SIZE, label="apple", number=1)[0] for seed in (0, 1)
    )
    assert first.tobytes() != second.tobytes()


def test_scan_reads_what_was_drawn(archives: dict[str, Path], tmp_path: Path) -> None:
    with zipfile.ZipFile(archives["two"]) as opened:
        opened.extractall(tmp_path)
    records = list(logos.scan(tmp_path, options(2)))
    assert [record.label for record in records] == [label for label in logos.LABELS for _ in range(2)]
    assert all((tmp_path / record.path).is_file() for record in records)
    lines = (tmp_path / logos.DETECTION).read_text().splitlines()
    assert [len(record.objects) for record in records] == [len(json.loads(line)["objects"]) for line in lines]


def test_the_largest_mark_is_the_label(archives: dict[str, Path], tmp_path: Path) -> None:
    with zipfile.ZipFile(archives["three"]) as opened:
        opened.extractall(tmp_path)
    for record in logos.scan(tmp_path, options(3)):
        boxes = [box.box for box in record.objects]
        if record.label == logos.NO_LOGO:
            assert not boxes
            continue
        assert 1 <= len(boxes) <= 3
        assert all(0 <= x1 < x2 <= SIZE and 0 <= y1 < y2 <= SIZE for x1, y1, x2, y2 in boxes)
        areas = [(x2 - x1) * (y2 - y1) / SIZE**2 for x1, y1, x2, y2 in boxes]
        assert 0.03 <= areas[0] <= 0.35
        assert record.objects[0].label == record.label
        assert all(area < 0.7 * areas[0] for area in areas[1:])
        assert len({box.label for box in record.objects}) == len(boxes)


@pytest.mark.parametrize(("label", "number"), CASES)
def test_marks_stand_out_and_boxes_are_tight(font_wheel: Path, label: str, number: int) -> None:
    _, marks = logos.draw_scene(logos.glyphs(font_wheel), 7, size=SIZE, label=label, number=number)
    for mark in marks:
        assert logos.contrast(mark.ink, mark.ground) >= logos.MIN_CONTRAST
        rows, columns = np.nonzero(np.asarray(mark.mask) >= 128)
        assert mark.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_the_mark_is_seen_inside_its_box_only(font_wheel: Path) -> None:
    """In the finished scene, the pixels under the mask are nearer to the ink than to the ground."""
    image, marks = logos.draw_scene(logos.glyphs(font_wheel), 7, size=320, label="apple", number=1)
    pixels, covered = np.asarray(image, float), np.asarray(marks[0].mask) == 255
    inside = pixels[covered].mean(0)
    assert np.linalg.norm(inside - marks[0].ink) < np.linalg.norm(inside - marks[0].ground)


def test_contrast_is_that_of_wcag() -> None:
    assert logos.contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert logos.contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.48, abs=0.01)


def test_oklch_gives_the_known_colours() -> None:
    assert logos.oklch(1, 0, 0) == (255, 255, 255)
    assert logos.oklch(0.62796, 0.25768, 29.234) == pytest.approx((255, 0, 0), abs=2)


def test_a_tilted_figure_has_the_asked_area(font_wheel: Path) -> None:
    rng = np.random.default_rng(0)
    for figure in logos.glyphs(font_wheel).values():
        tilt = logos.draw_tilt(rng, 320)
        mask = logos.warp(logos.fit(figure, tilt, share=0.2, size=320), tilt, middle=(160, 160), size=320)
        x1, y1, x2, y2 = logos.tight_box(mask)
        assert (x2 - x1) * (y2 - y1) / 320**2 == pytest.approx(0.2, rel=0.06)
