"""`webdataset`: tar files below the flat, absolute parameter `root`, in which an image and its label share a name.

`0001.jpg` has its label in `0001.cls` (a number or a name), in `0001.json` (under `class_name`, `label` or another
usual key) or in `0001.txt` (a name). Each tar file is a shard; those called `train-…`, `val-…`, `test-…`, or in folders
of these names, are lists. The files are only read, never written.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.datasets import shards, tree
from stages.datasets.base import AnnotationFault, DatasetOptions, Item, Note, Record, UnusedFile
from stages.datasets.matching import MISSING
from stages.errors import counted

LABELS = (".cls", ".json", ".txt")  # the first that is there and has a label counts
KEYS = ("class_name", "label_name", "label", "class", "cls", "category")  # of a label in JSON
NO_LABEL = f"no label stands beside it ({', '.join(LABELS)})"


class Options(DatasetOptions):
    """The block `datasets.webdataset`."""

    has_objects = False
    shard_suffixes = (".tar", ".tar.gz", ".tgz")


def scan(folder: Path, options: Options) -> Iterator[Item]:
    """One record per image, shard by shard; an image without a label is told, not used."""
    names = shards.shard_names(folder)
    split_of, shards_of = shards.splits(names), defaultdict[str, list[str]](list)
    for name in names:
        samples = _samples(tree.read(folder / name).files)
        for key, members in samples.items():
            images = [path for path in members.values() if tree.named_as_image(path)]
            if images:
                shards_of[key].append(name)
            label, path, faults = _label(folder / name, members)
            yield from (AnnotationFault(f"{name}/{fault.path}", fault.kind, fault.detail) for fault in faults)
            for image in images:
                if label:
                    yield Record(f"{name}/{image}", label, (), split_of[name], f"{name}/{path}")
                else:
                    yield UnusedFile(f"{name}/{image}", NO_LABEL if not faults else "its label cannot be read")
            if label and not images and not path.endswith(".txt"):  # texts may be notes
                yield Record(f"{name}/{key}", label, (), split_of[name], f"{name}/{path}", problem=MISSING)
    several = [(key, homes) for key, homes in shards_of.items() if len(homes) > 1]
    if several:
        key, homes = several[0]
        yield Note(
            f"{counted(len(several), 'keys')} in several shards (such as {key} in {homes[0]} and {homes[1]}): each is "
            "an image of its own"
        )


def _samples(paths: list[str]) -> dict[str, dict[str, str]]:
    """Key -> suffix -> path: members whose names differ in the suffix alone belong together."""
    samples = defaultdict[str, dict[str, str]](dict)
    for path in paths:
        home, slash, name = path.rpartition("/")
        stem, dot, suffix = name.rpartition(".")
        if stem:
            samples[f"{home}{slash}{stem}"][f"{dot}{suffix}".lower()] = path
    return samples


def _label(folder: Path, members: dict[str, str]) -> tuple[str, str, list[AnnotationFault]]:
    """The label of a sample, the member that holds it, and what is wrong with those before it."""
    faults = list[AnnotationFault]()
    for suffix in LABELS:
        if path := members.get(suffix):
            try:
                label = _parsed((folder / path).read_bytes(), suffix)
            except (OSError, ValueError, RecursionError) as error:
                faults.append(AnnotationFault(path, "the label cannot be read", str(error)))
                continue
            if label:
                return label, path, []
    return "", "", faults


def _parsed(data: bytes, suffix: str) -> str:
    """The label that a member holds; empty if it holds none.

    Raises:
        ValueError: it cannot be read as its suffix says.
    """
    text = data.decode("utf-8-sig").strip()
    if suffix == ".json":
        return _of_json(json.loads(text))
    if "\n" in text:
        raise ValueError("expected a name or a number in one line")
    return text


def _of_json(value: Any) -> str:
    if isinstance(value, dict):
        value = next((value[key] for key in KEYS if value.get(key) is not None), "")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"expected a name or a number, found {type(value).__name__}")
    return str(value).strip()
