"""code: a list of the code that each stage runs, with its hashes, in `cache/code/<stage>.txt`.

A stage depends on its list. So it runs again when a module that it imports has changed, and only then.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from stages import files, paths
from stages.imports import ROOT, chains, modules
from stages.params import Params
from stages.stage import run

STAGES = ("download", "index", "split", "extract", "review", "lr_sweep", "train", "evaluate", "report")
PARAMS = "refuses bad values; a result depends on the values, which dvc.yaml lists, not on who refuses others"
HARMLESS = {  # modules that cannot change a result, so that no stage runs again for them
    "stages": "how the threads and the garbage collector of a process behave",
    "stages.blocks": PARAMS,
    "stages.command": "what a command prints when it fails",
    "stages.datasets.registry": PARAMS,
    "stages.errors": "the one user error, and the nearest valid name in its message",
    "stages.evaluation.options": PARAMS,
    "stages.features.options": PARAMS,
    "stages.files": "writes what it is told to, whole or not at all",
    "stages.images.options": PARAMS,
    "stages.params": PARAMS,
    "stages.inputs": "compares, and fails where a result would be recorded wrongly",
    "stages.live_run": "refuses a second run in one checkout",
    "stages.paths": "where things lie: dvc.yaml names the same places, and a stage fails where the two differ",
    "stages.processes": "where something is computed, not what",
    "stages.stage": "what a stage prints, and how long it took",
    "stages.tensors": "writes what it is told to, whole or not at all",
    "stages.training.options": PARAMS,
    "stages.yaml12": "reads YAML as DVC does",
}


def main(params: Params) -> dict[str, object]:
    """Writes the list of each stage, for the dataset of these params and any head."""
    listed = {stage: sorted(files_of(stage, params.dataset)) for stage in STAGES}
    every = {path for listing in listed.values() for path in listing}
    hashes = {path: hashlib.sha256((ROOT / path).read_bytes()).hexdigest() for path in every}
    for stage, names in listed.items():
        lines = [f"{hashes[path]}  {path}\n" for path in names]  # as sha256sum writes them, and `sha256sum -c` reads
        files.write_text(paths.code(stage), "".join(lines))
    return {"stages": len(listed), "modules and templates": len(hashes)}


def files_of(stage: str, dataset: str) -> set[Path]:
    """The modules that a stage imports when it runs on a dataset, and the templates in folders beside them.

    Raises:
        UserError: a module is not valid Python, or it cannot be told what it imports.
    """
    chosen = {"stages.datasets": dataset, "stages.heads": None}
    imported = [modules()[name] for name in chains(f"stages.{stage}", chosen, HARMLESS)]
    templates = [path for module in imported for path in _templates(module.parent)]
    return {path.relative_to(ROOT) for path in [*imported, *templates]}


def _templates(folder: Path) -> Iterator[Path]:
    return (folder / "templates").glob("*")


if __name__ == "__main__":
    run("code", main, announce=lambda params: f"what each stage imports, with dataset {params.dataset}")
