"""Every command that a message about data advises does what it says: it is taken from the message and followed."""

import json
import re
import shlex
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from dvc.cli import parse_args
from dvc.utils.hydra import apply_overrides

from stages import index, paths, split
from stages.datasets import index_file, source
from stages.errors import UserError
from stages.params import load

Make = Callable[..., Any]


def followed(message: str) -> Any:
    """The params after every `-S …` of a message was given to DVC."""
    arguments = shlex.split(message[message.index("-S ") :].replace("; there is", ""))
    overrides = [value.rstrip(".;") for flag, value in pairwise(arguments) if flag == "-S"]
    assert overrides
    apply_overrides("params.yaml", overrides)
    return load()


def folders(home: Path, jpeg: Make, *names: str, per_class: int = 4) -> Path:
    for position, name in enumerate(names):
        (home / name).mkdir(parents=True)
        for number in range(per_class):
            (home / name / f"{number}.jpg").write_bytes(jpeg(100 * position + number))
    return home


@pytest.mark.parametrize(
    "names",
    [
        ("train/a", "train/b", "test/a", "test/b", "more/a"),
        ("set/train/a", "set/train/b", "set/test/a", "set/test/b", "set/set/train/a"),  # not `set`, which is all
        ("train/a", "train/b", "other files/a", "other files/b"),
    ],
)
def test_folders_that_are_in_the_way_are_left_out(
    workplace: Path, params: Make, jpeg: Make, names: tuple[str, ...]
) -> None:
    home = folders(workplace / "home", jpeg, *names)
    with pytest.raises(UserError) as error:
        index.main(params(dataset="folder", root=str(home)))
    index.main(followed(str(error.value)))
    assert {row.label for row in index_file.read("folder")} == {"a", "b"}


def test_small_classes_are_left_out(workplace: Path, params: Make, jpeg: Make) -> None:
    home = folders(workplace / "home", jpeg, "a", "b")
    folders(home, lambda number: jpeg(number + 7777), *(f"rare {n}" for n in range(9)), "1", "it's", per_class=2)
    chosen = params(dataset="folder", root=str(home))
    index.main(chosen)
    with pytest.raises(
        UserError, match=r"11 of 13 classes have too few images .* each: '1' \(2\), .* and 3 others"
    ) as error:
        split.main(chosen)
    chosen = followed(str(error.value))
    index.main(chosen)
    split.main(chosen)
    assert {row.label for row in index_file.read("folder")} == {"a", "b"}


def test_a_class_that_is_a_list_is_left_out(
    workplace: Path, params: Make, jpeg: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    home = folders(workplace / "home", jpeg, "a", "b", "test")
    index.main(params(dataset="folder", root=str(home)))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "is read as a class" in line]
    index.main(followed(line))
    assert {row.label for row in index_file.read("folder")} == {"a", "b"}


def test_tables_and_annotation_files_that_are_there_are_named(workplace: Path, params: Make, jpeg: Make) -> None:
    home = folders(workplace / "home", jpeg, "a", "b")
    (home / "train.csv").write_text("path,label\n" + "".join(f"{n}/{i}.jpg,{n}\n" for n in "ab" for i in range(4)))
    with pytest.raises(UserError) as error:
        index.main(params(dataset="csv", root=str(home)))
    index.main(followed(str(error.value)))
    images = [{"id": number, "file_name": f"a/{number}.jpg"} for number in range(4)]
    boxes = [{"image_id": number, "category_id": 1, "bbox": [1, 1, 9, 9]} for number in range(4)]
    tree = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "ant"}]}
    (home / "annotations").mkdir()
    for name in ("instances_train2017.json", "instances_val2017.json"):
        (home / "annotations" / name).write_text(json.dumps(tree))
    with pytest.raises(UserError) as error:
        index.main(params(dataset="coco", root=str(home)))
    chosen = followed(str(error.value))
    assert chosen.datasets.coco.annotations.val == "annotations/instances_val2017.json"
    index.main(chosen)
    assert paths.index("coco").is_file()


def test_commands_of_dvc_are_such(workplace: Path) -> None:
    """What messages and comments of the rooms of data tell people to type, as DVC itself reads it."""
    home = Path(index.__file__).parent
    texts = [path.read_text() for path in (*(home / "datasets").glob("*.py"), home / "index.py", home / "split.py")]
    commands = {command for text in texts for command in re.findall(r"`(dvc [^`]+)`", text)}
    assert {"dvc repro", "dvc repro -f -s index"} <= commands
    stages = set(re.findall(r"^  (\w+):$", (home.parent / "dvc.yaml").read_text(), re.MULTILINE))
    for command in commands:
        arguments = parse_args(shlex.split(command)[1:])
        assert set(getattr(arguments, "targets", [])) <= stages


def test_the_advice_about_a_changed_image_depends_on_where_it_lies(workplace: Path) -> None:
    home, linked = workplace / "home", workplace / "elsewhere"
    (home / "a").mkdir(parents=True)
    linked.mkdir()
    (home / "b").symlink_to(linked)
    for path, message in (("a/1.jpg", "run `dvc repro`"), ("b/1.jpg", "a linked folder, .* `dvc repro -f -s index`")):
        (home / path).write_bytes(b"x")
        with pytest.raises(UserError, match=f"has changed since it was indexed: .*{message}"):
            source.read(home, path, "0" * 64)
    unpacked = paths.unpacked("logos") / "0"
    with pytest.raises(UserError, match=rf"remove {unpacked} and run `dvc repro`"):
        source.read(unpacked, "1.jpg", "0" * 64)
