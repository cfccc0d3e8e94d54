"""What many tests share: an empty workplace, small images, a folder of classes, params with a few knobs turned."""

import copy
import io
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import settings
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import stages  # noqa: E402, F401  (before torch: it keeps OpenMP's threads from spinning)

settings.register_profile("coldcut", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("coldcut")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout under test."""
    return ROOT


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder that is the main checkout as well."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, driven by playwright; tests that need it are skipped where one of them is absent."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not path:
        pytest.skip("no Chromium here (Debian's package chromium has one)")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


def picture(seed: int = 0, size: tuple[int, int] = (48, 40), mode: str = "RGB") -> Image.Image:
    """A smooth picture that differs with every seed; `size` is width, height."""
    blocks = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize(size, Image.Resampling.BICUBIC).convert(mode)


def encode(image: Image.Image, format: str, **options: Any) -> bytes:  # noqa: A002
    """The bytes of an image in a format of Pillow's."""
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


@pytest.fixture(scope="session")
def jpeg() -> Callable[..., bytes]:
    """`jpeg(seed, size, mode, **options)`: the bytes of a small JPEG."""

    def make(seed: int = 0, size: tuple[int, int] = (48, 40), mode: str = "RGB", **options: Any) -> bytes:
        return encode(picture(seed, size, mode), "JPEG", **{"quality": 90, **options})

    return make


@pytest.fixture(scope="session")
def png() -> Callable[..., bytes]:
    """`png(seed, size, mode, **options)`: the bytes of a small PNG."""

    def make(seed: int = 0, size: tuple[int, int] = (48, 40), mode: str = "RGB", **options: Any) -> bytes:
        return encode(picture(seed, size, mode), "PNG", **options)

    return make


@pytest.fixture
def class_folder(tmp_path: Path, jpeg: Callable[..., bytes]) -> Callable[..., Path]:
    """`class_folder(per_class)`: ant, bee and cat with `per_class` distinct JPEGs each; called again, it adds."""

    def make(per_class: int = 4, name: str = "photos") -> Path:
        folder = tmp_path / name
        for place, label in enumerate(("ant", "bee", "cat")):
            (folder / label).mkdir(parents=True, exist_ok=True)
            for number in range(per_class):
                size = (40 + 8 * (number % 3), 48)
                (folder / label / f"{number:03}.jpg").write_bytes(jpeg(1000 * place + number, size))
        return folder

    return make


def merged(tree: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """A copy of `tree` with the overrides in it, nested ones too."""
    out = copy.deepcopy(tree)
    for key, value in overrides.items():
        out[key] = merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


@pytest.fixture
def params(tmp_path: Path) -> Callable[..., Any]:
    """`params(lr=0.1, split={"seed": 3})`: params with other values of some knobs, checked.

    The engine is torch: OpenVINO would convert a network for seconds in every test.
    """
    from stages.params import load
    from tests import defaults

    def make(**overrides: Any) -> Any:
        tree = defaults.tree() | {"root": str(tmp_path)}
        path = tmp_path / "params.yaml"
        turned = merged(merged(tree, {"extract": {"engine": "torch"}}), overrides)
        path.write_text(yaml.safe_dump(turned, sort_keys=False))
        return load(path)

    return make
