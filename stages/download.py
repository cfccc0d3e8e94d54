"""download: the archives of the chosen dataset, as fetched, in `data/raw/<dataset>/`."""

import importlib
import json

from stages import files, paths
from stages.datasets.fetch import fetch
from stages.datasets.source import SOURCES, has_source
from stages.datasets.web import digest
from stages.params import Params
from stages.stage import run


def main(params: Params) -> dict[str, object]:
    """Fetches every source and keeps it, or what the dataset's module builds from it, with its checksum."""
    out = paths.raw(params.dataset)
    out.mkdir(parents=True, exist_ok=True)
    options = params.options
    sources = dict(options.source) if has_source(options) else {}
    fetched = {name: fetch(source, key=f"datasets.{params.dataset}.source.{name}") for name, source in sources.items()}
    module = importlib.import_module(f"stages.datasets.{params.dataset}")
    if hasattr(module, "build"):
        module.build(fetched, options, out)
    else:
        for path in fetched.values():
            files.copy(path, out / path.name)  # not a link: DVC makes its outs read-only, and this is the user's
    archives = sorted(path for path in out.iterdir() if path.name != SOURCES)
    described = {
        "archives": {path.name: digest(path) for path in archives},
        "options": options.model_dump(mode="json"),
    }
    files.write_bytes(out / SOURCES, (json.dumps(described, indent=1, sort_keys=True) + "\n").encode())
    return {"archives": len(archives), "bytes": sum(path.stat().st_size for path in archives)}


def _what(params: Params) -> str:
    """What is about to be fetched."""
    sources = dict(params.options.source) if has_source(params.options) else {}
    return f"{params.dataset}, {len(sources)} source(s)" if sources else f"nothing, {params.dataset} is read in place"


if __name__ == "__main__":
    run("download", main, _what)
