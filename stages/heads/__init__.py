"""One module a head.

A head has `build(shape, classes, knobs)`: its layers, from features of the `shape` that one image has to logits. One
for boxes has

- `targets(boxes, labels, knobs, shape, classes)`: what it should give for one view;
- `loss(outputs, targets, knobs)`: the mean over a batch;
- `decode(outputs, knobs)`: what it found in each view of a batch, before suppression;
- `places(outputs, knobs)`: the same as tensors of one shape for all views, for export;
- `prepare(boxes, knobs)`, where it learns knobs from the boxes of train before it is built: those knobs;
- `unassigned(boxes, knobs, shape)`: how many objects it cannot hold;
- `classified(outputs, targets, knobs)`, where it names one class an image: which are right.

What a head takes stands here, where no torch is imported.
"""

# head -> a vector an image (maps are averaged over positions for it), a map (C, H, W), or maps at several strides
INPUT_KIND = {
    "linear": "vector",
    "mlp": "vector",
    "ridge": "vector",
    "knn": "vector",
    "squeezenet": "map",
    "lenet5": "map",
    "smallnet": "map",
    "largest": "map",
    "grid": "map",
    "anchors": "map",
    "multiscale": "pyramid",
}
NAMES = {
    "vector": "a vector",
    "map": "a map (C, H, W)",
    "pyramid": "maps at several strides",
}
DETECTION = ("largest", "grid", "anchors", "multiscale")  # find objects; the others name the class of an image
CLOSED_FORM = ("ridge", "knn")  # at once: no epochs, no learning rate


def heads_taking(kind: str) -> list[str]:
    """The heads that take a kind of features."""
    return [name for name, takes in INPUT_KIND.items() if takes == kind]
