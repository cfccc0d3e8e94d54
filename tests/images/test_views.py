"""Views: the first is the evaluation transform, a drawn one follows from its name and image and says where it is."""

import hashlib
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as F

from stages.images import views
from stages.images.decode import prepare
from stages.images.options import Augment
from stages.images.preprocessing import FILL, Preprocessing
from stages.images.views import CropParams, draw, names, view

SIZE = 64
HOW = Preprocessing(73, SIZE, "bilinear", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
PLAIN = Augment(crop=0.4, flip=True, rotate=0.0, lighting=0.2)
WILD = Augment(crop=0.2, flip=True, rotate=30.0, lighting=0.3)
RATIOS = (3 / 4, 4 / 3)  # of a crop


def how(crop: float = 1.0, flip: bool = False, rotate: float = 0.0, lighting: float = 0.0) -> Augment:
    return Augment(crop=crop, flip=flip, rotate=rotate, lighting=lighting)


def sha(number: int) -> str:
    return hashlib.sha256(b"image %d" % number).hexdigest()


def noise(width: int = 80, height: int = 60, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


augments = st.builds(
    how,
    crop=st.one_of(st.just(1.0), st.floats(0.05, 1)),
    flip=st.booleans(),
    rotate=st.one_of(st.just(0.0), st.floats(0, 180)),
    lighting=st.one_of(st.just(0.0), st.floats(0, 0.5)),
)
sides = st.integers(1, 3000)


# --- names


def test_the_first_view_is_the_evaluation_transform() -> None:
    for count in (1, 2, 5):
        assert names(count, PLAIN, 0)[0] == views.EVALUATION
    for shape in ((80, 60), (60, 80), (1, 1), (1, 500), (64, 64)):
        for preprocessing in (HOW, HOW.at("auto", "squash")):
            expected = prepare(noise(*shape), preprocessing)
            for augment in (PLAIN, WILD):
                found = view(
                    noise(*shape), names(1, augment, 3)[0], sha256=sha(0), preprocessing=preprocessing, augment=augment
                )
                assert torch.equal(found[0], expected[0])
                np.testing.assert_array_equal(found[1], expected[1])


def test_a_longer_list_of_names_begins_with_the_shorter() -> None:
    longest = names(64, WILD, 5)
    assert len(set(longest)) == 64
    for count in range(1, 64):
        assert names(count, WILD, 5) == longest[:count]


def test_everything_that_a_view_depends_on_is_in_its_name() -> None:
    changes: list[dict[str, object]] = [{"crop": 0.41}, {"flip": False}, {"rotate": 10.0}, {"lighting": 0.0}]
    others = [names(3, PLAIN.model_copy(update=change), 0)[1:] for change in changes]
    others += [names(3, PLAIN, seed)[1:] for seed in (0, 1, -1, 11)]
    flat = [name for pair in others for name in pair]
    assert len(set(flat)) == len(flat)
    assert names(2, PLAIN, 0) == [views.EVALUATION, "crop(0.4)|flip|rotate(0.0)|lighting(0.2)|seed(0)|view(1)"]


def test_a_name_tells_what_may_be_drawn() -> None:
    for augment in (PLAIN, WILD, how(), how(0.123456, True, 179.5, 0.987654), how(rotate=1e-7)):
        assert views.settings(names(2, augment, -3)[1]) == augment


@pytest.mark.parametrize("change", [{"crop": 1 - 1e-7}, {"crop": 0.40000001}, {"rotate": 30.00001}])
def test_every_digit_is_in_the_name(change: dict[str, float]) -> None:
    """Else the store gives one the views of the other: crop 1 is the largest square, 0.9999999 is not."""
    base = how(1.0 if change.get("crop", 0) > 0.5 else 0.4, rotate=30.0)
    assert names(2, base, 0)[1] != names(2, base.model_copy(update=change), 0)[1]


# --- a view follows from its name and its image alone


def test_a_view_does_not_depend_on_order_neighbours_or_workers() -> None:
    wanted = [(number, name) for number in range(8) for name in names(4, WILD, 0)]

    def make(pair: tuple[int, str]) -> tuple[torch.Tensor, Any]:
        return view(noise(seed=pair[0]), pair[1], sha256=sha(pair[0]), preprocessing=HOW, augment=WILD)

    expected = {pair: make(pair) for pair in wanted}
    torch.manual_seed(77)
    np.random.seed(77)
    for workers in (1, 2, 7):
        order = [wanted[place] for place in np.random.default_rng(workers).permutation(len(wanted))]
        with ThreadPoolExecutor(workers) as pool:
            for pair, (pixels, affine) in zip(order, pool.map(make, order), strict=True):
                assert torch.equal(pixels, expected[pair][0])
                np.testing.assert_array_equal(affine, expected[pair][1])


def test_a_view_leaves_the_random_state_and_the_image_alone() -> None:
    image, states = noise(), (torch.get_rng_state(), np.random.get_state()[1].tolist())  # type: ignore[index,union-attr]
    before = image.clone()
    view(image, names(2, WILD, 0)[1], sha256=sha(0), preprocessing=HOW, augment=WILD)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # type: ignore[index,union-attr]
    assert torch.equal(image, before)


@pytest.mark.parametrize("size", [64, 384])
def test_a_view_does_not_depend_on_the_number_of_threads(size: int) -> None:
    found, before = [], torch.get_num_threads()
    image, preprocessing = noise(500, 400) // 4 + 190, HOW.at(size, "crop")  # bright: sums beyond float32's integers
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(
                [
                    view(image, name, sha256=sha(1), preprocessing=preprocessing, augment=WILD)[0]
                    for name in names(9, WILD, 0)
                ]
            )
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_a_view_is_the_same_in_another_process(repository: Path) -> None:
    script = """
        import hashlib, json, sys
        import torch
        from stages.images.preprocessing import Preprocessing
        from stages.images.views import view
        from stages.images.options import Augment

        pixels, names, sha256, how, augment = json.loads(sys.stdin.read())
        image = torch.tensor(pixels, dtype=torch.uint8)
        for name in reversed(names):
            made, affine = view(
                image, name, sha256=sha256, preprocessing=Preprocessing(**how), augment=Augment(**augment)
            )
            print(hashlib.sha256(made.numpy().tobytes() + affine.tobytes()).hexdigest())
    """
    image, wanted = noise(40, 30), names(4, WILD, 2)
    sent = json.dumps([image.tolist(), wanted, sha(3), vars(HOW), WILD.model_dump()])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=os.environ | {"PYTHONPATH": str(repository), "PYTHONHASHSEED": "5"},
        input=sent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    made = [view(image, name, sha256=sha(3), preprocessing=HOW, augment=WILD) for name in reversed(wanted)]
    expected = [hashlib.sha256(pixels.numpy().tobytes() + affine.tobytes()).hexdigest() for pixels, affine in made]
    assert done.stdout.split() == expected


@given(seed=st.integers(-(2**63), 2**63), number=st.integers(0, 10**6))
def test_seeds_images_and_numbers_draw_differently(seed: int, number: int) -> None:
    base = names(3, WILD, seed)
    plain = draw(base[1], sha(number), width=300, height=200, augment=WILD)
    assert plain == draw(base[1], sha(number), width=300, height=200, augment=WILD)
    others = [(base[2], sha(number)), (names(2, WILD, seed + 1)[1], sha(number)), (base[1], sha(number + 1))]
    assert all(draw(name, sha256, width=300, height=200, augment=WILD) != plain for name, sha256 in others)


def test_pixels_differ_as_the_draws_do() -> None:
    made = [
        view(noise(), name, sha256=sha(0), preprocessing=HOW, augment=PLAIN)[0]
        for name in names(6, PLAIN, 0) + names(6, PLAIN, 1)[1:]
    ]
    made += [view(noise(), names(2, PLAIN, 0)[1], sha256=sha(1), preprocessing=HOW, augment=PLAIN)[0]]
    assert all(not torch.equal(a, b) for place, a in enumerate(made) for b in made[:place])


def test_draws_spread_over_all_that_is_allowed() -> None:
    found = [draw(names(2, WILD, 0)[1], sha(number), width=400, height=400, augment=WILD) for number in range(2000)]
    boxes = np.array([drawn.box for drawn in found], float)
    share, ratio = boxes[:, 2] * boxes[:, 3] / 160_000, boxes[:, 2] / boxes[:, 3]
    whole = (boxes[:, 2] == 400) | (boxes[:, 3] == 400)  # cut off at a side of the image
    assert share.min() < 0.22 and share.max() > 0.95 and np.median(share[~whole]) > 0.4
    assert ratio.min() < 0.77 and ratio.max() > 1.3 and abs(np.log(ratio).mean()) < 0.02
    for place, side in ((0, 2), (1, 3)):
        free = boxes[:, side] < 400
        where = boxes[free, place] / (400 - boxes[free, side])
        assert where.min() == 0 and where.max() == 1 and abs(where.mean() - 0.5) < 0.02
    assert abs(np.mean([drawn.flip for drawn in found]) - 0.5) < 0.03
    for values, middle, swing in (
        ([drawn.angle for drawn in found], 0, 30),
        ([drawn.brightness for drawn in found], 1, 0.3),
        ([drawn.contrast for drawn in found], 1, 0.3),
    ):
        assert middle - swing <= min(values) < middle - 0.98 * swing
        assert middle + swing >= max(values) > middle + 0.98 * swing
        assert abs(np.mean(values) - middle) < 0.05 * swing


# --- what is drawn


def ratios(width: int, height: int) -> tuple[float, float]:
    """The ratios that a crop of whole pixels may stand for."""
    return (max(width - 0.5, 0.5) / (height + 0.5), (width + 0.5) / max(height - 0.5, 0.5))


@settings(max_examples=400)
@given(width=sides, height=sides, number=st.integers(0, 10**6), augment=augments)
def test_a_crop_is_as_large_and_as_long_as_it_may(width: int, height: int, number: int, augment: Augment) -> None:
    left, top, w, h = draw(names(2, augment, 0)[1], sha(number), width=width, height=height, augment=augment).box
    assert left >= 0 and top >= 0 and w >= 1 and h >= 1 and left + w <= width and top + h <= height
    if augment.crop == 1:
        assert w == h == min(width, height)
        return
    low, high = ratios(w, h)
    if w < width and h < height:  # not cut off
        assert (w + 0.5) * (h + 0.5) >= augment.crop * width * height * (1 - 1e-9)
        assert max(w - 0.5, 0) * max(h - 0.5, 0) <= width * height
        assert low <= RATIOS[1] * (1 + 1e-9) and high >= RATIOS[0] * (1 - 1e-9)
    else:  # the side that is cut off is all of the image's, the other as long as the draw made it
        assert w == width or h == height
        if h == height and w < width:
            assert high >= RATIOS[0]
            assert (w + 0.5) ** 2 >= augment.crop * width * height * RATIOS[0] * (1 - 1e-9)
        if w == width and h < height:
            assert low <= RATIOS[1]
            assert (h + 0.5) ** 2 >= augment.crop * width * height / RATIOS[1] * (1 - 1e-9)


@settings(max_examples=100)
@given(side=st.integers(1, 2000), number=st.integers(0, 10**6), crop=st.floats(0.05, 0.75))
def test_a_square_that_is_not_cut_off_keeps_share_and_ratio(side: int, number: int, crop: float) -> None:
    """Of a square, crops up to 3/4 of the area always fit."""
    augment = how(crop=crop)
    drawn = draw(names(2, augment, 0)[1], sha(number), width=side, height=side, augment=augment)
    w, h = drawn.box[2:]
    assume(w < side and h < side)
    low, high = ratios(w, h)
    assert low <= RATIOS[1] and high >= RATIOS[0]
    assert (w + 0.5) * (h + 0.5) >= crop * side**2 * (1 - 1e-9)


@pytest.mark.parametrize(("width", "height"), [(80, 60), (60, 80), (50, 50), (7, 300)])
def test_crop_1_is_the_largest_square(width: int, height: int) -> None:
    places = set()
    for name in names(40, how(), 0)[1:]:
        left, top, w, h = draw(name, sha(0), width=width, height=height, augment=how()).box
        assert w == h == min(width, height)
        places.add((left, top))
    assert (len(places) > 5) == (width != height)
    assert {0} in ({left for left, _ in places}, {top for _, top in places})


def test_what_is_turned_off_is_left_out() -> None:
    image, side = noise(50, 50), 50
    preprocessing = Preprocessing(None, side, "bilinear", (0, 0, 0), (1, 1, 1))
    for number, name in enumerate(names(12, how(), 0)[1:]):
        assert draw(name, sha(number), width=side, height=side, augment=how()) == CropParams(
            (0, 0, side, side), False, 0, 1, 1
        )
        pixels, affine = view(image, name, sha256=sha(number), preprocessing=preprocessing, augment=how())
        assert torch.equal(pixels, image)  # a square image in its own size, nothing drawn
        np.testing.assert_array_equal(affine, np.eye(2, 3))


@pytest.mark.parametrize("off", ["flip", "rotate", "lighting"])
def test_each_switch_is_its_own(off: str) -> None:
    augment = how(0.5, True, 20, 0.3).model_copy(update={off: False if off == "flip" else 0.0})
    found = [draw(name, sha(0), width=90, height=70, augment=augment) for name in names(30, augment, 0)[1:]]
    assert any(drawn.flip for drawn in found) == (off != "flip")
    assert any(drawn.angle for drawn in found) == (off != "rotate")
    assert any(drawn.brightness != 1 or drawn.contrast != 1 for drawn in found) == (off != "lighting")
    assert len({drawn.box for drawn in found}) > 20


def test_a_flip_alone_is_the_mirror_image() -> None:
    augment, image = how(flip=True), noise(50, 50)
    preprocessing = Preprocessing(None, 50, "bilinear", (0, 0, 0), (1, 1, 1))
    flipped = 0
    for name in names(20, augment, 0)[1:]:
        pixels, affine = view(image, name, sha256=sha(0), preprocessing=preprocessing, augment=augment)
        flips = draw(name, sha(0), width=50, height=50, augment=augment).flip
        assert torch.equal(pixels, image.flip(2) if flips else image)
        np.testing.assert_array_equal(affine, [[-1, 0, 50], [0, 1, 0]] if flips else np.eye(2, 3))
        flipped += bool(flips)
    assert 3 < flipped < 17


def test_lighting_alone_moves_brightness_and_contrast() -> None:
    augment, image = how(lighting=0.4), noise(50, 50) // 2 + 40
    preprocessing = Preprocessing(None, 50, "bilinear", (0, 0, 0), (1, 1, 1))
    for name in names(10, augment, 0)[1:]:
        pixels, affine = view(image, name, sha256=sha(0), preprocessing=preprocessing, augment=augment)
        drawn = draw(name, sha(0), width=50, height=50, augment=augment)
        bright = (image.double() * drawn.brightness).clamp(0, 255)
        grey = (0.2989 * bright[0] + 0.587 * bright[1] + 0.114 * bright[2]).mean()
        expected = (drawn.contrast * bright + (1 - drawn.contrast) * grey).clamp(0, 255)
        assert (pixels.double() - expected).abs().max() <= 3  # whole grey levels on the way
        np.testing.assert_array_equal(affine, np.eye(2, 3))
        assert 0.6 <= drawn.brightness <= 1.4 and 0.6 <= drawn.contrast <= 1.4


def test_a_rotation_fills_with_grey_and_turns_about_the_middle() -> None:
    augment = how(rotate=45)
    drawn = {name: draw(name, sha(0), width=60, height=60, augment=augment) for name in names(50, augment, 0)[1:]}
    name = next(name for name, crop in drawn.items() if crop.angle > 30)
    pixels, affine = view(
        torch.zeros(3, 60, 60, dtype=torch.uint8), name, sha256=sha(0), preprocessing=HOW, augment=augment
    )
    assert [pixels[:, y, x].tolist() for y in (0, -1) for x in (0, -1)] == [[FILL] * 3] * 4
    assert not pixels[:, 16:48, 16:48].any()
    np.testing.assert_allclose(affine @ [30, 30, 1], [SIZE / 2, SIZE / 2], atol=1e-4)
    angle = np.degrees(np.arctan2(-affine[1, 0], affine[0, 0]))  # y points down: counter-clockwise is negative
    assert angle == pytest.approx(draw(name, sha(0), width=60, height=60, augment=augment).angle, abs=1e-3)


# --- where things land


def dot_lands(image: tuple[int, int], dot: tuple[int, int], drawn: tuple[torch.Tensor, Any]) -> None:
    """The centre of a square dot is where the affine map says, within 1.5 pixels."""
    pixels, affine = drawn
    expected = affine @ [dot[0], dot[1], 1]
    weight = pixels.float().sum(0) - pixels.float().sum(0).median()
    weight = weight.clamp(min=0).double()
    assert weight.sum() > 0, f"the dot at {dot} of {image} is gone: expected at {expected}"
    grid = torch.arange(pixels.shape[-1]).double() + 0.5
    found = [float((weight.sum(0) * grid).sum() / weight.sum()), float((weight.sum(1) * grid).sum() / weight.sum())]
    np.testing.assert_allclose(found, expected, atol=1.5)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    width=st.integers(30, 400),
    height=st.integers(30, 400),
    across=st.floats(0, 1),
    down=st.floats(0, 1),
    number=st.integers(0, 10**6),
    augment=augments,
    interpolation=st.sampled_from(["bilinear", "bicubic", "nearest"]),
    size=st.sampled_from([48, 64, 97, 224]),
)
def test_the_affine_map_says_where_a_dot_lands(
    width: int, height: int, across: float, down: float, number: int, augment: Augment, interpolation: Any, size: int
) -> None:
    augment = augment.model_copy(update={"lighting": 0.0})  # the dot is told from the rest by its brightness
    preprocessing = Preprocessing(size, size, interpolation, (0, 0, 0), (1, 1, 1))
    name = names(2, augment, 0)[1]
    left, top, w, h = draw(name, sha(number), width=width, height=height, augment=augment).box
    radius = max(1, round(1.5 * max(w, h) / size))  # some pixels of the view, and of the image
    assume(2 * radius + 3 < min(w, h))
    x, y = (round(low + radius + share * (length - 2 * radius)) for low, share, length in
            ((left, across, w), (top, down, h)))  # fmt: skip
    image = torch.full((3, height, width), FILL, dtype=torch.uint8)  # as dark as what a rotation brings in
    image[:, y - radius : y + radius, x - radius : x + radius] = 255
    made = view(image, name, sha256=sha(number), preprocessing=preprocessing, augment=augment)
    reach = radius * 1.5 * size / min(w, h) + 1.5
    expected = made[1] @ [x, y, 1]
    assume((expected >= reach).all() and (expected <= size - reach).all())  # all of the dot is in the view
    dot_lands((width, height), (x, y), made)


@pytest.mark.parametrize("augment", [how(), how(crop=0.3), how(flip=True), how(rotate=90), how(0.3, True, 180)])
def test_corners_of_a_crop_are_corners_of_the_view(augment: Augment) -> None:
    for name in names(12, augment, 0)[1:]:
        drawn = draw(name, sha(0), width=200, height=150, augment=augment)
        left, top, w, h = drawn.box
        affine = views.affine(drawn, SIZE).astype(float)
        corners = [(left, top), (left + w, top), (left, top + h), (left + w, top + h)]
        placed = np.array([affine @ [x, y, 1] for x, y in corners])
        turn = np.radians(drawn.angle)
        back = (placed - SIZE / 2) @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        back[:, 0] *= -1 if drawn.flip else 1
        half = SIZE / 2
        np.testing.assert_allclose(back, [[-half, -half], [half, -half], [-half, half], [half, half]], atol=1e-3)


# --- odd images


@pytest.mark.parametrize(
    ("width", "height"), [(1, 1), (1, 5000), (5000, 1), (2, 3), (3000, 2), (1, 2), (257, 31), (4000, 3000)]
)
@pytest.mark.parametrize("augment", [PLAIN, WILD, how(), how(0.01), how(1, True, 180, 0.9)])
def test_odd_images_have_views(width: int, height: int, augment: Augment) -> None:
    image = torch.full((3, height, width), 200, dtype=torch.uint8)
    for name in names(4, augment, 0)[1:]:
        pixels, affine = view(image, name, sha256=sha(0), preprocessing=HOW, augment=augment)
        assert pixels.shape == (3, SIZE, SIZE) and pixels.dtype == torch.uint8 and pixels.is_contiguous()
        assert affine.shape == (2, 3) and affine.dtype == np.float32 and np.isfinite(affine).all()
        assert abs(np.linalg.det(affine[:, :2].astype(float))) > 0
        if not augment.rotate:
            assert len(torch.unique(pixels)) == 1  # one grey everywhere


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_every_interpolation_works(interpolation: Any) -> None:
    preprocessing = Preprocessing(73, SIZE, interpolation, (0, 0, 0), (1, 1, 1))
    name = names(2, how(0.5), 0)[1]
    pixels, _ = view(noise(), name, sha256=sha(0), preprocessing=preprocessing, augment=how(0.5))
    left, top, w, h = draw(name, sha(0), width=80, height=60, augment=how(0.5)).box
    part = noise()[:, top : top + h, left : left + w]
    expected = F.resize(
        part, [SIZE, SIZE], views.InterpolationMode(interpolation), antialias=interpolation != "nearest"
    )
    assert torch.equal(pixels, expected)


def distinct(rows: Sequence[Any]) -> int:
    return len({json.dumps(row) for row in rows})


def test_no_two_of_64_views_of_an_image_are_the_same() -> None:
    drawn = [draw(name, sha(0), width=500, height=375, augment=PLAIN) for name in names(64, PLAIN, 0)[1:]]
    assert distinct([(d.box, bool(d.flip), d.brightness, d.contrast) for d in drawn]) == 63
