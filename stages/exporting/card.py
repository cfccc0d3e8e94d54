"""The model card: what a file is, takes and gives, how good it is, where it ends, and whose weights are in it."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from stages import paths
from stages.backbones import names
from stages.backbones.names import PACKAGED, TIMM
from stages.exporting.network import preprocessing
from stages.features.h5 import INPUT
from stages.images.preprocessing import Preprocessing
from stages.metrics.table import BASELINES, SHARE, VAL, of_task
from stages.prediction.model import Predictor

OF = ("dataset", "backbone", "cut", "tap", "head")  # what metrics.json and a head both tell
FEW = 100  # judged images: below, numbers say little
RUNS = {
    "onnx": """\
session = onnxruntime.InferenceSession("{file}")
{names} = session.run(None, {{"pixels": pixels}})""",
    "openvino": """\
model = openvino.Core().compile_model("{file}", "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})
{names} = model([pixels]).values()""",
    "torch": """\
model = torch.export.load("{file}").module()
{names} = (found.numpy() for found in model(torch.from_numpy(pixels)).values())""",
}
IMPORTS = {"onnx": "onnxruntime", "openvino": "openvino", "torch": "torch"}


class Checked(NamedTuple):
    """What the check found.

    Attributes:
        file: the file's name.
        format: one of `formats.FORMATS`.
        images: how many it was asked about.
        difference: the largest from our answers in float32.
        moved: the largest difference of a score from our answers at the precision of training and evaluation.
        same_class: for how many images those name the same class; None of boxes.
    """

    file: str
    format: str
    images: int
    difference: float
    moved: float
    same_class: int | None


def told(model: Predictor) -> dict[str, Any]:
    """What goes into the file itself, as far as its format has room."""
    how = preprocessing(model.specs[0])
    return {
        "classes": model.classes,
        "preprocessing": str(how).partition("|normalize")[0],
        "head": model.described["head"],
        "backbone": model.provenance["backbone"],
        "dataset": model.described["params"]["dataset"],
        "decide": model.decide.model_dump(),
    }


def write(model: Predictor, checked: Checked, metrics: Mapping[str, Any] | None) -> str:
    """The card, in Markdown.

    Args:
        model: what was exported.
        checked: and how it was found.
        metrics: of `reports/metrics.json`, None where that is of another head.
    """
    described, params = model.described, model.described["params"]
    title = f"{described['head']} on {model.provenance['backbone']}, trained on {params['dataset']}"
    kind = "finds objects" if model.finds_boxes else "names the class of an image"
    return "\n".join([
        f"# {title}", "",
        f"`{checked.file}` {kind}: {len(model.classes)} classes. Backbone and head in one file, made by coldcut.", "",
        "## Use", "", *_input(preprocessing(model.specs[0])), "", *_output(model), "",
        "```python", *_snippet(model, checked), "```", "",
        "## Data", "", *_data(model, metrics), "",
        "## Metrics", "", *_metrics(metrics), "",
        "## Limits", "", *(f"- {limit}" for limit in _limits(model, checked, metrics)), "",
        "## Licence of the weights", "", *(f"- {line}" for line in _licences(model)), "",
        "## Classes", "", "In the order of the outputs, as JSON:", "",
        "```json", json.dumps(model.classes, ensure_ascii=False, indent=1), "```", "",
    ])  # fmt: skip


def metrics_of(model: Predictor, found: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The metrics, if they are of this head."""
    is_of = {"tap": model.described["tap"], "head": model.described["head"]} | {
        "dataset": model.described["params"]["dataset"],
        "backbone": model.provenance["backbone"],
        "cut": model.provenance["cut"],
    }
    return found if all(found.get(key) == is_of[key] for key in OF) else None


def _input(how: Preprocessing) -> list[str]:
    size = how.crop
    resized = (
        f"squashed to {size} x {size}"
        if how.resize is None
        else f"the short side resized to {how.resize}, the centre {size} x {size} cut out"
    )
    return [
        f"Input `pixels`: uint8 (N, 3, {size}, {size}), RGB, 0 to 255, any N. Of an image: decoded, turned as its EXIF "
        f"orientation says, {resized} ({how.interpolation}, antialiased). Normalisation is inside."
    ]


def _output(model: Predictor) -> list[str]:
    if not model.finds_boxes:
        return ["Output `probabilities`: float32 (N, classes), each row adds up to 1."]
    return [
        "Outputs, before suppression: `boxes`, float32 (N, P, 4), corners x1 y1 x2 y2 in pixels of the input; "
        "`scores`, float32 (N, P, classes), of each class for each box. Keep what scores enough, then suppress class "
        f"by class (evaluated with an IoU of {model.decide.nms_iou:g}), as below. Suppression is left out of the file "
        "because its output has no fixed shape, which runtimes handle differently."
    ]


def _snippet(model: Predictor, checked: Checked) -> list[str]:
    outputs = "boxes, scores" if model.finds_boxes else "(probabilities,)"
    imports = [f"import {IMPORTS[checked.format]}"]
    run = RUNS[checked.format].format(file=checked.file, names=outputs).splitlines()
    if not model.finds_boxes:
        return [*imports, "", *run]
    after = [
        *("", "# the first image"),
        f"place, label = (scores[0] >= {model.decide.confidence:g}).nonzero()",
        "kept = torchvision.ops.batched_nms(",
        "    *map(torch.tensor, (boxes[0][place], scores[0][place, label], label)),",
        f"    {model.decide.nms_iou:g},",
        ")",
        "found = boxes[0][place][kept], scores[0][place, label][kept], label[kept]",
    ]
    return [*sorted({*imports, "import torch"}), "import torchvision", "", *run, *after]


def _data(model: Predictor, metrics: Mapping[str, Any] | None) -> list[str]:
    params = model.described["params"]
    lines = [f"- Dataset: {params['dataset']}"]
    if metrics:
        counts = ", ".join(f"{metrics[f'n_{part}']:,} {part}" for part in ("train", "val", "test"))
        lines += [f"- Images: {counts}"]
    if params.get("refit") == "trainval":
        lines += ["- Epochs were chosen on val, then the head was trained on train and val"]
    return [*lines, "- The images keep the licence of their dataset"]


def _metrics(metrics: Mapping[str, Any] | None) -> list[str]:
    if metrics is None:
        return ["None: reports/metrics.json is of another head."]
    part, prefix = ("test", "") if metrics["n_test"] else ("val", VAL)
    rows = [
        f"| {metric.title} | {metric.text(metrics[prefix + name])} |"
        for name, metric in of_task(metrics["task"]).items()
        if prefix + name in metrics
    ]
    rows += [f"| {line.title} | {SHARE.format(metrics[name])} |" for name, line in BASELINES.items() if name in metrics]
    return [f"On {metrics[f'n_{part}']:,} {part} images:", "", "| | |", "|---|---|", *rows]


def _limits(model: Predictor, checked: Checked, metrics: Mapping[str, Any] | None) -> list[str]:
    """What a user of the file must know."""
    found = [
        f"It computes in float32. On {checked.images} images it differs from coldcut in float32 by at most "
        f"{checked.difference:.1e}{', boxes relative to their coordinates' if model.finds_boxes else ''}.",
        f"The head was trained and judged with {_precision(model)}: from that its scores differ by up to "
        f"{checked.moved:.2g}{_same(checked)}.",
        "It knows its classes and nothing else: an image of anything else is taken for one of them, or for nothing.",
    ]
    if model.decide.tta:
        found.append(f"The metrics are of {len(model.specs[0].views)} views of each image; this file sees one.")
    if model.provenance["cut"] == INPUT:
        found.append("It was judged on images that were shrunk in two steps: pixels differ slightly from those above.")
    if metrics and not metrics["n_test"]:
        found.append("There was no test part: the numbers are of images that also chose what was kept.")
    elif metrics and metrics["n_test"] < FEW:
        found.append(f"Only {metrics['n_test']} images were judged: others could give rather different numbers.")
    if model.finds_boxes and model.provenance["resize"] == "crop":
        found.append("What lies outside of the centre crop is not seen.")
    if checked.format == "openvino":
        found.append(
            "OpenVINO computes in bfloat16 where the processor does, unless INFERENCE_PRECISION_HINT is f32. "
            "Its weights are beside it, in a file of the same name with .bin."
        )
    return found


def _same(checked: Checked) -> str:
    if checked.same_class is None:
        return ""
    return f", and the most probable class is the same for {checked.same_class} of {checked.images} images"


def _precision(model: Predictor) -> str:
    made, head = model.provenance.get("joined", [model.provenance])[0], model.described["knobs"]["precision"]
    return f"features in {made['precision']} and the head in {head}" if "precision" in made else f"all in {head}"


def _licences(model: Predictor) -> list[str]:
    params, made = model.described["params"], model.provenance
    if made["cut"] == INPUT and model.described["tap"] == "same":
        return ["No pretrained weights are in it."]
    return [
        f"{name}: {licence(name, weights)}" for name, weights in names.joined(params["backbone"], params["weights"])
    ]


def licence(backbone: str, weights: str) -> str:
    """What is known of the licence of a backbone's weights."""
    if weights == "random":
        return "random weights, nobody's."
    if paths.resolve(weights).is_file():
        return f"weights from the file {paths.resolve(weights).name}; their licence is not known here."
    if backbone in PACKAGED:
        return "Apache 2.0, of the Python package that brings them; trained on ImageNet-1k."
    if backbone.startswith(TIMM):
        import timm

        config = timm.get_pretrained_cfg(backbone.removeprefix(TIMM), allow_unregistered=True)
        return f"{getattr(config, 'license', None) or 'not stated'}, as timm tells."
    from torchvision.models import get_model_weights

    enum = get_model_weights(backbone)
    chosen = enum["DEFAULT" if weights == "default" else weights]
    return (
        f"{chosen.meta.get('license', 'not stated')}. torchvision itself is BSD 3-clause; its weights may have terms "
        "of their own that derive from the data they were trained on."
    )
