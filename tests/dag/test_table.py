"""Which knob runs which stages, tried with DVC."""

import shutil

import pytest

from stages.params import Params
from tests.checkout import Project
from tests.dag.toy import (
    AUGMENT,
    FROM_EVALUATE,
    FROM_EXTRACT,
    FROM_HEAD,
    FROM_INDEX,
    FROM_SPLIT,
    FROM_SUGGESTION,
    FROM_TRAIN,
    NOTHING,
    draw_images,
)

# knob -> value (or several knobs that must change together), and the stages that run beside `check`, which looks at
# params.yaml after every change. The order matters: each run starts where the last one ended.
TABLE: dict[str, tuple[object, set[str]]] = {
    "lr": (0.01, FROM_TRAIN),
    "split.seed": (1, FROM_SPLIT),
    "decide.confidence": (0.6, FROM_EVALUATE),
    "backbone": ("resnet18", FROM_EXTRACT),
    "hidden": (16, FROM_HEAD),
    "queries": (4, FROM_HEAD),
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
    "normalize": ("none", FROM_HEAD),
    "precision": ("float32", FROM_HEAD),
    "refit": ("trainval", FROM_TRAIN),
    "boxes": (
        {"boxes.pool": "avg", "boxes.box_weight": 2.0},
        {"lr_sweep", "train"},
    ),  # no head for boxes: no difference
    "seed": (1, FROM_HEAD),
    "seeds": (2, FROM_TRAIN),
    "lr_sweep.low": (1e-5, FROM_SUGGESTION),
    "lr_sweep.high": (0.5, FROM_SUGGESTION),
    "lr_sweep.steps": (20, FROM_SUGGESTION),
    "head": ({"head": "ridge", "refit": "none"}, FROM_HEAD),
    "device": ("cpu", NOTHING),
    "cut": ("map", FROM_EXTRACT),
    "tap": ({"backbone": "resnet18", "cut": "layer3", "tap": "pooled"}, FROM_EXTRACT),  # `-m slow` skips backbone's row
    "phases": ("[{epochs:1,train_from:head}]", FROM_HEAD),
    "image_size": (96, FROM_EXTRACT),
    "resize": ("squash", FROM_EXTRACT),
    "split.protocol": ("fractions", FROM_SPLIT),
    "split.train": ({"split.train": 0.25, "split.val": 0.5}, FROM_SPLIT),
    "split.val": ({"split.train": 0.375, "split.val": 0.375}, FROM_SPLIT),
    "split.test": ({"split.test": 0.375, "split.val": 0.25}, FROM_SPLIT),
    "split.val_fraction": (0.3, FROM_SPLIT),
    "split.folds": (4, {"split"}),  # without folds: the same splits
    "split.groups": ("'(-0[01])'", FROM_SPLIT),
    "extract.engine": ("openvino", FROM_EXTRACT),
    "extract.precision": ("bfloat16", FROM_EXTRACT),
    "extract.dtype": ("float32", FROM_EXTRACT),
    "extract.batch_size": (4, FROM_EXTRACT),
    "extract.decoder": ("gpu", {"extract"}),  # without CUDA the CPU decodes: the same features
    "extract.compile": ({"extract.engine": "auto", "extract.compile": "true"}, FROM_EXTRACT),
    "extract.seed": (1, {"extract"}),  # no drawn views: the same features
    "extract.cluster": ("local", NOTHING),
    "extract.cluster_cpus": ({"extract.cluster": "none", "extract.cluster_cpus": 2}, NOTHING),
    "extract.cluster_gpus": (1, NOTHING),
    "augment.crop": (0.6, AUGMENT),
    "augment.flip": ("false", AUGMENT),
    "augment.rotate": (15.0, AUGMENT),
    "augment.lighting": (0.1, AUGMENT),
    "views": (2, FROM_EXTRACT),
    "decide.nms_iou": (0.6, FROM_EVALUATE),
    "decide.tta": ("true", FROM_EVALUATE),
    "decide.merge": ("fusion", FROM_EVALUATE),
    "decide.unknown": (0.05, FROM_EVALUATE),
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
    "datasets.webdataset": ({"datasets.webdataset.strict": "true"}, NOTHING),
    "datasets.parquet": ({"datasets.parquet.strict": "true"}, NOTHING),
    "datasets.bccd": ({"datasets.bccd.strict": "true"}, NOTHING),
    "weights": ("WEIGHTS", FROM_EXTRACT),
    "task": ("single", {"index"}),  # the same index
    "root": ("ROOT", FROM_INDEX),
    "dataset": ({"dataset": "logos", "split.groups": ""}, {"code", "download", *FROM_INDEX}),
}
QUICK = ("lr", "split.seed", "decide.confidence", "backbone")
SAVE_WEIGHTS = """
import sys, torch, torchvision
torch.manual_seed(5)
torch.save(torchvision.models.get_model(sys.argv[1]).state_dict(), sys.argv[2])
"""


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
    expected = TABLE[knob][1] | {"check"}
    assert stages - expected <= ({"train"} if knob.startswith("lr_sweep.") else set()), output
    assert expected <= stages, output
