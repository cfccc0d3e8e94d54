"""Extraction: a row is a function of its image alone, only missing rows are computed, and a kill costs one part."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import models
from tqdm import tqdm

from stages import extract as stage
from stages import paths
from stages.backbones.engine import pick_precision
from stages.datasets import index_file
from stages.datasets.index_file import IndexRow
from stages.errors import UserError
from stages.features import decoders, extraction, h5, watchdog
from stages.features.decoders import ImageRef
from stages.features.extraction import Spec, compute_part, extract, load_extractor
from stages.features.store import fingerprint
from stages.images import views
from stages.images.decode import decode, shrink
from stages.images.options import Augment
from stages.images.preprocessing import Preprocessing
from stages.images.scaling import SCALING

OUT = Path("cache/features/folder/toy.h5")
WITH_OPENVINO = pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO has no wheel for this machine")
MEMBER = "features/pooled"
Folder = Callable[..., Path]
AUGMENT = Augment(crop=0.4, flip=True, rotate=0.0, lighting=0.2)


def views_of(count: int, augment: Augment = AUGMENT, seed: int = 0) -> tuple[str, ...]:
    return tuple(views.names(count, augment, seed))


def spec_of(folder: Path, **changes: Any) -> Spec:
    """SqueezeNet with random weights on 64 pixels: a few milliseconds an image."""
    spec = Spec(
        folder=folder,
        backbone="squeezenet1_1",
        weights="random",
        cut="pooled",
        image_size=64,
        resize="crop",
        precision="float32",
        dtype="float32",
        batch_size=4,
        device="cpu",
        views=views_of(1),
        augment=AUGMENT,
        engine="torch",
    )
    return replace(spec, **changes)


def rows_of(spec: Spec, part: Sequence[ImageRef]) -> dict[str, h5.Array]:
    """All of a spec's views of some images."""
    return compute_part(spec, part, spec.views)


def listed(folder: Path) -> list[ImageRef]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]


def truncate(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-120])
    return path


@pytest.fixture(autouse=True)
def forget_extractors() -> Any:
    yield
    load_extractor.cache_clear()


# --- compute_part


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_row_depends_on_its_image_alone(workplace: Path, class_folder: Folder, precision: str) -> None:
    folder = class_folder(3)
    spec, part = spec_of(folder, precision=precision), listed(folder)
    together = rows_of(spec, part)
    assert together[MEMBER].shape == (9, 1, 512) and together[MEMBER].dtype == np.float32
    assert len(np.unique(together[MEMBER], axis=0)) == 9  # the images differ, so the rows do
    assert np.abs(together[MEMBER]).mean() > 1e-4
    orders: list[Sequence[int]] = [range(8, -1, -1), [4, 0, 7], [5, 5, 5, 1], *([place] for place in range(9))]
    for order in orders:
        other = rows_of(spec, [part[place] for place in order])
        for member, rows in together.items():
            np.testing.assert_array_equal(other[member], rows[list(order)], err_msg=f"{member} in {order}")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_row_does_not_depend_on_the_number_of_threads(workplace: Path, class_folder: Folder, precision: str) -> None:
    folder, before = class_folder(2), torch.get_num_threads()
    # params.yaml's batch: in float32 a batch of 4 small images is summed up otherwise on 1 thread than on 2 (1e-7)
    spec, found = spec_of(folder, precision=precision, batch_size=32), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(rows_of(spec, listed(folder))[MEMBER])
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_a_bad_image_has_a_zero_row_and_its_neighbours_do_not_notice(workplace: Path, class_folder: Folder) -> None:
    folder = class_folder(3)
    spec, good = spec_of(folder), rows_of(spec_of(folder), listed(folder))
    truncate(folder / "bee/001.jpg")
    found = rows_of(spec, listed(folder))
    assert found["ok"].tolist() == [1, 1, 1, 1, 0, 1, 1, 1, 1]
    assert not found[MEMBER][4].any() and not found["views"][4].any()
    for member in (MEMBER, "views"):
        others = [0, 1, 2, 3, 5, 6, 7, 8]
        np.testing.assert_array_equal(found[member][others], good[member][others])


def test_a_part_without_one_good_image(workplace: Path, class_folder: Folder) -> None:
    folder = class_folder(1)
    for path, _ in listed(folder):
        truncate(folder / path)
    found = rows_of(spec_of(folder), listed(folder))
    assert not any(rows.any() for rows in found.values())


def test_a_map_keeps_its_shape(workplace: Path, class_folder: Folder) -> None:
    folder = class_folder(1)
    found = rows_of(spec_of(folder, cut="map", dtype="float16"), listed(folder))
    assert found["features/map"].shape == (3, 1, 512, 3, 3) and found["features/map"].dtype == np.float16


def test_the_views_say_where_a_pixel_went(workplace: Path, class_folder: Folder) -> None:
    folder = class_folder(1)  # 40 x 48 pixels; 256 / 224 of 64 is 73
    found = rows_of(spec_of(folder), listed(folder)[:1])["views"]
    assert found.shape == (1, 1, 2, 3)
    np.testing.assert_allclose(found[0, 0], [[73 / 40, 0, -4], [0, 87 / 48, -12]], rtol=1e-6)


def test_a_file_that_changed_since_it_was_indexed_stops_the_run(workplace: Path, class_folder: Folder) -> None:
    folder = class_folder(1)
    part = listed(folder)
    truncate(folder / "ant/000.jpg")
    with pytest.raises(UserError, match=r"ant/000.jpg has changed since it was indexed: run `dvc repro`"):
        rows_of(spec_of(folder), part)
    (folder / "ant/000.jpg").unlink()
    with pytest.raises(UserError, match=r"ant/000.jpg cannot be read"):
        rows_of(spec_of(folder), part)


@pytest.mark.parametrize("engine", ["torch", pytest.param("openvino", marks=WITH_OPENVINO)])
def test_what_cannot_be_stored_names_the_knob(workplace: Path, class_folder: Folder, engine: str) -> None:
    folder, weights = class_folder(1), models.squeezenet1_1().state_dict()
    for value, dtype, message in (
        (70_000.0, "float16", r"does not fit into float16: -S extract.dtype=float32"),
        (70_000.0, "float32", None),
        (float("nan"), "float32", r"values that are not finite: -S extract.precision=float32"),
    ):
        weights["features.0.bias"][:] = value  # ReLU and sums make it larger
        torch.save(weights, path := workplace / f"{value}.pth")
        spec = spec_of(folder, weights=str(path), cut="features.0", dtype=dtype, engine=engine)
        if message is None:
            assert rows_of(spec, listed(folder))["features/features.0"].max() > 65_504
        else:
            with pytest.raises(UserError, match=message):
                rows_of(spec, listed(folder))


def test_float16_on_a_cpu_is_refused() -> None:
    with pytest.raises(UserError, match=r"`extract.precision`: float16 needs a GPU"):
        pick_precision("float16", torch.device("cpu"))
    assert pick_precision("float32", torch.device("cpu")) == "float32"
    assert pick_precision("auto", torch.device("cpu")) in ("float32", "bfloat16")


# --- extract


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The images of every part that is computed from here on."""
    made: list[list[str]] = []

    def counted(spec: Spec, part: Sequence[ImageRef], names: Sequence[str], *decoders: Any) -> dict[str, h5.Array]:
        made.append([path for path, _ in part])
        return compute_part(spec, part, names, *decoders)

    monkeypatch.setattr(extraction, "compute_part", counted)
    return made


def forget_store() -> None:
    for path in sorted(paths.store().rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()


def test_twice_gives_the_same_file_whatever_the_parts(
    workplace: Path, class_folder: Folder, monkeypatch: pytest.MonkeyPatch, calls: list[list[str]]
) -> None:
    folder = class_folder(4)
    spec, wanted = spec_of(folder), listed(folder)
    assert extract(spec, wanted, OUT)[:2] == (12, [])
    assert [len(part) for part in calls] == [12]
    expected = OUT.read_bytes()
    assert extract(spec, wanted, OUT)[:2] == (0, [])
    assert OUT.read_bytes() == expected
    forget_store()
    monkeypatch.setattr(extraction, "PART_VIEWS", 4)
    assert extract(spec, wanted, OUT)[:2] == (12, [])
    assert [len(part) for part in calls[1:]] == [4, 4, 4]
    assert OUT.read_bytes() == expected


def test_the_next_part_is_computed_while_one_is_written(
    workplace: Path, class_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, begun = class_folder(4), threading.Event()
    wanted, add = listed(folder), extraction.RowStore.add

    def noticed(spec: Spec, part: Sequence[ImageRef], names: Sequence[str], *decoders: Any) -> dict[str, h5.Array]:
        if part[0] == wanted[4]:
            begun.set()
        return compute_part(spec, part, names, *decoders)

    def late(self: Any, *arguments: Any) -> None:
        assert begun.wait(60)
        add(self, *arguments)

    monkeypatch.setattr(extraction, "compute_part", noticed)
    monkeypatch.setattr(extraction.RowStore, "add", late)
    monkeypatch.setattr(extraction, "PART_VIEWS", 4)
    assert extract(spec_of(folder), wanted, OUT)[:2] == (12, [])


def test_a_part_that_fails_ends_the_run_and_the_parts_before_it_are_kept(
    workplace: Path, class_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = class_folder(4)
    wanted = listed(folder)
    truncate(folder / wanted[9][0])
    monkeypatch.setattr(extraction, "PART_VIEWS", 4)
    with pytest.raises(UserError, match=r"has changed since it was indexed"):
        extract(spec_of(folder), wanted, OUT)
    kept = [h5.read(part).sha256 for part in (paths.store() / "features").glob("*/*.h5")]
    assert {sha256 for part in kept for sha256 in part} == {sha256 for _, sha256 in wanted[:8]} and not OUT.exists()


def test_the_file_holds_what_was_computed(workplace: Path, class_folder: Folder) -> None:
    folder = class_folder(2)
    spec, wanted = spec_of(folder), listed(folder)
    extract(spec, wanted, OUT)
    found = h5.read(OUT)
    for member, rows in rows_of(spec, wanted).items():
        np.testing.assert_array_equal(found.members[member], rows)
    assert found.sha256 == [sha256 for _, sha256 in wanted]
    expected = {"backbone": "squeezenet1_1", "weights": "random", "cut": "pooled", "image_size": 64, "resize": "crop",
                "precision": "float32", "dtype": "float32", "batch_size": 4, "engine": "torch", "device": "cpu",
                "pipeline": extraction.PIPELINE, "views": ["evaluation"]}  # fmt: skip
    assert {name: found.provenance[name] for name in expected} == expected
    assert found.provenance["parameters"] == 722_496  # torchvision's 1,235,496 less the final convolution's 513,000
    assert str(workplace) not in json.dumps(found.provenance)


def test_every_knob_that_changes_features_changes_the_provenance(workplace: Path) -> None:
    plain = load_extractor(spec_of(workplace)).provenance
    for change in (
        {"image_size": 96}, {"resize": "squash"}, {"precision": "bfloat16"}, {"dtype": "float16"}, {"batch_size": 8},
        {"cut": "map"},
    ):  # fmt: skip
        assert load_extractor(spec_of(workplace, **change)).provenance != plain, change
    assert load_extractor(spec_of(workplace / "elsewhere")).provenance == plain


def test_added_images_alone_are_computed(workplace: Path, class_folder: Folder, calls: list[list[str]]) -> None:
    folder = class_folder(2)
    extract(spec_of(folder), listed(folder), OUT)
    class_folder(3)
    assert extract(spec_of(folder), listed(folder), OUT)[:2] == (3, [])
    assert calls[1:] == [["ant/002.jpg", "bee/002.jpg", "cat/002.jpg"]]
    incremental = OUT.read_bytes()
    forget_store()
    extract(spec_of(folder), listed(folder), OUT)
    assert OUT.read_bytes() == incremental


def test_bad_images_are_told_and_not_computed_again(
    workplace: Path, class_folder: Folder, calls: list[list[str]]
) -> None:
    folder = class_folder(2)
    truncate(folder / "bee/000.jpg")
    wanted = listed(folder)
    assert extract(spec_of(folder), wanted, OUT)[:2] == (6, [2])
    assert h5.read(OUT).ok.tolist() == [True, True, False, True, True, True]
    assert extract(spec_of(folder), wanted, OUT)[:2] == (0, [2])
    assert "truncated" in extraction.decoding_error(spec_of(folder), wanted[2])


WRAPPER = """
    import json, os, sys, time
    from pathlib import Path
    from stages.features import extraction, store
    from stages.features.extraction import Spec
    from stages.images.options import Augment

    folder, wanted, where, names = json.loads(sys.argv[1])
    kept = 0
    add, write, compute = store.RowStore.add, os.pwrite, extraction.compute_part

    def hang():
        print("now", flush=True)
        time.sleep(600)

    def counted_add(self, arrays, sha256, views):
        global kept
        add(self, arrays, sha256, views)
        kept += 1

    def slow_write(descriptor, data, offset):
        if where == "write" and kept == 2:
            write(descriptor, data[: len(data) // 2], offset)
            hang()
        return write(descriptor, data, offset)

    def slow_compute(spec, part, names, *decoders):
        if where == "compute" and part[0][0] == wanted[8][0]:  # the third part; the fourth is computed meanwhile
            while kept < 2:
                time.sleep(0.01)
            hang()
        return compute(spec, part, names, *decoders)

    def slow_assemble(self, sha256, views, out):
        if where == "assemble":
            os.pwrite = lambda descriptor, data, offset: hang()
        assemble(self, sha256, views, out)

    assemble, store.RowStore.assemble = store.RowStore.assemble, slow_assemble
    store.RowStore.add, os.pwrite, extraction.compute_part = counted_add, slow_write, slow_compute
    extraction.PART_VIEWS = 4 * len(names)
    spec = Spec(
        Path(folder), "squeezenet1_1", "random", "pooled", 64, "crop", "float32", "float32", 4, "cpu",
        tuple(names), Augment(crop=0.4, flip=True, rotate=0.0, lighting=0.2), "torch",
    )
    extraction.extract(spec, [tuple(image) for image in wanted], Path("cache/features/folder/toy.h5"))
"""


@pytest.mark.parametrize(
    ("where", "lost", "count"),
    [("compute", 8, 1), ("write", 8, 1), ("assemble", 0, 1), ("write", 8, 3), ("assemble", 0, 3)],
)
def test_a_kill_costs_the_parts_in_flight(
    workplace: Path, class_folder: Folder, repository: Path, where: str, lost: int, count: int
) -> None:
    folder = class_folder(5)  # 15 images: parts of 4, 4, 4 and 3; killed with two of them kept, or all
    spec, wanted = spec_of(folder, views=views_of(count)), listed(folder)
    running = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRAPPER), json.dumps([str(folder), wanted, where, spec.views])],
        env=os.environ | {"PYTHONPATH": str(repository)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    while (line := running.stdout.readline()) not in ("now\n", ""):
        pass
    assert line == "now\n"
    running.send_signal(signal.SIGKILL)
    assert running.wait(30) == -signal.SIGKILL
    running.stdout.close()
    home = next((paths.store() / "features").iterdir())
    kept = sum(len(h5.read(part).sha256) for part in home.glob("*.h5"))
    assert kept == len(wanted) - (7 if lost else 0)
    assert all(h5.read(part).provenance["views"] == list(spec.views) for part in home.glob("*.h5"))
    assert not OUT.exists()
    computed, bad, _ = extract(spec, wanted, OUT)
    assert (computed, bad) == (len(wanted) - kept, [])
    assert list(home.glob("*.partial")) == []
    after_kill = OUT.read_bytes()
    forget_store()
    extract(spec, wanted, OUT)
    assert OUT.read_bytes() == after_kill


# --- several views


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(view, sha256) of every view that is made from here on."""
    made: list[tuple[str, str]] = []
    make = views.view

    def counted(image: torch.Tensor, name: str, *, sha256: str, preprocessing: Preprocessing, augment: Augment) -> Any:
        made.append((name, sha256))
        return make(image, name, sha256=sha256, preprocessing=preprocessing, augment=augment)

    monkeypatch.setattr(views, "view", counted)
    return made


def columns(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The features in a file, by the name of the view."""
    found = h5.read(path)
    layer = found.layers["pooled"]
    assert layer.shape[1] == len(found.provenance["views"])
    return {name: np.array(layer[:, column]) for column, name in enumerate(found.provenance["views"])}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_view_depends_on_its_image_and_name_alone(workplace: Path, class_folder: Folder, precision: str) -> None:
    folder = class_folder(2)
    spec, part = spec_of(folder, precision=precision, views=views_of(4)), listed(folder)
    together = rows_of(spec, part)
    assert together[MEMBER].shape == (6, 4, 512) and together["views"].shape == (6, 4, 2, 3)
    assert len(np.unique(together[MEMBER].reshape(24, 512), axis=0)) == 24
    assert len(np.unique(together["views"].reshape(24, 6), axis=0)) >= 20  # sizes, and so evaluation views, repeat
    for names in ([3], [0], [2, 1], [3, 2, 1, 0], [1, 1]):
        for images in ([5, 0, 3], [4], [2, 2]):
            other = compute_part(spec, [part[place] for place in images], [spec.views[name] for name in names])
            for member in (MEMBER, "views"):
                np.testing.assert_array_equal(other[member], together[member][np.ix_(images, names)])
            np.testing.assert_array_equal(other["ok"], together["ok"][images])


def test_each_image_is_decoded_once_for_all_of_its_views(
    workplace: Path, class_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, decoded = class_folder(1), list[int]()
    monkeypatch.setattr(decoders, "decode", lambda data: decoded.append(len(data)) or decode(data))
    rows_of(spec_of(folder, views=views_of(5)), listed(folder))
    assert len(decoded) == 3


def test_a_bad_image_is_zero_in_every_view(workplace: Path, class_folder: Folder) -> None:
    folder = class_folder(2)
    spec = spec_of(folder, views=views_of(3))
    good = rows_of(spec, listed(folder))
    truncate(folder / "bee/000.jpg")
    found = rows_of(spec, listed(folder))
    assert found["ok"].tolist() == [1, 1, 0, 1, 1, 1]
    assert not found[MEMBER][2].any() and not found["views"][2].any()
    for member in (MEMBER, "views"):
        np.testing.assert_array_equal(np.delete(found[member], 2, 0), np.delete(good[member], 2, 0))
    assert extract(spec, listed(folder), OUT)[:2] == (6, [2])
    assert extract(spec, listed(folder), OUT)[:2] == (0, [2])


def test_two_more_views_are_two_computed(
    workplace: Path, class_folder: Folder, calls: list[list[str]], drawn: list[tuple[str, str]]
) -> None:
    folder = class_folder(2)
    four, six, wanted = (*(spec_of(folder, views=views_of(count)) for count in (4, 6)), listed(folder))
    assert extract(four, wanted, OUT)[:2] == (6, [])
    assert sorted(drawn) == sorted((name, sha256) for name in four.views for _, sha256 in wanted)
    drawn.clear()
    assert extract(six, wanted, OUT)[:2] == (6, [])
    assert sorted(drawn) == sorted((name, sha256) for name in six.views[4:] for _, sha256 in wanted)
    assert len(calls) == 2
    added = OUT.read_bytes()
    forget_store()
    assert extract(six, wanted, OUT)[:2] == (6, [])
    assert OUT.read_bytes() == added
    drawn.clear()
    for count in (1, 4, 6):  # and back
        assert extract(spec_of(folder, views=views_of(count)), wanted, OUT)[:2] == (0, [])
    assert drawn == [] and OUT.read_bytes() == added


def test_one_view_after_three_computes_nothing(
    workplace: Path, class_folder: Folder, drawn: list[tuple[str, str]]
) -> None:
    folder = class_folder(2)
    one, three, wanted = (*(spec_of(folder, views=views_of(count)) for count in (1, 3)), listed(folder))
    extract(one, wanted, OUT)
    alone = OUT.read_bytes()
    forget_store()
    extract(three, wanted, OUT)
    drawn.clear()
    assert extract(one, wanted, OUT)[:2] == (0, [])
    assert OUT.read_bytes() == alone and drawn == []


def test_another_augmentation_adds_views_and_keeps_the_old(
    workplace: Path, class_folder: Folder, drawn: list[tuple[str, str]]
) -> None:
    folder = class_folder(2)
    turned = AUGMENT.model_copy(update={"rotate": 10.0})
    before, after = (spec_of(folder, views=views_of(3, how), augment=how) for how in (AUGMENT, turned))
    wanted = listed(folder)
    extract(before, wanted, OUT)
    straight, kept = columns(OUT), OUT.read_bytes()
    drawn.clear()
    assert extract(after, wanted, OUT)[:2] == (6, [])
    assert sorted(drawn) == sorted((name, sha256) for name in after.views[1:] for _, sha256 in wanted)
    tilted = columns(OUT)
    np.testing.assert_array_equal(straight["evaluation"], tilted["evaluation"])
    assert not set(before.views[1:]) & set(after.views[1:])
    assert all(not np.array_equal(straight[b], tilted[a]) for b in before.views[1:] for a in after.views[1:])
    drawn.clear()
    assert extract(before, wanted, OUT)[:2] == (0, [])
    assert drawn == [] and OUT.read_bytes() == kept
    forget_store()
    extract(after, wanted, OUT)
    assert columns(OUT).keys() == tilted.keys()
    assert all(np.array_equal(values, tilted[name]) for name, values in columns(OUT).items())


def test_views_line_up_with_their_names(workplace: Path, class_folder: Folder) -> None:
    """However a file came about, a column holds what compute_part makes of its name."""
    folder = class_folder(3)
    wanted, names = listed(folder), views_of(5)
    expected = rows_of(spec_of(folder, views=names), wanted)
    for some, places in ((names[3:4], [8, 1, 4]), (names[1:3], [0, 1, 2, 3]), (names[:1], [5, 1])):
        extract(spec_of(folder, views=some), [wanted[place] for place in places], Path("some.h5"))
    extract(spec_of(folder, views=names), wanted, OUT)
    found = h5.read(OUT)
    assert found.provenance["views"] == list(names)
    for member, rows in expected.items():
        np.testing.assert_array_equal(found.members[member], rows)


def test_added_images_with_added_views(workplace: Path, class_folder: Folder, drawn: list[tuple[str, str]]) -> None:
    folder = class_folder(1)
    old = listed(folder)
    extract(spec_of(folder, views=views_of(2)), old, OUT)
    class_folder(2)
    wanted, names = listed(folder), views_of(3)
    drawn.clear()
    assert extract(spec_of(folder, views=names), wanted, OUT)[:2] == (6, [])
    lacking = [(names[2], sha256) for _, sha256 in old]
    lacking += [(name, sha256) for path, sha256 in wanted if (path, sha256) not in old for name in names]
    assert sorted(drawn) == sorted(lacking)
    incremental = OUT.read_bytes()
    forget_store()
    extract(spec_of(folder, views=names), wanted, OUT)
    assert OUT.read_bytes() == incremental


@pytest.mark.parametrize(
    ("most", "count", "expected"), [(8, 1, [8, 1]), (8, 2, [4, 4, 1]), (16, 3, [4, 4, 1]), (2, 64, [4, 4, 1])]
)
def test_parts_are_of_whole_batches_and_about_as_many_views(
    workplace: Path, class_folder: Folder, monkeypatch: pytest.MonkeyPatch, calls: list[list[str]],
    most: int, count: int, expected: list[int],
) -> None:  # fmt: skip
    monkeypatch.setattr(extraction, "PART_VIEWS", most)
    folder = class_folder(3)
    extract(spec_of(folder, views=views_of(count), image_size=32), listed(folder), OUT)
    assert [len(part) for part in calls] == expected


def test_the_provenance_of_rows_says_nothing_of_views(workplace: Path) -> None:
    """The store keeps all views of an image side by side: their names tell them apart."""
    turned = AUGMENT.model_copy(update={"rotate": 10.0})
    plain = load_extractor(spec_of(workplace)).provenance
    assert load_extractor(spec_of(workplace, views=views_of(3, turned), augment=turned)).provenance == plain
    assert not {"views", "augmentation", "augment"} & plain.keys()


# --- other cuts


def test_a_pyramid_has_a_layer_for_each_stride(workplace: Path, class_folder: Folder) -> None:
    folder = class_folder(2)
    spec, wanted = spec_of(folder, backbone="resnet18", cut="pyramid"), listed(folder)
    assert extract(spec, wanted, OUT)[:2] == (6, [])
    found = h5.read(OUT)
    shapes = {name: rows.shape for name, rows in found.layers.items()}
    assert shapes == {
        "pyramid@8": (6, 1, 128, 8, 8), "pyramid@16": (6, 1, 256, 4, 4), "pyramid@32": (6, 1, 512, 2, 2)
    }  # fmt: skip
    single = rows_of(replace(spec, cut="map@16"), wanted)["features/map@16"]
    np.testing.assert_array_equal(found.layers["pyramid@16"], single)
    assert found.provenance["cut_at"] == "layer2.1.relu_1, layer3.1.relu_1, layer4.1.relu_1"
    assert extract(spec, wanted[::-1], OUT)[:2] == (0, [])


def test_a_module_is_kept_under_its_name(workplace: Path, class_folder: Folder) -> None:
    folder = class_folder(1)
    extract(spec_of(folder, cut="features.7", views=views_of(2)), listed(folder), OUT)
    found = h5.read(OUT)
    assert {name: rows.shape for name, rows in found.layers.items()} == {"features.7": (3, 2, 256, 7, 7)}
    assert found.provenance["cut"] == "features.7"


def test_tokens_are_kept_as_they_are(workplace: Path, class_folder: Folder) -> None:
    folder = class_folder(1)
    spec = spec_of(folder, backbone="timm:vit_tiny_patch16_224", cut="blocks.1", image_size=224, dtype="float16")
    found = rows_of(spec, listed(folder)[:1])["features/blocks.1"]
    assert found.shape == (1, 1, 197, 192) and found.dtype == np.float16 and found.std() > 0


def test_another_cut_shares_no_row(workplace: Path, class_folder: Folder) -> None:
    folder = class_folder(1)
    for cut in ("features.7", "features.8"):
        assert extract(spec_of(folder, cut=cut), listed(folder), OUT)[:2] == (3, [])
        assert h5.read(OUT).layers.keys() == {cut}


def test_an_unknown_cut_is_refused_before_anything_is_computed(workplace: Path, class_folder: Folder) -> None:
    folder = class_folder(1)
    with pytest.raises(UserError, match=r"squeezenet1_1 has no module 'feature.7'; did you mean features.7"):
        extract(spec_of(folder, cut="feature.7"), listed(folder), OUT)
    assert not OUT.exists()


# --- images


def test_images_themselves_are_kept_padded_with_their_sizes(
    workplace: Path, class_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.backbones.zoo.load", lambda *_: pytest.fail("weights are not needed"))
    folder = class_folder(3)  # 40, 48 and 56 by 48
    spec, wanted = spec_of(folder, cut="input", image_size=32), listed(folder)
    assert extract(spec, wanted, OUT)[:2] == (9, [])
    found = h5.read(OUT)
    images, sizes = found.layers["input"], found.sizes
    assert images.dtype == np.uint8 and images.shape == (9, 1, 3, 44, 43)  # 48 x 40 becomes 44 x 37
    assert sorted(set(map(tuple, sizes.tolist()))) == [(37, 37), (37, 43), (44, 37)]
    for (path, _), kept, (height, width), affine in zip(
        wanted, images[:, 0], sizes, found.members["views"], strict=True
    ):
        expected, matrix = shrink(decode((folder / path).read_bytes()), load_extractor(spec).preprocessing)
        np.testing.assert_array_equal(kept[:, :height, :width], expected)
        assert not kept[:, height:].any() and not kept[:, :, width:].any()
        np.testing.assert_array_equal(affine[0], matrix)
    provenance = found.provenance
    assert (provenance["cut"], provenance["dtype"], provenance["parameters"]) == ("input", "uint8", 0)
    assert provenance["kept"] == "decode|middle(1:2)|shrink(37,bilinear)" and provenance["image_size"] == 32
    assert Preprocessing.parse(provenance["preprocessing"]) == load_extractor(spec).preprocessing


def test_images_come_out_the_same_whatever_came_before(
    workplace: Path, class_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = class_folder(3)
    truncate(folder / "bee/001.jpg")
    spec, wanted = spec_of(folder, cut="input"), listed(folder)
    assert extract(spec, wanted, OUT)[:2] == (9, [4])
    expected = OUT.read_bytes()
    assert h5.read(OUT).sizes[4].tolist() == [0, 0] and not h5.read(OUT).layers["input"][4].any()
    forget_store()
    monkeypatch.setattr(extraction, "PART_VIEWS", 4)
    extract(spec, wanted[5:], Path("some.h5"))
    assert extract(spec, wanted, OUT)[:2] == (5, [4])
    assert OUT.read_bytes() == expected


def test_images_are_kept_once(workplace: Path, class_folder: Folder) -> None:
    with pytest.raises(UserError, match=r"`views`: expected views=1 with cut=input, found views=3: .* stored once"):
        load_extractor(spec_of(workplace, cut="input", views=views_of(3)))


def test_what_an_image_is_kept_for_is_part_of_its_provenance(workplace: Path) -> None:
    spec = spec_of(workplace, cut="input")
    specs = [spec, replace(spec, image_size=32), replace(spec, resize="squash"), replace(spec, backbone="resnet18")]
    assert len({fingerprint(load_extractor(one).provenance) for one in specs}) == 4
    same = [replace(spec, dtype="float16"), replace(spec, batch_size=9), replace(spec, precision="bfloat16")]
    assert {fingerprint(load_extractor(one).provenance) for one in same} == {
        fingerprint(load_extractor(spec).provenance)
    }


# --- the stage


@pytest.fixture
def staged(workplace: Path, class_folder: Folder, params: Callable[..., Any]) -> Callable[..., Any]:
    """`staged(folder, **overrides)`: an index of the folder and the params to extract it."""

    def make(folder: Path, **overrides: Any) -> Any:
        rows = [IndexRow(path, sha256, 40, 48, path[:3], (), None) for path, sha256 in listed(folder)]
        index_file.write(paths.index("folder"), rows)
        return params(
            dataset="folder", root=str(folder), backbone="squeezenet1_1", weights="random", image_size=64, device="cpu",
            **({"extract": {"batch_size": 4, "precision": "float32"}} | overrides),
        )  # fmt: skip

    return make


def test_the_stage_lists_images_that_fail(class_folder: Folder, staged: Callable[..., Any]) -> None:
    folder = class_folder(2)
    truncate(folder / "cat/001.jpg")
    found = stage.main(staged(folder, bad_images={"max_fraction": 0.2}))
    out = paths.features("folder", "squeezenet1_1", "pooled")
    assert found["images"] == found["computed"] == 6 and found["bad"] == 1
    assert found["bytes"] == out.stat().st_size
    (bad,) = json.loads(out.with_suffix(".bad.json").read_text())
    assert bad["path"] == "cat/001.jpg"
    assert "truncated" in bad["reason"]


@pytest.mark.parametrize(("max_fraction", "allowed"), [(0.1, 3), (0.0, 0), (0.75, 4)])
def test_the_stage_stops_at_too_many_bad_images(
    class_folder: Folder, staged: Callable[..., Any], max_fraction: float, allowed: int
) -> None:
    folder, chosen = class_folder(2), {"max_fraction": max_fraction}
    broken = sorted(folder.rglob("*.jpg"))[:5]
    for path in broken[:allowed]:
        truncate(path)
    assert stage.main(staged(folder, bad_images=chosen))["bad"] == allowed
    for path in broken:
        truncate(path)
    with pytest.raises(UserError, match=r"5 of 6 images cannot be decoded, more than the \d .*-S bad_images.\S+=0.834"):
        stage.main(staged(folder, bad_images=chosen))
    assert not paths.features("folder", "squeezenet1_1", "pooled").exists()
    listed = [json.loads(line) for line in (paths.REPORTS / "bad_images.jsonl").read_text().splitlines()]
    assert [folder / row["path"] for row in listed] == broken and all("truncated" in row["reason"] for row in listed)


def test_the_stage_draws_the_views_that_params_ask_for(class_folder: Folder, staged: Callable[..., Any]) -> None:
    folder = class_folder(2)
    out = paths.features("folder", "squeezenet1_1", "pooled")
    augment = {"crop": 0.5, "flip": False, "rotate": 5.0, "lighting": 0.0}
    chosen = staged(folder, views=3, augment=augment, extract={"batch_size": 4, "precision": "float32", "seed": 7})
    assert stage.main(chosen)["computed"] == 6
    names = views_of(3, Augment(crop=0.5, flip=False, rotate=5.0, lighting=0.0), 7)
    found = h5.read(out)
    assert tuple(found.provenance["views"]) == names
    spec = spec_of(folder, views=names, augment=Augment(**augment), dtype="float16")
    np.testing.assert_array_equal(found.layers["pooled"], rows_of(spec, listed(folder))[MEMBER])
    seeded = staged(folder, views=3, augment=augment, extract={"batch_size": 4, "precision": "float32", "seed": 8})
    assert stage.main(seeded)["computed"] == 6
    assert stage.main(chosen)["computed"] == 0
    alone = staged(folder, extract={"batch_size": 4, "precision": "float32"})
    assert stage.main(alone)["computed"] == 0
    assert h5.read(out).provenance["views"] == ["evaluation"]


def test_the_stage_keeps_images(class_folder: Folder, staged: Callable[..., Any]) -> None:
    folder = class_folder(2)
    found = stage.main(staged(folder, cut="input"))
    out = paths.features("folder", "squeezenet1_1", "input")
    assert found["images"] == found["computed"] == 6 and h5.read(out).layers["input"].shape == (6, 1, 3, 48, 48)
    with pytest.raises(UserError, match=r"`views`: expected views=1 with cut=input, found views=2"):
        stage.main(staged(folder, cut="input", views=2))


@pytest.mark.parametrize("scaled", [None, "12-bit integers, 0 to 4,095"])
def test_the_rule_of_scaling_is_provenance_only_where_it_scales(
    class_folder: Folder, staged: Callable[..., Any], scaled: str | None
) -> None:
    """The features of ordinary images stay valid when the rule changes."""
    folder = class_folder(1)
    chosen = staged(folder)
    rows = index_file.read("folder")
    index_file.write(paths.index("folder"), [replace(rows[0], scaled=scaled), *rows[1:]])
    stage.main(chosen)
    provenance = h5.read(paths.features("folder", "squeezenet1_1", "pooled")).provenance
    assert provenance.get("scaling") == (SCALING if scaled else None)


def test_the_bar_and_the_summary_give_one_speed(
    class_folder: Folder, staged: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    found = stage.main(staged(class_folder(2), views=3))
    assert found["computed"] == 6 and found["views/s"] > 0 and "images/s" not in found
    bar = capfd.readouterr().err
    assert "18/18" in bar and "views/s" in bar


def test_a_hidden_bar_changes_nothing(
    class_folder: Folder, staged: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With TQDM_DISABLE=1 a bar knows neither the time nor how much is done."""

    class Hidden(tqdm):  # type: ignore[type-arg]  # tqdm cannot be subscripted when it runs
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options | {"disable": True})

    told: list[tuple[int, int]] = []
    monkeypatch.setattr(extraction, "tqdm", Hidden)
    monkeypatch.setattr(watchdog, "report_progress", lambda done, total: told.append((done, total)))
    found = stage.main(staged(class_folder(2), views=3))
    assert found["computed"] == 6 and found["views/s"] > 0
    assert told[0] == (0, 18) and told[-1] == (18, 18)
