"""One module a head.

A head has `build(shape, classes, knobs)`, its layers from features of one image's `shape` to logits, and
`fit(data, params, device)`, which trains or solves it. What it takes stands here, where no torch is imported.
"""

TAKES = {  # head -> a vector an image (maps are averaged over positions for it), or a map (C, H, W), such as an image
    "linear": "vector",
    "mlp": "vector",
    "ridge": "vector",
    "knn": "vector",
    "squeezenet": "map",
    "lenet5": "map",
    "smallnet": "map",
}
SOLVED = ("ridge", "knn")  # at once: no epochs, no learning rate


def those_for(kind: str) -> list[str]:
    """The heads that take a kind of features."""
    return [name for name, takes in TAKES.items() if takes == kind]
