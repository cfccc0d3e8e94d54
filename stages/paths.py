"""The paths of all files. DVC sets DVC_ROOT to the main checkout, for `--temp` and queued experiments too."""

import os
from pathlib import Path

PARAMS = Path("params.yaml")
HEAD = Path("cache/head")
CANDIDATES = HEAD / "candidates.json"  # what `head: auto` tried
PREDICTIONS = Path("cache/predictions")
TIMINGS = Path("cache/timings")
CODE = Path("cache/code")  # which modules each stage imports, with their hashes
LIVE_RUN = Path("cache/run")  # what is known of the run that is at work in this folder
REPORTS = Path("reports")
EVALUATION = PREDICTIONS / "evaluation.json"  # all numbers of evaluate
METRICS = REPORTS / "metrics.json"  # the few of them that DVC shows
PLOTS = REPORTS / "plots"
FIGURES = REPORTS / "figures"


def code(stage: str) -> Path:
    """The list of the code that a stage runs, a hash and a path per line."""
    return CODE / f"{stage}.txt"


def main_checkout() -> Path:
    """The checkout whose `cache/` is shared by every experiment."""
    return Path(os.environ.get("DVC_ROOT") or ".").resolve()


def typed(path: str) -> str:
    """A path as a user typed it: a relative one starts from the folder in which `coldcut` was called."""
    return os.path.join(os.environ.get("COLDCUT_FROM", ""), path)


def typed_path(path: str) -> Path:
    """`typed` as a Path."""
    return Path(typed(path))


def resolve(path: str | Path) -> Path:
    """A path from params: `~` expanded, a relative one taken from the main checkout."""
    return Path(os.path.normpath(main_checkout() / Path(path).expanduser()))


def store() -> Path:
    """The row store and the downloads, shared by every experiment of the main checkout."""
    return main_checkout() / "cache" / "store"


def unpacked(dataset: str) -> Path:
    """Images unpacked from archives, shared by every experiment of the main checkout."""
    return main_checkout() / "cache" / "images" / dataset


def maps() -> Path:
    """Maps of features, which take seconds to compute; safe to remove."""
    return main_checkout() / "cache" / "maps"


def thumbnails() -> Path:
    """Thumbnails for the page; safe to remove."""
    return main_checkout() / "cache" / "thumbnails"


def pixels(dataset: str) -> Path:
    """Statistics of the pixels of each image of a dataset; safe to remove."""
    return main_checkout() / "cache" / "pixels" / f"{dataset}.safetensors"


def engine() -> Path:
    """Converted networks, shared by every experiment of the main checkout."""
    return main_checkout() / "cache" / "engine"


def raw(dataset: str) -> Path:
    """The archives of a dataset, as they were fetched."""
    return Path("data/raw") / dataset


def index(dataset: str) -> Path:
    """The index of a dataset: one line per image."""
    return Path("data/index") / f"{dataset}.jsonl"


def corrections(dataset: str) -> Path:
    """The decisions of people on suspicions of the review."""
    return Path("data/corrections") / f"{dataset}.csv"


def split(dataset: str) -> Path:
    """The file that says which image is train, val or test."""
    return Path("data/split") / f"{dataset}.json"


def fold(number: int) -> Path:
    """The head that judges a fold, counted from 1."""
    return HEAD / f"fold-{number}"


def features(dataset: str, backbone: str, cut: str) -> Path:
    """The features of every image of a dataset, as dvc.yaml names them."""
    return Path("cache/features") / dataset / f"{backbone}-{cut}.h5"
