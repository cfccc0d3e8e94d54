"""The DAG as DVC runs it: which knob runs which stages, what a second run does, what bad input leaves behind."""

import hashlib
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.params import Params
from tests import checkout
from tests.checkout import Project, ran

CLASSES = ("red", "green", "blue")
IMAGES = 8  # a class
BASE = {  # a run of seconds: tiny images, random weights
    "dataset": "folder",
    "backbone": "squeezenet1_1",
    "weights": "random",
    "image_size": 64,
    "epochs": 2,
    "hidden": 8,
}
FROM_TRAIN = {"train", "evaluate", "report"}
FROM_HEAD = {"lr_sweep", *FROM_TRAIN}
FROM_EXTRACT = {"extract", *FROM_HEAD}
FROM_SPLIT = {"split", *FROM_HEAD}
FROM_INDEX = {"index", "split", *FROM_EXTRACT}
FROM_EVALUATE = {"evaluate", "report"}
NOTHING: set[str] = set()
AUGMENT = {"extract", "lr_sweep", "train"}  # with one view of each image nothing comes out otherwise

# knob -> value (or several knobs that must change together), and the stages that run beside `check`, which looks at
# params.yaml after every change. The order matters: each run starts where the last one ended.
TABLE: dict[str, tuple[object, set[str]]] = {
    "lr": (0.01, FROM_TRAIN),
    "split.seed": (1, FROM_SPLIT),
    "decide.confidence": (0.6, FROM_EVALUATE),
    "backbone": ("resnet18", FROM_EXTRACT),
    "hidden": (16, FROM_HEAD),
    "dropout": (0.1, FROM_HEAD),
    "optimizer": ("sgd", FROM_HEAD),
    "weight_decay": (0.02, FROM_HEAD),
    "momentum": (0.8, FROM_HEAD),
    "warmup": (1, FROM_TRAIN),
    "schedule": ({"schedule": "plateau", "warmup": 0}, FROM_TRAIN),
    "clip_grad": (1.0, FROM_HEAD),
    "lr_backbone": (0.001, FROM_HEAD),
    "layer_decay": (0.5, FROM_HEAD),
    "freeze_batchnorm": ("false", FROM_HEAD),
    "loss": ("focal", FROM_HEAD),
    "focal_gamma": (1.0, FROM_HEAD),
    "class_weights": ("balanced", FROM_HEAD),
    "step_size": (5, FROM_TRAIN),
    "step_factor": (0.5, FROM_TRAIN),
    "cycle_len": (5, FROM_TRAIN),
    "cycle_mult": (1, FROM_TRAIN),
    "plateau_factor": (0.5, FROM_TRAIN),
    "plateau_patience": (2, FROM_TRAIN),
    "epochs": (3, FROM_TRAIN),
    "batch_size": (4, FROM_HEAD),
    "monitor": ("val_accuracy", FROM_TRAIN),
    "early_stopping_patience": (2, FROM_TRAIN),
    "label_smoothing": (0.1, FROM_HEAD),
    "standardize": ("false", FROM_HEAD),
    "precision": ("float32", FROM_HEAD),
    "refit": ("trainval", FROM_TRAIN),
    "boxes": (
        {"boxes.pool": "avg", "boxes.box_weight": 2.0},
        {"lr_sweep", "train"},
    ),  # no head for boxes: no difference
    "seed": (1, FROM_HEAD),
    "seeds": (2, FROM_TRAIN),
    "head": ({"head": "ridge", "refit": "none"}, FROM_HEAD),
    "device": ("cpu", NOTHING),
    "cut": ("map", FROM_EXTRACT),
    "tap": ({"cut": "layer3", "tap": "pooled"}, FROM_EXTRACT),
    "phases": ("[{epochs:1,train_from:head}]", FROM_HEAD),
    "image_size": (96, FROM_EXTRACT),
    "resize": ("squash", FROM_EXTRACT),
    "split.protocol": ("fractions", FROM_SPLIT),
    "split.train": ({"split.train": 0.25, "split.val": 0.5}, FROM_SPLIT),
    "split.val": ({"split.train": 0.375, "split.val": 0.375}, FROM_SPLIT),
    "split.test": ({"split.test": 0.375, "split.val": 0.25}, FROM_SPLIT),
    "split.val_fraction": (0.3, FROM_SPLIT),
    "extract.engine": ("openvino", FROM_EXTRACT),
    "extract.precision": ("bfloat16", FROM_EXTRACT),
    "extract.dtype": ("float32", FROM_EXTRACT),
    "extract.batch_size": (4, FROM_EXTRACT),
    "extract.seed": (1, {"extract"}),  # no drawn views: the same features
    "extract.cluster": ("local", NOTHING),
    "extract.cluster_cpus": ({"extract.cluster": "none", "extract.cluster_cpus": 2}, NOTHING),
    "extract.cluster_gpus": (1, NOTHING),
    "augment.crop": (0.6, AUGMENT),
    "augment.flip": ("false", AUGMENT),
    "augment.rotate": (15.0, AUGMENT),
    "augment.lighting": (0.1, AUGMENT),
    "views": (2, FROM_EXTRACT),
    "lr_sweep.low": (1e-5, {"lr_sweep", "report"}),
    "lr_sweep.high": (0.5, {"lr_sweep", "report"}),
    "lr_sweep.steps": (20, {"lr_sweep", "report"}),
    "decide.nms_iou": (0.6, FROM_EVALUATE),
    "decide.tta": ("true", FROM_EVALUATE),
    "decide.merge": ("fusion", FROM_EVALUATE),
    "bad_images.max_fraction": (0.02, {"index", "extract"}),
    "datasets.logos": ({"datasets.logos.scenes": 3, "datasets.logos.size": 64, "datasets.logos.seed": 1}, NOTHING),
    "datasets.caltech101": ({"datasets.caltech101.exclude": "[BACKGROUND_Google]"}, NOTHING),
    "datasets.flickrlogos32": ({"datasets.flickrlogos32.protocol": "owners"}, NOTHING),
    "datasets.voc": ({"datasets.voc.strict": "true"}, NOTHING),
    "datasets.voc2007": ({"datasets.voc2007.strict": "true"}, NOTHING),
    "datasets.voc2012": ({"datasets.voc2012.strict": "true"}, NOTHING),
    "datasets.voc0712": ({"datasets.voc0712.strict": "true"}, NOTHING),
    "datasets.coco": ({"datasets.coco.annotations.all": "x.json"}, NOTHING),
    "datasets.coco2017": ({"datasets.coco2017.strict": "true"}, NOTHING),
    "datasets.bccd": ({"datasets.bccd.strict": "true"}, NOTHING),
    "weights": ("WEIGHTS", FROM_EXTRACT),
    "root": ("ROOT", FROM_INDEX),
    "dataset": ("logos", {"download", *FROM_INDEX}),
}
QUICK = ("lr", "split.seed", "decide.confidence", "backbone")
SAVE_WEIGHTS = """
import sys, torch, torchvision
torch.manual_seed(5)
torch.save(torchvision.models.get_model(sys.argv[1]).state_dict(), sys.argv[2])
"""


def draw_images(folder: Path, images: int, seed: int = 0) -> None:
    """Noise around one colour a class."""
    generator = np.random.default_rng(seed)
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for image in range(images):
            pixels = generator.integers(0, 120, (40, 48, 3), dtype=np.uint8)
            pixels[..., number] += 100
            Image.fromarray(pixels).save(folder / name / f"{seed}-{image:02}.jpg")


def digests(home: Path) -> dict[str, str]:
    results = [path for folder in ("cache/head", "reports") for path in (home / folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(home)): hashlib.sha256(path.read_bytes()).hexdigest() for path in results}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """With a finished run on a folder of 24 tiny images."""
    made = checkout.fresh(tmp_path_factory.mktemp("dag") / "project")
    draw_images(made.images, IMAGES)
    made.experiment({**BASE, "root": made.images, "extract.precision": "float32", "extract.engine": "torch"})
    made.commit("first run")
    return made


def turned(project: Project, knob: str) -> dict[str, object]:
    """The -S settings for a row of the table."""
    value = TABLE[knob][0]
    if value == "WEIGHTS":
        value = project.home.parent / "weights.pth"
        project.run("python", "-c", SAVE_WEIGHTS, project.params()["backbone"], str(value))
    if value == "ROOT":
        value = project.home.parent / "more"
        shutil.copytree(project.images, value, dirs_exist_ok=True)
        draw_images(value, 1, seed=1)
    return value if isinstance(value, dict) else {knob: value}


def test_the_table_names_every_knob() -> None:
    blocks = {"split", "augment", "extract", "lr_sweep", "decide", "bad_images"}
    wanted = set(Params.model_fields) - blocks - {"datasets"}
    for block in blocks:
        wanted |= {f"{block}.{name}" for name in Params.model_fields[block].annotation.model_fields}  # type: ignore[union-attr]
    assert wanted <= set(TABLE)


@pytest.mark.parametrize(
    "knob", [knob if knob in QUICK else pytest.param(knob, marks=pytest.mark.slow) for knob in TABLE]
)
def test_a_knob_runs_the_stages_of_the_table(project: Project, knob: str) -> None:
    stages, output = project.experiment(turned(project, knob))
    assert stages == TABLE[knob][1] | {"check"}, output


def test_a_second_run_runs_nothing(project: Project) -> None:
    project.run("dvc", "repro")
    assert ran(project.run("dvc", "repro")) == set()


def test_switching_back_runs_the_report_at_most(project: Project) -> None:
    before = digests(project.home)
    backbone = project.params()["backbone"]
    other = "squeezenet1_1" if backbone != "squeezenet1_1" else "resnet18"
    project.experiment({"backbone": other})
    stages, output = project.experiment({"backbone": backbone})
    assert stages <= {"report"}, output
    assert digests(project.home) | {"reports/report.html": ""} == before | {"reports/report.html": ""}


def test_ten_images_more_are_ten_computed(project: Project) -> None:
    project.experiment({"dataset": "folder", "root": project.images})
    generator = np.random.default_rng(9)
    for image in range(10):
        pixels = generator.integers(0, 255, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(project.images / CLASSES[0] / f"new-{image}.png")
    output = project.run("dvc", "repro")
    assert " 10 to compute" in output, output
    assert ran(output) == FROM_INDEX


def test_a_temporary_run_reuses_the_store(project: Project) -> None:
    project.run("dvc", "repro")
    project.commit("before --temp")
    _, output = project.experiment({"lr": 0.017, "extract.seed": 3, "views": 1}, "--temp")
    assert " 0 to compute" in output, output


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("lr: fast", "`lr` must be a valid number, found 'fast'"),
        ("lrr: 0.1", "`lrr` is not a parameter; did you mean lr?"),
        ("backbone: resnet81", "did you mean resnet18"),
        ("cut: map@4", "`cut` must be pooled, map, map@16"),
        ("root: /nowhere", "there is no folder '/nowhere'"),
        ("weights: IMAGENET1K_V7", "has no weights 'IMAGENET1K_V7'"),
        ("dataset: logo", "did you mean logos"),
    ],
)
def test_bad_params_leave_the_results_alone(project: Project, line: str, said: str) -> None:
    project.run("dvc", "repro")
    params, before = project.home / "params.yaml", digests(project.home)
    text = params.read_text()
    key = line.partition(":")[0]
    pattern = re.compile(rf"^{key}: .*$", re.MULTILINE)
    params.write_text(pattern.sub(line, text) if pattern.search(text) else f"{text}{line}\n")
    try:
        output = project.run("dvc", "repro", check=False)
    finally:
        params.write_text(text)
    assert said in output
    assert "Traceback" not in output
    assert digests(project.home) == before
