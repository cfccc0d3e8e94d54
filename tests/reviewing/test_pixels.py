import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from stages import files
from stages.datasets.index_file import IndexRow
from stages.reviewing import pixels
from tests.conftest import encode, picture

FIRST, ONE = np.array([0]), np.array([1])


def write(folder: Path, name: str, data: bytes) -> IndexRow:
    """A file and its line of the index."""
    (folder / name).write_bytes(data)
    return IndexRow(name, hashlib.sha256(data).hexdigest(), 48, 40, "ant", (), None)


def test_what_is_measured_tells_images_apart(tmp_path: Path) -> None:
    sharp = picture(0, (200, 160))
    images = {
        "sharp.png": encode(sharp, "PNG"),
        "blurred.png": encode(sharp.resize((10, 8)).resize((200, 160)), "PNG"),
        "grey.png": encode(sharp.convert("L"), "PNG"),
        "blank.png": encode(sharp.point(lambda value: 128), "PNG"),
        "broken.png": encode(sharp, "PNG")[:200],
    }
    noise = np.random.default_rng(0).integers(-20, 20, (160, 200, 3))
    noisy = np.clip(np.asarray(sharp) + noise, 0, 255).astype(np.uint8)
    images["sharp.png"] = encode(Image.fromarray(noisy), "PNG")
    rows = [write(tmp_path, name, data) for name, data in images.items()]
    looked = pixels.look(rows, tmp_path, tmp_path / "kept")
    number = {name: place for place, name in enumerate(images)}
    assert looked.readable.tolist() == [True, True, True, True, False]
    assert looked.sharpness[number["blurred.png"]] < 0.1 * looked.sharpness[number["sharp.png"]]
    assert looked.colour[number["grey.png"]] == 0 < looked.colour[number["blurred.png"]]
    assert looked.contrast[number["blank.png"]] == 0 < looked.contrast[number["grey.png"]]


def test_only_new_images_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [write(tmp_path, f"{seed}.jpg", encode(picture(seed), "JPEG")) for seed in range(4)]
    first = pixels.look(rows[:3], tmp_path, tmp_path / "kept")
    decoded = []
    measured = pixels._measured
    monkeypatch.setattr(pixels, "_measured", lambda folder, row: decoded.append(row.path) or measured(folder, row))
    again = pixels.look([rows[3], rows[1]], tmp_path, tmp_path / "kept")
    assert decoded == ["3.jpg"]
    assert (again.thumbnails[ONE] == first.thumbnails[ONE]).all() and again.contrast[1] == first.contrast[1]
    assert len(again.thumbnails) == 2 and (again.thumbnails.of(ONE)[np.array([0])] == first.thumbnails[ONE]).all()


def test_what_is_kept_is_a_safetensors_file_of_all_images(tmp_path: Path) -> None:
    rows = [write(tmp_path, f"{seed}.jpg", encode(picture(seed), "JPEG")) for seed in range(5)]
    pixels.look(rows[:2], tmp_path, tmp_path / "kept/a.safetensors")
    looked = pixels.look(rows, tmp_path, tmp_path / "kept/a.safetensors")
    tensors = load_file(tmp_path / "kept/a.safetensors")
    assert [digest.tobytes().hex() for digest in tensors["sha256"]] == [row.sha256 for row in rows]
    assert (tensors["thumbnails"] == looked.thumbnails[np.arange(5)]).all() and tensors["thumbnails"].any(
        (1, 2, 3)
    ).all()
    assert (tensors["numbers"][:, 1] == looked.contrast).all()
    assert isinstance(looked.thumbnails.kept, np.memmap)  # 3 GB of a million images stay in the file
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["a.safetensors", files.LOCK]


def test_a_look_that_ends_early_leaves_what_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [write(tmp_path, f"{seed}.jpg", encode(picture(seed), "JPEG")) for seed in range(3)]
    first = pixels.look(rows[:2], tmp_path, tmp_path / "kept")

    def interrupted(folder: Path, row: IndexRow) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pixels, "_measured", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pixels.look(rows, tmp_path, tmp_path / "kept")
    assert not list(tmp_path.glob(f"*{files.TEMPORARY}"))
    again = pixels.look(rows, tmp_path, tmp_path / "kept")
    assert (again.thumbnails[np.arange(2)] == first.thumbnails[np.arange(2)]).all() and again.readable.all()


def test_a_damaged_file_of_what_is_known_is_made_anew(tmp_path: Path) -> None:
    rows = [write(tmp_path, "0.jpg", encode(picture(0), "JPEG"))]
    first = pixels.look(rows, tmp_path, tmp_path / "kept").thumbnails[FIRST]
    (tmp_path / "kept").write_bytes(b"damaged")
    assert (pixels.look(rows, tmp_path, tmp_path / "kept").thumbnails[FIRST] == first).all()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16"])
def test_every_kind_of_image_has_a_thumbnail(tmp_path: Path, mode: str) -> None:
    image = picture(0).convert("L").convert("I;16") if mode == "I;16" else picture(0).convert(mode)
    looked = pixels.look([write(tmp_path, "a.png", encode(image, "PNG"))], tmp_path, tmp_path / "kept")
    assert looked.readable[0] and looked.thumbnails[FIRST].shape == (1, 32, 32, 3)


def test_an_image_is_measured_as_a_viewer_shows_it(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    shown = picture(0).transpose(Image.Transpose.ROTATE_270)
    images = {"turned.png": encode(picture(0), "PNG", exif=exif), "shown.png": encode(shown, "PNG")}
    rows = [write(tmp_path, name, data) for name, data in images.items()]
    looked = pixels.look(rows, tmp_path, tmp_path / "kept")
    assert (looked.thumbnails[FIRST] == looked.thumbnails[ONE]).all() and looked.sharpness[0] == looked.sharpness[1]
