"""The program on the model card: it reads an image and prints what the exported file says of it.

It runs as printed, next to the file, with the packages of its first line and without coldcut or torch (but for torch's
own format). Tests run it.
"""

from typing import Literal

from stages.images.preprocessing import Preprocessing

PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino", "torch": "torch"}
LOADING = {
    "onnx": """\
session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
{outputs} = session.run([{names}], {{"pixels": read("{image}")}})""",
    "openvino": """\
model = openvino.Core().read_model("{file}")
classes = json.loads(model.get_rt_info(["coldcut", "classes"]).astype(str))
compiled = openvino.compile_model(model, "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})
results = compiled([read("{image}")])
{outputs} = (results[name] for name in [{names}])""",
    "torch": """\
metadata = {{"coldcut.json": ""}}
model = torch.export.load("{file}", extra_files=metadata).module()
classes = json.loads(metadata["coldcut.json"])["classes"]
with torch.inference_mode():
    results = model(torch.from_numpy(read("{image}")))
{outputs} = (results[name].numpy() for name in [{names}])""",
}
READ_CROPPED = """\
def read(path):
    \"\"\"The pixels of an image: uint8 (1, 3, {crop}, {crop}).\"\"\"
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    short = min(image.size)
    image = image.resize([int({resize} * side / short) for side in image.size], Image.Resampling.{filter})
    left, top = (round((side - {crop}) / 2) for side in image.size)
    image = image.crop((left, top, left + {crop}, top + {crop}))
    return np.array(image).transpose(2, 0, 1)[None].copy()"""
READ_SQUASHED = """\
def read(path):
    \"\"\"The pixels of an image: uint8 (1, 3, {crop}, {crop}).\"\"\"
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    image = image.resize(({crop}, {crop}), Image.Resampling.{filter})
    return np.array(image).transpose(2, 0, 1)[None].copy()"""
PRINT_CLASSES = """\
for label in probabilities[0].argsort()[::-1][:5]:
    print(f"{classes[label]}: {probabilities[0][label]:.1%}")"""
SUPPRESS = """\
def suppress(boxes, scores, overlap=IOU):
    \"\"\"Of boxes that overlap by more than this (IoU), keeps the one with the highest score.\"\"\"
    order, kept = scores.argsort()[::-1], []
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        low, high = np.maximum(boxes[best, :2], boxes[rest, :2]), np.minimum(boxes[best, 2:], boxes[rest, 2:])
        common = (high - low).clip(0).prod(1)
        order = rest[common <= overlap * (area[best] + area[rest] - common)]
    return kept"""
PRINT_SELECTED = """\
for box, score, label in zip(boxes[0], scores[0], labels[0]):
    if score > 0:  # the places behind the last box are empty
        print(f"{classes[label]} {score:.1%} at {box.round().clip(0, SIDE).tolist()}")"""
PRINT_LABELS = """\
for label, threshold in enumerate(thresholds):
    if probabilities[0][label] >= threshold:
        print(f"{classes[label]}: {probabilities[0][label]:.1%}")"""
THRESHOLDS = {  # how each format is asked for another list beside the classes
    "onnx": 'thresholds = json.loads(session.get_modelmeta().custom_metadata_map["thresholds"])',
    "openvino": 'thresholds = json.loads(model.get_rt_info(["coldcut", "thresholds"]).astype(str))',
    "torch": 'thresholds = json.loads(metadata["coldcut.json"])["thresholds"]',
}
PRINT_BOXES = """\
for label, name in enumerate(classes):
    likely = np.flatnonzero(scores[0][:, label] >= CONFIDENCE)
    for box in likely[suppress(boxes[0][likely], scores[0][likely, label])]:
        print(f"{name} {scores[0][box, label]:.1%} at {boxes[0][box].round().clip(0, SIDE).tolist()}")"""


def program(
    file: str,
    format_: Literal["onnx", "openvino", "torch"],
    how: Preprocessing,
    *,
    boxes: bool,
    suppresses: bool,
    confidence: float,
    iou: float,
    several: bool = False,
    image: str = "photo.jpg",
) -> str:
    """The program as text.

    Args:
        file: name of the exported file.
        format_: its format.
        how: what is done to an image before it.
        boxes: whether its outputs are boxes, and not probabilities.
        suppresses: whether the file suppresses boxes itself.
        confidence: the score from which a box is printed.
        iou: the overlap above which the lower of two boxes of a class is dropped.
        several: whether images have several labels, each with a threshold.
        image: name of the image that is read.
    """
    package = PACKAGES[format_]
    imports = [
        "import json",
        "",
        *sorted(["import numpy as np", f"import {package}"], key=lambda line: line.split()[1]),
    ]
    read = READ_SQUASHED if how.resize is None else READ_CROPPED
    functions = [read.format(crop=how.crop, resize=how.resize, filter=how.interpolation.upper())]
    functions += [SUPPRESS.replace("IOU", f"{iou:g}")] if boxes and not suppresses else []
    outputs, names, show = "(probabilities,)", ["probabilities"], PRINT_CLASSES
    if boxes:
        outputs, names, show = "boxes, scores", ["all_boxes", "all_scores"], PRINT_BOXES
    if boxes and not suppresses and how.resize is None:
        show = f"boxes = boxes.clip(0, SIDE)  # the input is all of the image\n{show}"
    if suppresses:
        outputs, names, show = "boxes, scores, labels", ["boxes", "scores", "labels"], PRINT_SELECTED
    listed = ", ".join(f'"{name}"' for name in names)
    load = LOADING[format_].format(file=file, outputs=outputs, names=listed, image=image)
    show = show.replace("CONFIDENCE", f"{confidence:g}").replace("SIDE", str(how.crop))
    if several:
        show = f"{THRESHOLDS[format_]}\n{PRINT_LABELS}"
    head = [f"# pip install {package} numpy pillow", *imports, "from PIL import Image, ImageOps"]
    return "\n".join(head) + "\n\n\n" + "\n\n\n".join(functions) + f"\n\n\n{load}\n{show}\n"
