"""The order of the rooms of `stages`: each imports only rooms that stand above it in the list."""

import pytest

from stages.imports import imports, modules

ORDER = (
    # the ground: one user error, what blocks of params are made of, where things lie, whole files, how commands run
    "errors", "blocks", "paths", "files", "tensors", "results", "yaml12", "overrides", "command", "processes",
    "imports", "machine", "threads", "memory",
    # blocks of params in modules of their own: every `<room>/options.py`
    "options",
    "fetching", "images", "boxes", "metrics", "backbones", "datasets", "features", "heads",
    # puts the blocks together; what every stage does around its work
    "params", "inputs", "live_run", "stage",
    "training", "reviewing", "evaluation", "sweeping", "reporting", "labelling", "comparing", "prediction", "exporting",
    # the stages and the commands: they may import any room, and nothing imports them
    "top",
)  # fmt: skip
PACKAGE = ""  # `stages` itself, which every import runs first
DOWNWARDS = {  # imports against the order, each with its reason
    ("stages.params", "stages.check"): "`python -m stages.params` still checks params.yaml",
    ("stages.plan", "stages.extract"): "a command that plans what a stage would do",
}


def room(module: str) -> str:
    """The place of a module in ORDER."""
    _, name, last = (*module.split("."), "", "")[:3]
    if last == "options":
        return "options"
    packages = {module.split(".")[1] for module in modules() if module.count(".") > 1}
    return name if name in ORDER or name in packages or not name else "top"


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_only_rooms_above_its_own(module: str) -> None:
    assert room(module) == PACKAGE or room(module) in ORDER, f"{module}: give the room a place in ORDER"
    for target in imports(module):
        if room(target) == PACKAGE or (module, target) in DOWNWARDS:
            continue
        same_room = room(module) == room(target) != "top"
        assert same_room or ORDER.index(room(target)) < ORDER.index(room(module)), f"{module} imports {target}"


def test_heads_are_leaves() -> None:
    """A head can be read, tested and taken away without anything that trains it."""
    allowed = {"errors", "blocks", "options", "boxes", "heads", PACKAGE}
    for module in modules():
        if room(module) == "heads":
            assert {room(target) for target in imports(module)} <= allowed, module
