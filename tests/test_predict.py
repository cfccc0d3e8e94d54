"""`python -m stages.predict`: evaluate's answers for every kind of head, and what is made of them."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from stages import index, paths, predict
from stages.boxes.geometry import Detections, GroundTruth
from stages.datasets import index_file, splits
from stages.evaluation import unknown
from stages.features import h5
from stages.features.extraction import load_extractor
from stages.metrics import detection
from stages.prediction import answers, image_files, predictor
from stages.training import model
from tests import trained
from tests.trained import OBJECTS, SMALL, VIT

Make = Callable[..., Any]
Lines = list[dict[str, Any]]
LABELS: dict[str, dict[str, Any]] = {
    "linear": {"head": "linear"},
    "views averaged": {"head": "mlp", "views": 3, "decide": {"tta": True}},
    "views, one decides": {"head": "mlp", "views": 2, "seeds": 2},
    "a map averaged": {"head": "ridge", "cut": "map"},
    "knn": {"head": "knn", "extract": {"dtype": "float32"}},
    "squeezenet": {"head": "squeezenet", "cut": "map"},
    "attentive": {"head": "attentive", "cut": "map", "views": 2, "decide": {"tta": True}},
    "attentive on tokens": {"head": "attentive", "backbone": VIT, "cut": "map", "queries": 4},
    "two backbones": {"head": "ridge", "backbone": "squeezenet1_1+resnet18", "views": 2, "decide": {"tta": True}},
    "tokens of two backbones": {"head": "linear", "backbone": f"{VIT}+timm:test_vit2", "cut": "avg"},
    "a rest that trained": {"head": "linear", "cut": "features.9", "tap": "pooled"},
    "tokens": {"head": "mlp", "backbone": VIT, "cut": "cls+avg@4"},
    "the mean of tokens": {"head": "knn", "backbone": VIT, "cut": "avg"},
    "the class token": {"head": "ridge", "backbone": VIT, "cut": "cls"},
    "a map of tokens": {"head": "squeezenet", "backbone": VIT, "cut": "map"},
    "blocks that trained": {"head": "linear", "backbone": VIT, "cut": "blocks.3", "tap": "cls+avg"},
    "from scratch": {"head": "lenet5", "cut": "input"},
    "fine-tuned": {"head": "linear", "cut": "input", "tap": "pooled"},
    "bfloat16": {"head": "squeezenet", "cut": "map", "precision": "bfloat16", "extract": {"precision": "bfloat16"}},
}
DETECTION: dict[str, dict[str, Any]] = {
    "largest": {"head": "largest"},
    "class alone": {"head": "largest", "boxes": {"predict": "class"}},
    "box alone": {"head": "largest", "boxes": {"predict": "box"}},
    "grid": {"head": "grid", "views": 2, "decide": {"tta": True}},
    "anchors": {"head": "anchors", "resize": "crop"},
    "anchors on tokens": {"head": "anchors", "backbone": VIT},
    "grid, blocks that trained": {"head": "grid", "backbone": VIT, "cut": "blocks.3", "tap": "map"},
    "multiscale": {"head": "multiscale", "cut": "pyramid", "backbone": "resnet18"},
    "grid, fine-tuned": {"head": "grid", "cut": "input", "tap": "map"},
}


@pytest.fixture
def run(workplace: Path, params: Make, class_folder: Make) -> Make:
    """`run(**knobs)`: a finished run on three classes of images; params.yaml is gone afterwards."""

    def make(**knobs: Any) -> None:
        trained.finish(params(**merged(SMALL | {"dataset": "folder", "root": str(class_folder(8))}, knobs)))
        (workplace / "params.yaml").unlink()

    return make


@pytest.fixture
def run_boxes(workplace: Path, params: Make) -> Make:
    """`run_boxes(**knobs)`: the same on scenes with objects."""

    def make(**knobs: Any) -> None:
        trained.finish(params(**merged(SMALL | OBJECTS | trained.scenes(workplace), knobs)))
        (workplace / "params.yaml").unlink()

    return make


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Make:
    """`ask(*arguments)`: exit code, standard output and standard error of the command, run in this process."""

    def make(*arguments: object) -> tuple[int, str, str]:
        capsysbinary.readouterr()
        monkeypatch.setattr(sys, "argv", ["predict", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            predict.run()
        out, err = (stream.decode() for stream in capsysbinary.readouterr())
        code = ended.value.code
        return (1, out, err + code) if isinstance(code, str) else (int(code or 0), out, err)

    return make


def merged(knobs: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    return knobs | {k: knobs[k] | v if isinstance(knobs.get(k), dict) else v for k, v in others.items()}


def lines(out: str) -> Lines:
    return [json.loads(line) for line in out.splitlines()]


def judged(dataset: str, root: Path) -> list[Path]:
    """The test images, in the order of the predictions."""
    path_of = {row.sha256: root / row.path for row in index_file.read(dataset)}
    return [path_of[image] for image in splits.read(dataset)["test"]]


def stored() -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in paths.store().rglob("*")}


def test_an_image_is_unknown_where_evaluate_says_so(run: Make, ask: Make, workplace: Path) -> None:
    run(head="ridge", decide={"unknown": 0.1})
    Image.new("RGB", (64, 64), (255, 255, 255)).save("white.png")
    images = [*judged("folder", workplace / "photos"), workplace / "white.png"]
    code, out, _ = ask("--json", *images)
    found = lines(out)
    known = unknown.read()
    assert code == 0 and known
    for line in found:
        assert -1 <= line["similarity"] <= 1 + 1e-4
        assert line["unknown"] == (line["similarity"] < known.least)
    share = json.loads(paths.EVALUATION.read_text())["unknown_share"]
    assert sum(line["unknown"] for line in found[:-1]) == pytest.approx(share * len(found[:-1]), abs=1e-4)
    unknown.write(replace(known, least=1.1))  # with random weights not even a white image is far away
    code, out, _ = ask("white.png")
    assert out.startswith(f"white.png: unknown (similarity {found[-1]['similarity']:.2f}): ")
    unknown.write(None)  # as evaluate does with decide.unknown=0
    assert not {"unknown", "similarity"} & lines(ask("--json", "white.png")[1])[0].keys()


def test_with_folds_the_kept_head_predicts(run: Make, ask: Make, workplace: Path) -> None:
    run(head="ridge", split={"protocol": "kfold", "folds": 3})
    features = h5.read(paths.features("folder", "squeezenet1_1", "pooled"))
    head, _ = model.load_head(paths.HEAD)
    x = torch.from_numpy(features.layers["pooled"][:, 0].astype("f4"))
    wanted = dict(zip(features.sha256, head(x).softmax(1).tolist(), strict=True))
    rows = index_file.read("folder")
    code, out, _ = ask("--json", "--top", 3, *(workplace / "photos" / row.path for row in rows))
    assert code == 0
    for row, line in zip(rows, lines(out), strict=True):
        told = {one["label"]: one["probability"] for one in line["top"]}
        assert [told[name] for name in ("ant", "bee", "cat")] == pytest.approx(wanted[row.sha256], abs=1e-4)


@pytest.mark.parametrize("kind", LABELS)
def test_probabilities_are_evaluates(run: Make, ask: Make, workplace: Path, kind: str) -> None:
    run(**LABELS[kind])
    before, wanted = stored(), load_file(paths.PREDICTIONS / "probabilities.safetensors")["test"]
    images = judged("folder", workplace / "photos")
    code, out, err = ask("--json", "--top", 3, *images)
    found, classes = lines(out), ["ant", "bee", "cat"]
    assert code == 0 and [line["path"] for line in found] == list(map(str, images))
    for line, row in zip(found, wanted, strict=True):
        told = {one["label"]: one["probability"] for one in line["top"]}
        assert [told[name] for name in classes] == pytest.approx(row.tolist(), abs=1e-4)
        assert line["label"] == line["top"][0]["label"] and line["confident"] == (row.max() >= 0.5)
        assert ("unknown" in line) == (LABELS[kind].get("cut") != "input")  # of pixels nothing is kept to compare with
    assert stored() == before
    assert "cpu" in err or LABELS[kind].get("cut") == "input"


@pytest.mark.parametrize("kind", DETECTION)
def test_boxes_are_evaluates(run_boxes: Make, ask: Make, workplace: Path, kind: str) -> None:
    run_boxes(**DETECTION[kind])
    kept = load_file(paths.PREDICTIONS / "boxes.safetensors")
    images = judged("voc", workplace / "voc")
    code, out, _ = ask("--json", "--confidence", 0, *images)
    assert code == 0 and kept["test_boxes"].numel() > 0
    for place, line in enumerate(lines(out)):
        of_image = kept["test_images"] == place
        boxes, scores = kept["test_boxes"][of_image], kept["test_scores"][of_image]
        assert (line["width"], line["height"]) == (64, 64)
        if kind != "class alone":
            found = torch.tensor([one["box"] for one in line["boxes"]])
            torch.testing.assert_close(found.reshape(-1, 4), boxes, atol=0.01, rtol=0)
        if kind != "box alone":
            assert [one["score"] for one in line["boxes"]] == pytest.approx(scores.tolist(), abs=1e-4)
        assert all(
            ("box" in one, "label" in one) == (kind != "class alone", kind != "box alone") for one in line["boxes"]
        )


def test_bad_images_are_told_and_the_others_answered(run: Make, ask: Make, workplace: Path, jpeg: Make) -> None:
    run(head="linear")
    folder = workplace / "new"
    (folder / ".hidden").mkdir(parents=True)
    odd = os.fsdecode(b'new\nline \xff "quote" <b>.jpg')
    for name in ("a.jpg", odd, ".hidden/b.jpg"):
        (folder / name).write_bytes(jpeg(1))
    (folder / "notes.txt").write_text("no image")
    (folder / "torn.jpg").write_bytes(jpeg(2)[:200])
    (folder / "broken.jpg").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.jpg")
    code, out, _ = ask("--json", folder, folder / "notes.txt", "absent.jpg", "/dev/zero", folder / "pipe.jpg")
    found = {os.fsencode(Path(line["path"]).name): line for line in lines(out)}
    assert code == 1
    assert set(found) == {
        b"a.jpg",
        os.fsencode(odd),
        b"torn.jpg",
        b"broken.jpg",
        b"notes.txt",
        b"absent.jpg",
        b"zero",
        b"pipe.jpg",
    }
    assert {name for name, line in found.items() if "error" not in line} == {b"a.jpg", os.fsencode(odd)}
    assert found[b"absent.jpg"]["error"] == "No such file or directory"
    assert found[b"a.jpg"]["top"] == found[os.fsencode(odd)]["top"]
    code, out, _ = ask(folder / odd)
    assert code == 0 and len(out.splitlines()) == 1 and r"new\nline \udcff" in out


def test_an_image_that_changes_meanwhile_costs_no_other(
    run: Make, ask: Make, workplace: Path, monkeypatch: pytest.MonkeyPatch, jpeg: Make
) -> None:
    run(head="linear")
    (workplace / "late.jpg").write_bytes(jpeg(5))
    read = image_files.read

    def changed(path: str) -> Any:
        file = read(path)
        return file._replace(sha256="0" * 64) if path.endswith("late.jpg") else file

    monkeypatch.setattr(image_files, "read", changed)
    code, out, _ = ask("--json", workplace / "photos/ant", workplace / "late.jpg")
    found = lines(out)
    assert code == 1 and len(found) == 9 and ["error" in line for line in found] == [False] * 8 + [True]
    assert "has changed" in found[-1]["error"]


def test_a_folder_without_images_is_an_error(
    run: Make, ask: Make, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(head="linear")
    (workplace / "empty/deep").mkdir(parents=True)
    (workplace / "notes").mkdir()
    (workplace / "notes/a.txt").write_text("no image")
    code, out, _ = ask(workplace / "empty", workplace / "notes", judged("folder", workplace / "photos")[0])
    assert code == 1 and out.count("error: a folder without images") == 2 and len(out.splitlines()) == 3
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    code, out, err = ask("-")
    assert code == 1 and not out and "No path came on standard input" in err


def test_a_class_with_a_comma_is_quoted() -> None:
    likely = [{"label": "bolt, long", "probability": 0.9}, {"label": "nut", "probability": 0.1}]
    line = {"path": "a.jpg", "confident": True, "top": likely}
    assert answers.sentence(line) == 'a.jpg: "bolt, long" 90.0%, nut 10.0%'


def test_class_names_are_shown_as_text(run_boxes: Make, ask: Make, workplace: Path, params: Make) -> None:
    from tests.datasets import miniature

    names = ("<script>alert(1)</script>\x1b[31m", "=cmd()\u202eevil\n" + 10_000 * "x")
    escaped = [name.replace("<", "&lt;").replace("\x1b", "").replace("\u202e", "&#x202e;") for name in names]
    root = miniature.voc(workplace / "odd", lists=trained.VOC, classes=escaped)
    trained.finish(params(**SMALL | OBJECTS | {"dataset": "voc", "root": str(root), "head": "largest"}))
    code, out, _ = ask("--out", workplace / "drawn", "--confidence", 0, *judged("voc", root))
    assert code == 0 and len(out.splitlines()) == 7
    assert all(each.isprintable() for each in out.replace("\n", ""))
    assert len(list((workplace / "drawn").iterdir())) == 7


def test_pictures_have_the_boxes_in_them(run_boxes: Make, ask: Make, workplace: Path) -> None:
    run_boxes(head="largest")
    image = judged("voc", workplace / "voc")[0]
    code, out, _ = ask("--json", "--out", workplace / "drawn", "--confidence", 0, image, image)
    first, second = lines(out)
    assert code == 0 and first == second  # the same content, the same picture
    with Image.open(first["drawn"]) as drawn, Image.open(image) as plain:
        assert drawn.size == plain.size and drawn.tobytes() != plain.convert("RGB").tobytes()
    code, out, _ = ask("--json", "--out", workplace / "drawn", "--confidence", 1, image)
    assert code == 0 and lines(out)[0]["boxes"] == []  # nothing is sure enough: the picture as it is


def test_label_files_are_read_as_yolos(run_boxes: Make, ask: Make, workplace: Path, params: Make) -> None:
    run_boxes(head="grid")
    images = workplace / "voc/JPEGImages"
    code, out, _ = ask(
        "--json", "--format", "yolo", "--out", workplace / "set/labels", "--confidence", 0, "--top", 2, images
    )
    assert code == 0 and (workplace / "set/labels/classes.txt").read_text() == "cat\ndog\n"
    (workplace / "set/images").symlink_to(images)
    index.main(params(dataset="yolo", root=str(workplace / "set")))
    objects = {Path(row.path).name: [(box.label, box.box) for box in row.objects] for row in index_file.read("yolo")}
    assert any(objects.values())
    for line in lines(out):
        predicted = [(item["label"], tuple(item["box"])) for item in line["boxes"]]
        assert Path(line["labels"]).stem == Path(line["path"]).stem
        for (label, box), (other, corners) in zip(objects[Path(line["path"]).name], predicted, strict=True):
            assert label == other and box == pytest.approx(corners, abs=0.01)


def test_two_images_do_not_share_a_label_file(run_boxes: Make, ask: Make, workplace: Path, jpeg: Make) -> None:
    run_boxes(head="grid")
    for name in ("a/im.jpg", "b/im.jpg"):
        (workplace / "new" / name).parent.mkdir(parents=True)
        (workplace / "new" / name).write_bytes(jpeg(len(name)))
    code, _, _ = ask("--format", "yolo", "--out", "labels", workplace / "new")
    assert code == 0 and {str(path) for path in Path("labels").rglob("*.txt")} == {
        "labels/a/im.txt", "labels/b/im.txt", "labels/classes.txt",
    }  # fmt: skip
    code, _, err = ask("--format", "yolo", "--out", "flat", *(workplace / "new").rglob("*.jpg"))
    assert code == 1 and "would share flat/im.txt: rename one of them" in err


def test_results_of_coco_score_as_evaluates(run_boxes: Make, ask: Make, workplace: Path) -> None:
    """By COCO's own evaluation, with the numbers of its annotation file."""
    pycocotools = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    run_boxes(head="grid")
    images, rows = judged("voc", workplace / "voc"), {row.path: row for row in index_file.read("voc")}
    numbers = {"dog": 90, "cat": 18}
    annotations, described = [], []
    for number, image in enumerate(images, 1000):
        row = rows[str(image.relative_to(workplace / "voc"))]
        described.append({"id": number, "file_name": image.name, "width": row.width, "height": row.height})
        for box in (box for box in row.objects if not box.difficult):
            x1, y1, x2, y2 = box.box
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": numbers[box.label],
                                "bbox": [x1, y1, x2 - x1, y2 - y1], "area": box.area, "iscrowd": 0})  # fmt: skip
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    tree = {"images": described, "annotations": annotations, "categories": categories}
    (workplace / "truth.json").write_text(json.dumps(tree))
    arguments = ["--format", "coco", "--out", "results.json", "--ids", "truth.json", "--confidence", 0]
    code, out, _ = ask("--json", *arguments, *images)
    results = json.loads(Path("results.json").read_text())
    assert code == 0 and len(results) == sum(len(line["boxes"]) for line in lines(out)) > 0
    truth = pycocotools.COCO(str(workplace / "truth.json"))
    evaluation = COCOeval(truth, truth.loadRes("results.json"), "bbox")
    for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
        step()
    kept = load_file(paths.PREDICTIONS / "boxes.safetensors")
    truths, detections = list[GroundTruth](), list[Detections]()
    for place, image in enumerate(images):
        objects = [box for box in rows[str(image.relative_to(workplace / "voc"))].objects if not box.difficult]
        labels = torch.tensor([["cat", "dog"].index(box.label) for box in objects])
        none = torch.zeros(len(objects), dtype=torch.bool)
        truths.append(GroundTruth(torch.tensor([box.box for box in objects]), labels, none, none))
        of_image = kept["test_images"] == place
        detections.append(Detections(*(kept[f"test_{name}"][of_image] for name in ("boxes", "scores", "labels"))))
    assert evaluation.stats[0] == pytest.approx(detection.scores(truths, detections, 2)["map_50_95"], abs=1e-3)
    assert {result["image_id"] for result in results} == set(range(1000, 1000 + len(images)))


def test_without_a_file_of_ids_images_and_classes_count_from_one(run_boxes: Make, ask: Make, workplace: Path) -> None:
    run_boxes(head="grid")
    images = judged("voc", workplace / "voc")
    code, out, _ = ask("--json", "--format", "coco", "--out", "r.json", "--confidence", 0, *images[:2])
    results = json.loads(Path("r.json").read_text())
    told = [(number, item) for number, line in enumerate(lines(out), 1) for item in line["boxes"]]
    assert code == 0 and len(results) == len(told)
    for result, (number, item) in zip(results, told, strict=True):
        x1, y1, x2, y2 = item["box"]
        assert result["image_id"] == number and result["file_name"] == str(images[number - 1])
        assert result["category_id"] == {"cat": 1, "dog": 2}[item["label"]]
        assert result["category_name"] == item["label"] and result["score"] == item["score"]
        assert result["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=2e-3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--format", "coco"], "`--format coco` needs `--out`, a file"),
        (["--format", "pictures"], "`--format pictures` needs `--out`, a folder"),
        (["--format", "yolo"], "`--format yolo` needs `--out`, a folder"),
        (["--format", "coco", "--out", "results"], "`--out` must end in .json"),
        (["--format", "yolo", "--out", "x", "--ids", "a.json"], "`--ids` numbers COCO's results"),
        (["--format", "coco", "--out", "x.json", "--ids", "absent.json"], "absent.json cannot be read"),
        (["--format", "coco", "--out", "x.json", "--ids", "other.json"], "has no category cat and dog"),
        (["--format", "coco", "--out", "x.json", "--ids", "none.json"], "has 0 entries in none.json"),
    ],
)
def test_files_of_boxes_that_cannot_be_meant(
    run_boxes: Make, ask: Make, workplace: Path, arguments: list[object], said: str
) -> None:
    run_boxes(head="grid")
    both = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    for name, categories in (("other.json", []), ("none.json", both)):
        (workplace / name).write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    code, _, err = ask(*arguments, judged("voc", workplace / "voc")[0])
    assert code == 1 and said in err and not Path("x.json").exists()


def test_paths_come_from_standard_input(
    run: Make, ask: Make, workplace: Path, jpeg: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(head="linear")
    odd = os.fsencode(workplace) + b"/\xff.jpg"
    with open(odd, "wb") as file:
        file.write(jpeg(3))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(odd + b"\n\nabsent.jpg\n")))
    code, out, err = ask("--json", "--quiet", "-")
    first, second = lines(out)
    assert os.fsencode(first["path"]) == odd and first["label"] in {"ant", "bee", "cat"} and out.isascii()
    assert second == {"path": "absent.jpg", "error": "No such file or directory"}
    assert code == 1 and not err


def test_results_come_before_the_last_path_is_known(
    run: Make, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(head="linear")
    asked, given = predictor.load(), list[str]()

    def paths_of_images() -> Iterator[str]:
        for path in sorted(str(path) for path in (workplace / "photos").rglob("*.jpg")) * 3:
            given.append(path)
            yield path

    next(answers.predict(asked, paths_of_images()))
    assert len(given) == answers.BATCHES * 8 < 72


def test_what_differs_from_training_is_said(run: Make, ask: Make, workplace: Path) -> None:
    run(head="linear")
    image, path = judged("folder", workplace / "photos")[0], paths.HEAD / "head.json"
    assert "This differs from training" not in ask(image)[2]
    described = json.loads(path.read_text())
    described["features"]["versions"]["torch"] = "1.0"
    path.write_text(json.dumps(described))
    trained.pretend_evaluated()
    code, _, err = ask("-v", image)
    assert (
        code == 0 and "This differs from training: versions" in err and "torch 1.0" in err and predict.TOLERANCE in err
    )


def test_a_head_that_was_not_evaluated_is_refused(run: Make, ask: Make, workplace: Path) -> None:
    run(head="linear")
    image, evaluated = judged("folder", workplace / "photos")[0], (paths.PREDICTIONS / "predictions.json").read_bytes()
    run(head="linear", seed=1)
    assert ask(image)[0] == 0
    (paths.PREDICTIONS / "predictions.json").write_bytes(evaluated)
    code, out, err = ask(image)
    assert code == 1 and not out and "predictions.json is of another head than cache/head: `dvc repro`" in err


def test_other_weights_are_refused(run: Make, ask: Make, workplace: Path, repository: Path) -> None:
    import torchvision

    def save(seed: int) -> None:
        torch.manual_seed(seed)
        torch.save(torchvision.models.squeezenet1_1().state_dict(), workplace / "weights.pth")

    save(1)
    run(head="linear", weights=str(workplace / "weights.pth"))
    image = judged("folder", workplace / "photos")[0]
    assert ask(image)[0] == 0
    save(2)
    load_extractor.cache_clear()
    code, out, err = ask(image)
    assert code == 1 and not out and "are not those that the head was trained on" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--top", 0], "`--top` must be at least 1"),
        (["--confidence", 1.5], "`--confidence` must be from 0 to 1"),
        (["--out", "drawn"], "`--out` writes boxes, but the head ridge predicts none"),
    ],
)
def test_arguments_that_cannot_be_meant(run: Make, ask: Make, arguments: list[object], said: str) -> None:
    run(head="ridge")
    code, out, err = ask(*arguments, "absent.jpg")
    assert code == 1 and not out and said in err


def test_without_a_run_it_says_what_to_do(workplace: Path, ask: Make) -> None:
    code, _, err = ask("a.jpg")
    assert code == 1 and "error: cache/head has no complete head" in err and "Traceback" not in err


@pytest.mark.slow
def test_nobody_reads_on(run: Make, workplace: Path, repository: Path) -> None:
    run(head="linear")
    script = f"{sys.executable} -m stages.predict -q photos photos photos | head -n 1"
    environment = os.environ | {"PYTHONPATH": str(repository), "LC_ALL": "C"}
    done = subprocess.run(script, shell=True, capture_output=True, check=False, env=environment, cwd=workplace)
    assert done.stdout.startswith(b"photos/ant/000.jpg: ") and done.stderr == b""
