"""Real and hostile images, where they are at hand: `COLDCUT_TEST_DATA` names a folder with the archives.

- caltech-101.zip: Caltech-101 in its official nesting;
- hostile-images.zip: files of image decoders' own test suites: valid oddities, corrupt files, bombs, no images.
"""

import hashlib
import json
import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stages import extract, index, paths
from stages.backbones import zoo
from stages.datasets import caltech101, index_file
from stages.datasets.unpack import unpack
from stages.errors import UserError
from stages.features import h5
from stages.features.extraction import Spec, compute_part
from stages.images.formats import SIGNATURES
from stages.images.header import MAX_PIXELS
from stages.images.options import Augment
from stages.images.views import EVALUATION

DATA = Path(os.environ.get("COLDCUT_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
pytestmark = pytest.mark.slow
SAMPLE = 60
PLUGINS = (*dict.fromkeys(kind.plugin for kind, _ in SIGNATURES if kind.plugin), "AVIF")


def archive(name: str) -> Path:
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"{name} is not at hand: set COLDCUT_TEST_DATA to its folder")
    return path


@pytest.fixture(scope="module")
def caltech(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Caltech-101 unpacked; a sample of its files."""
    home = tmp_path_factory.mktemp("caltech") / "images"
    unpack(archive("caltech-101.zip"), home)
    records = list(caltech101.scan(home, caltech101.Options.model_construct(exclude=[])))
    assert len(records) == 9_144
    assert len({record.label for record in records}) == 102
    return [home / record.path for record in records[:: len(records) // SAMPLE]]


def accepted_by_pillow(path: Path) -> bool:
    """Whether Pillow, strict and under the same limits and formats, decodes all of the first frame."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=PLUGINS) as image:
            if image.width * image.height > MAX_PIXELS:
                return False
            image.load()
            image.convert("RGB")
    except Exception:  # whatever a decoder raises on garbage
        return False
    return True


def test_hostile_files_are_each_in_one_list(caltech: list[Path], workplace: Path, params: Callable[..., Any]) -> None:
    root = workplace / "images"
    for number, path in enumerate(caltech):
        target = root / f"good-{number % 2}" / f"{number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    chosen = {
        "dataset": "folder", "root": str(root), "backbone": "squeezenet1_1", "weights": "random", "image_size": 64,
        "extract": {"precision": "float32"}, "bad_images": {"max_fraction": 1.0},
    }  # fmt: skip
    out = paths.features("folder", "squeezenet1_1", "pooled")
    index.main(params(**chosen))
    extract.main(params(**chosen))
    alone = h5.read(out)
    features = dict(zip(alone.sha256, np.array(alone.layers["pooled"]), strict=True))

    with zipfile.ZipFile(archive("hostile-images.zip")) as packed:
        packed.extractall(root / "odd")
    files = [path for path in (root / "odd").rglob("*") if path.is_file()]
    assert len(files) == 2_185
    index.main(params(**chosen))
    extract.main(params(**chosen))
    summary = json.loads(paths.index("folder").with_suffix(".json").read_text())
    rows = index_file.read("folder")
    lists = len(rows) + len(summary["duplicates"]) + len(summary["bad"]) + len(summary["not_images"])
    assert lists == len(files) + len(caltech)

    undecodable = {bad["path"] for bad in json.loads(out.with_suffix(".bad.json").read_text())}
    used = {row.path for row in rows} - undecodable
    used |= {pair["path"] for pair in summary["duplicates"] if pair["of"] in used}
    assert {root / path for path in used if path.startswith("odd/")} == set(filter(accepted_by_pillow, files))
    together = h5.read(out)
    for sha256, row in zip(together.sha256, together.layers["pooled"], strict=True):
        if sha256 in features:
            np.testing.assert_array_equal(row, features[sha256])


@pytest.mark.parametrize(("precision", "cosine"), [("float32", 0.999), ("bfloat16", 0.99)])
def test_features_agree_with_the_plain_path(caltech: list[Path], precision: str, cosine: float) -> None:
    """Pillow, float32 and the weights' own transform, image by image."""
    import timm
    from timm.data import create_transform, resolve_model_data_config

    try:
        model: Any = zoo.load("efficientnet_lite0").model
    except UserError as error:
        pytest.skip(str(error))
    transform = create_transform(
        **resolve_model_data_config(timm.create_model("tf_efficientnet_lite0")), is_training=False
    )
    with torch.inference_mode():
        plain = [
            model.forward_head(
                model.forward_features(transform(Image.open(path).convert("RGB"))[None]), pre_logits=True
            )
            for path in caltech
        ]
    home = Path("/")
    spec = Spec(
        home, "efficientnet_lite0", "default", "pooled", "auto", "crop", precision, "float16", 32, "cpu",
        views=(EVALUATION,), augment=Augment(crop=0.4, flip=True, rotate=0.0, lighting=0.2),
    )  # fmt: skip
    images = [(str(path.relative_to(home)), hashlib.sha256(path.read_bytes()).hexdigest()) for path in caltech]
    found = torch.from_numpy(compute_part(spec, images, spec.views)["features/pooled"][:, 0].astype(np.float32))
    assert torch.nn.functional.cosine_similarity(found, torch.cat(plain)).min() >= cosine
