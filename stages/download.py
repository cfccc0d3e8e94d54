"""download: fetches the archives of the dataset in params.yaml into `data/raw/<dataset>/`."""

from collections.abc import Callable, Mapping
from pathlib import Path

from stages import files, paths
from stages.datasets.base import SOURCES, has_source
from stages.errors import UserError, counted
from stages.fetching.fetch import fetch
from stages.fetching.web import digest
from stages.params import Params
from stages.stage import run


def main(params: Params) -> dict[str, object]:
    """Fetches every source, and keeps it or the archive that is built from it, with its checksum."""
    out = paths.raw(params.dataset)
    out.mkdir(parents=True, exist_ok=True)
    options = params.options
    sources = dict(options.source) if has_source(options) else {}
    fetched = {name: fetch(source, key=f"datasets.{params.dataset}.source.{name}") for name, source in sources.items()}
    if build := builder(params.dataset):
        build(fetched, options, out)
    else:
        _check_names(params.dataset, fetched)
        for path in fetched.values():
            files.copy(path, out / path.name)  # not a link: DVC makes its outs read-only, and this is the user's
    archives = sorted(path for path in out.iterdir() if path.name != SOURCES)
    described = {
        "archives": {path.name: digest(path) for path in archives},
        "options": options.model_dump(mode="json"),
    }
    files.write_json(out / SOURCES, described, indent=1, sort_keys=True)
    return {"archives": len(archives), "bytes": sum(path.stat().st_size for path in archives)}


def _check_names(dataset: str, fetched: Mapping[str, Path]) -> None:
    """Refuses two sources whose archives have the same name: the second would take the place of the first."""
    source_of = dict[str, str]()
    for source, path in fetched.items():
        other = source_of.setdefault(path.name, source)
        if fetched[other] != path:
            keys = " and ".join(f"`datasets.{dataset}.source.{name}.url`" for name in (other, source))
            raise UserError(
                f"{keys} both end in {path.name}: fetch one of them by hand, and pass it under another name."
            )


def builder(dataset: str) -> Callable[..., None] | None:
    """The function that builds the archives of a dataset; None if they are kept as they were fetched."""
    if dataset == "logos":
        from stages.datasets import logos  # here, since only this dataset draws: NumPy and Pillow cost half a second

        return logos.build
    return None


def _what(params: Params) -> str:
    """What is about to be fetched."""
    sources = dict(params.options.source) if has_source(params.options) else {}
    return (
        f"{params.dataset}, {counted(len(sources), 'sources')}"
        if sources
        else f"nothing to do, dataset {params.dataset} is read in place"
    )


if __name__ == "__main__":
    run("download", main, announce=_what)
