"""`python -m stages.export`: what the files answer in their own runtimes, and that no wrong one is written."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from stages import export, paths
from stages.backbones import zoo
from stages.backbones.licences import licence
from stages.boxes.geometry import Detections
from stages.errors import UserError
from stages.exporting import card, check, formats, suppression
from stages.exporting.network import ExportedNetwork
from stages.images.decode import decode, prepare
from stages.prediction import answers, predictor
from stages.training.ground_truth import merge_views
from stages.training.model import load_head
from tests import trained
from tests.test_predict import merged
from tests.trained import OBJECTS, SMALL, VIT

Make = Callable[..., Any]
COUNTS = (1, 3, 50)
TWICE = {**OBJECTS, "head": "multiscale", "cut": "pyramid", "backbone": "resnet18"}
KINDS: dict[str, dict[str, Any]] = {
    "classifier": {"head": "mlp"},
    "auto": {"head": "auto", "refit": "auto"},
    "square roots": {"head": "ridge", "normalize": "sqrt", "refit": "trainval"},
    "unit length": {"head": "lda", "normalize": "l2"},
    "folds": {"head": "ridge", "split": {"protocol": "kfold", "folds": 3}},
    "knn on two backbones": {"head": "knn", "backbone": "squeezenet1_1+resnet18"},
    "tokens of two backbones": {"head": "linear", "backbone": f"{VIT}+timm:test_vit2", "cut": "avg"},
    "a rest that trained": {"head": "linear", "cut": "features.9", "tap": "pooled"},
    "attentive": {"head": "attentive", "cut": "map"},
    "tokens": {"head": "linear", "backbone": VIT, "cut": "cls+avg@4"},
    "blocks that trained": {"head": "linear", "backbone": VIT, "cut": "blocks.3", "tap": "cls"},
    "from scratch": {"head": "lenet5", "cut": "input"},
    "largest": {**OBJECTS, "head": "largest"},
    "detector": {**OBJECTS, "head": "anchors", "precision": "bfloat16", "decide": {"confidence": 0.05}},
    "multiscale": {**TWICE, "decide": {"confidence": 0.05}},
    "votes": {**TWICE, "decide": {"confidence": 0.05, "merge": "vote"}},
}
THREE = ("classifier", "largest", "detector")  # that every format is tried on
QUICK = [
    *((kind, "onnx") for kind in (*THREE, "square roots", "unit length")),
    ("a rest that trained", "torch"),
    ("tokens", "onnx"),
]


@pytest.fixture
def run(workplace: Path, params: Make, class_folder: Make) -> Make:
    """`run(kind)`: a finished run, of images or of scenes."""

    def make(kind: str) -> None:
        knobs = KINDS[kind]
        data = trained.scenes(workplace) if "boxes" in knobs else {"dataset": "folder", "root": str(class_folder(8))}
        trained.finish(params(**merged(SMALL | data, knobs)))

    return make


@pytest.fixture
def write(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Make:
    """`write(*arguments)`: exit code, standard output and standard error of the command, run in this process."""

    def make(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["export", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            export.run()
        out, err = capfd.readouterr()
        code = ended.value.code
        return (1, out, err + code) if isinstance(code, str) else (int(code or 0), out, err)

    return make


def noise(count: int) -> formats.Pixels:
    return np.random.default_rng(count).integers(0, 256, (count, 3, 64, 64), dtype=np.uint8)


@pytest.mark.parametrize(
    ("kind", "format_"),
    [
        pytest.param(kind, name, marks=() if (kind, name) in QUICK else pytest.mark.slow)
        for kind in KINDS
        for name in formats.FORMATS
        if kind in THREE or name == "onnx" or (kind, name) in QUICK
    ],
)
def test_a_file_answers_as_we_do_whatever_the_batch(run: Make, write: Make, kind: str, format_: str) -> None:
    run(kind)
    code, out, err = write("--format", format_)
    assert code == 0, err
    path = Path(out.partition(",")[0])
    assert path.is_file() and f"`{path.name}`" in Path(f"{path}.md").read_text()
    loaded, run_file = check.in_float32(predictor.load()), formats.FORMATS[format_].open(path)
    for count in COUNTS:
        pixels = noise(count)
        expected, outputs = check.predict(loaded, pixels), run_file(pixels)
        for name, values in expected.items():
            assert outputs[name].shape == values.shape
            assert check.largest_difference(outputs[name], values) < 1e-3
    assert not list(path.parent.glob("*.partial"))


def test_a_file_and_its_card_are_named_after_the_users_folder(run: Make, write: Make, workplace: Path) -> None:
    run("square roots")
    odd = shutil.copytree(workplace / "photos", workplace / "my (old) *photos*")
    description = paths.index("folder").with_suffix(".json")
    description.write_text(json.dumps(json.loads(description.read_text()) | {"root": str(odd)}))
    code, out, err = write("--format", "torch")
    assert code == 0 and out.startswith("export/my (old) *photos*-ridge.pt2, with its card "), err
    text = Path("export/my (old) *photos*-ridge.pt2.md").read_text()
    assert text.startswith("# ridge on squeezenet1_1, trained on my (old) \\*photos\\* (folder)\n")
    assert "- Dataset: my (old) \\*photos\\* (folder)\n" in text


def test_the_card_of_a_head_that_folds_left_tells_what_was_judged(run: Make, write: Make) -> None:
    run("folds")
    assert write("--format", "torch", "--out", "m.pt2")[0] == 0
    text = Path("m.pt2.md").read_text()
    assert "Of 3 heads trained as this one was, each judged on the images of a fold that it has not seen, 24 in" in text
    assert "- Images: all of 24 but one of 3 folds, which chose" in text


def test_it_gives_the_probabilities_of_predict(run: Make, write: Make, workplace: Path) -> None:
    """From the bytes of an image through the card's preprocessing, against features as they were cached."""
    run("classifier")
    assert write("--format", "torch", "--out", "m.pt2")[0] == 0
    loaded, images = predictor.load(), sorted((workplace / "photos").rglob("*.jpg"))
    how = zoo.preprocessing("squeezenet1_1").at(64, "crop")
    pixels = np.stack([prepare(decode(path.read_bytes()), how)[0].numpy() for path in images])
    found = formats.FORMATS["torch"].open(Path("m.pt2"))(pixels)["probabilities"]
    named = [(str(path), hashlib.sha256(path.read_bytes()).hexdigest()) for path in images]
    predicted = check.in_float32(loaded).predict(named, [(48, 48)] * len(named))
    wanted = torch.stack([one.values for one in predicted if isinstance(one, predictor.Probabilities)])
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-3)


def far_apart() -> None:
    """Gives the boxes of the last run scores that no rounding exchanges: random weights score all of them alike."""
    head, _ = load_head(paths.HEAD)
    last = [layer for layer in head.head.modules() if getattr(layer, "weight", None) is not None][-1]
    with torch.no_grad():
        last.weight.normal_(generator=torch.Generator().manual_seed(0))
        last.bias.zero_()
    save_file(
        {name: tensor.contiguous() for name, tensor in head.state_dict().items()}, paths.HEAD / "head.safetensors"
    )
    trained.pretend_evaluated()


@pytest.mark.parametrize(
    ("kind", "format_"),
    [
        ("detector", "onnx"),
        ("multiscale", "onnx"),
        ("votes", "onnx"),
        ("largest", "onnx"),
        pytest.param("detector", "openvino", marks=pytest.mark.slow),
        pytest.param("multiscale", "openvino", marks=pytest.mark.slow),
    ],
)
def test_the_boxes_of_a_file_are_those_of_predict(
    run: Make, write: Make, workplace: Path, kind: str, format_: str
) -> None:
    run(kind)
    far_apart()
    suffix = formats.FORMATS[format_].suffix
    assert write("--format", format_, "--out", f"m{suffix}")[0] == 0
    loaded, images = check.in_float32(predictor.load()), sorted((workplace / "voc").rglob("*.jpg"))
    how = zoo.preprocessing(KINDS[kind].get("backbone", "squeezenet1_1")).at(64, "squash")
    pixels = np.stack([prepare(decode(path.read_bytes()), how)[0].numpy() for path in images])
    outputs = formats.FORMATS[format_].open(Path(f"m{suffix}"))(pixels)
    named = [(str(path), hashlib.sha256(path.read_bytes()).hexdigest()) for path in images]
    counts = []
    for image, predicted in enumerate(loaded.predict(named, [(64, 64)] * len(named))):
        assert isinstance(predicted, Detections)
        printed = answers.confident(predicted, loaded.decide.confidence, None)
        counts.append(len(printed.scores))
        filled = outputs["scores"][image] > 0
        assert filled.sum() == counts[-1] and (outputs["labels"][image][~filled] == -1).all()
        rows = np.column_stack([outputs["labels"][image], outputs["scores"][image], outputs["boxes"][image]])[filled]
        for label, score, box in zip(printed.labels, printed.scores, printed.boxes, strict=True):  # scores may be close
            differences = np.abs(rows - np.array([label, score, *box])) / [1e-9, 1e-3, *[0.1] * 4]
            assert differences.max(1).min() < 1
    assert sum(counts) >= len(images) / 2
    candidates = (outputs["all_scores"] >= loaded.decide.confidence).sum()
    assert kind != "multiscale" or candidates > sum(counts)  # something was suppressed


def test_a_file_that_suppresses_otherwise_is_not_written(
    run: Make, write: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("detector")
    far_apart()
    real = formats.FORMATS["onnx"]

    def off(path: Path) -> formats.Runner:
        answer = real.open(path)
        return lambda pixels: (outputs := answer(pixels)) | {"labels": np.roll(outputs["labels"], 1, axis=1)}

    monkeypatch.setitem(formats.FORMATS, "onnx", real._replace(open=off))
    code, out, err = write("--format", "onnx", "--out", "there/m.onnx")
    assert code == 1 and not out and "does not suppress the same boxes as coldcut" in err
    assert not list(Path("there").iterdir())


@pytest.mark.parametrize("merge", ["nms", "vote"])
@pytest.mark.parametrize("confidence", [0.0, 0.3, 0.9])
def test_what_remains_is_what_evaluation_keeps(confidence: float, merge: str) -> None:
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand((3, 200, 2, 2), generator=generator).sort(dim=2).values.flatten(2) * 64
    scores = torch.rand((3, 200, 4), generator=generator) ** 4
    corners[:, 1::2] = corners[:, ::2] * (1 + torch.rand((3, 100, 1), generator=generator) / 10)  # nearly the same
    selection = suppression.select(corners, scores, iou=0.3, confidence=confidence, votes=merge == "vote")
    for image in range(3):
        pairs = (scores[image] >= 0.001).nonzero()
        detections = Detections(corners[image][pairs[:, 0]], scores[image][pairs[:, 0], pairs[:, 1]], pairs[:, 1])
        expected = answers.confident(merge_views([detections], 0.3, merge), confidence, None)
        filled = selection.scores[image] > 0
        torch.testing.assert_close(selection.scores[image][filled], expected.scores)
        torch.testing.assert_close(selection.boxes[image][filled], expected.boxes)
        assert torch.equal(selection.labels[image][filled], expected.labels)


@pytest.mark.parametrize(
    ("kind", "format_"),
    [
        ("classifier", "onnx"),
        ("largest", "onnx"),
        ("detector", "onnx"),
        ("detector", "torch"),
        ("classifier", "openvino"),
        ("classifier", "torch"),
        pytest.param("detector", "openvino", marks=pytest.mark.slow),
    ],
)
def test_the_code_on_the_card_runs_as_printed(
    run: Make, write: Make, workplace: Path, tmp_path: Path, kind: str, format_: str
) -> None:
    """In another folder, without coldcut on the path; what it prints is what the head predicts."""
    run(kind)
    if kind == "detector":
        far_apart()
    out = tmp_path / f"elsewhere/m{formats.FORMATS[format_].suffix}"
    assert write("--format", format_, "--out", out)[0] == 0
    code = Path(f"{out}.md").read_text().split("```python\n")[1].split("```")[0]
    assert code.startswith(f"# pip install {'torch' if format_ == 'torch' else format_.replace('onnx', 'onnxruntime')}")
    photo = sorted((workplace / ("photos" if kind == "classifier" else "voc")).rglob("*.jpg"))[0]
    (out.parent / "photo.jpg").write_bytes(photo.read_bytes())
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=out.parent, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    image = (str(photo), hashlib.sha256(photo.read_bytes()).hexdigest())
    with Image.open(photo) as opened:
        size = np.array([*opened.size, *opened.size])
        (predicted,) = check.in_float32(predictor.load()).predict([image], [opened.size])
    lines, classes = ended.stdout.splitlines(), predictor.load().classes
    if isinstance(predicted, predictor.Probabilities):
        name, share = lines[0].split(": ")
        assert name == classes[int(predicted.values.argmax())]
        assert abs(float(share.rstrip("%")) / 100 - float(predicted.values.max())) < 0.02
    else:
        assert predicted is not None
        printed = answers.confident(predicted, predictor.load().decide.confidence, None)
        assert sorted(line.split()[0] for line in lines) == sorted(classes[label] for label in printed.labels.tolist())
        corners = np.array([json.loads(line.partition(" at ")[2]) for line in lines]).reshape(-1, 4) * size / 64
        assert len(printed.boxes) > 0
        for box in printed.boxes.numpy():
            assert np.abs(corners - box).max(1).min() < 2


@pytest.mark.slow
def test_a_file_knows_its_classes(run: Make, write: Make) -> None:
    run("classifier")
    for name, chosen in formats.FORMATS.items():
        assert write("--format", name, "--out", f"m{chosen.suffix}")[0] == 0
    import onnxruntime
    import openvino

    session = onnxruntime.InferenceSession("m.onnx", providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == ["ant", "bee", "cat"]
    kept = openvino.Core().read_model("m.xml").get_rt_info(["coldcut", "classes"])
    assert json.loads(kept.astype(str)) == ["ant", "bee", "cat"]
    files = {"coldcut.json": ""}
    torch.export.load("m.pt2", extra_files=files)
    assert json.loads(files["coldcut.json"])["preprocessing"] == "decode|resize(73,bilinear)|center_crop(64)"


def test_a_file_that_disagrees_is_not_written(run: Make, write: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run("classifier")
    real = formats.FORMATS["torch"]

    def off(path: Path) -> formats.Runner:
        answer = real.open(path)
        return lambda pixels: {name: values + 0.002 for name, values in answer(pixels).items()}

    monkeypatch.setitem(formats.FORMATS, "torch", real._replace(open=off))
    code, out, err = write("--format", "torch", "--out", "there/m.pt2")
    assert code == 1 and not out and "does not agree with coldcut: a number differs by 2.0e-03" in err
    assert not list(Path("there").iterdir())


def test_numbers_that_are_none_do_not_agree() -> None:
    assert not check.largest_difference(np.array([0.5, np.nan]), torch.tensor([0.5, 0.5])) <= export.TOLERANCE
    assert check.largest_difference(np.array([0.5, 101.0]), torch.tensor([0.4, 100.0])) == pytest.approx(0.1)


def test_backbones_of_two_sizes_have_no_single_input(run: Make) -> None:
    run("knn on two backbones")
    loaded = predictor.load()
    other = replace(loaded.specs[1], image_size=96)
    with pytest.raises(UserError, match="take images in 2 different sizes"):
        ExportedNetwork(replace(loaded, specs=(loaded.specs[0], other)))


def test_the_card_says_what_matters(run: Make, write: Make) -> None:
    run("detector")
    assert write("--format", "torch", "--out", "m.pt2")[0] == 0
    text = Path("m.pt2.md").read_text()
    for said in (
        "squash it to 64 x 64",
        "before suppression",
        "suppress class by class",
        "mAP at IoU 0.5",
        "Only 7 images",
        "the head in bfloat16",
        "random weights",
    ):
        assert said in text
    run("classifier")
    metrics = json.loads((paths.EVALUATION).read_text())
    assert card.metrics_of(predictor.load(), metrics) is not None
    assert card.metrics_of(predictor.load(), metrics | {"head": "ridge"}) is None


@pytest.mark.parametrize(
    ("backbone", "weights", "said"),
    [
        ("resnet18", "default", "weights may have terms"),
        ("timm:vit_tiny_patch16_224", "default", "apache-2.0, according to timm"),
        ("efficientnet_lite0", "default", "Apache 2.0"),
        ("resnet18", "random", "nobody"),
        ("resnet18", "params.yaml", "their licence is not known here"),
    ],
)
def test_whose_weights_they_are(backbone: str, weights: str, said: str, repository: Path) -> None:
    chosen = str(repository / weights) if weights == "params.yaml" else weights
    assert said in licence(backbone, chosen)


def test_the_suffix_must_fit_the_format(run: Make, write: Make) -> None:
    run("classifier")
    code, _, err = write("--format", "onnx", "--out", "m.xml")
    assert code == 1 and "`--out` must end in .onnx" in err


def test_a_missing_package_is_named(run: Make, write: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run("classifier")
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    code, _, err = write("--format", "onnx")
    assert code == 1 and "needs onnx, onnxscript, onnxruntime: pip install '.[export]'" in err


def test_the_reason_of_openvino_comes_after_the_places_in_its_code() -> None:
    said = "Exception from src/core.cpp:132:\nException from src/plugin.cpp:59:\nIncompatible dimensions\n\n"
    assert formats._first_line(RuntimeError(said)) == "Incompatible dimensions"
    assert formats._first_line(RuntimeError()) == "RuntimeError"


def test_boxes_that_only_one_second_stage_scores_do_not_count_where_they_are_few() -> None:
    """The last proposals may be equally good, and rounding decides; a file that scores others is wrong."""
    expected = torch.rand(2, 400, 3, generator=torch.manual_seed(0))
    expected[:, 300:] = 0
    boxes = torch.rand(2, 400, 4)
    for swapped, counts in ((1, False), (50, True)):
        scores = expected.clone()
        scores[0, 300 - swapped : 300] = 0
        scores[0, 300 : 300 + swapped] = 0.5
        file = {"all_scores": scores.numpy(), "all_boxes": boxes.numpy()}
        answers_ = {"all_scores": expected, "all_boxes": boxes}
        runner = cast("formats.Runner", lambda pixels, file=file: {n: v[pixels[:, 0, 0, 0]] for n, v in file.items()})
        pixels = np.arange(2, dtype=np.uint8).reshape(2, 1, 1, 1)
        assert (check.difference(runner, answers_, pixels, list(answers_)) > 0.1) == counts
