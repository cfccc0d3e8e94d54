from pathlib import Path

import pytest

from stages import paths
from stages.datasets import corrections
from stages.datasets.base import Box, Note, Record, UnusedFile
from stages.datasets.corrections import Correction
from stages.errors import UserError


def write(text: str) -> None:
    path = paths.corrections("folder")
    path.parent.mkdir(parents=True)
    path.write_text(text)


def test_corrections_are_read_as_they_were_written(workplace: Path) -> None:
    decided = [
        Correction("b.jpg", "label in doubt", "", "relabel:a, b"),
        Correction("a.jpg", "mirror image", "c", "keep"),
    ]
    corrections.write(paths.corrections("folder"), decided)
    assert corrections.read("folder") == sorted(decided)
    corrections.write(paths.corrections("folder"), [])
    assert not paths.corrections("folder").exists() and corrections.read("folder") == []


def test_each_decision_does_what_it_says() -> None:
    items = [Record(f"{name}.jpg", "ant") for name in "abcd"]
    decided = [
        Correction("a.jpg", "label in doubt", "", "relabel:bee"),
        Correction("b.jpg", "blank", "", "drop"),
        Correction("c.jpg", "near-duplicate", "d.jpg", "together"),
        Correction("d.jpg", "blurred", "", "keep"),
        Correction("gone.jpg", "blank", "", "drop"),
    ]
    applied = corrections.apply(items, decided, "folder")
    assert applied[0] == Record("a.jpg", "bee")
    assert isinstance(applied[1], UnusedFile) and applied[1].path == "b.jpg"
    assert applied[2:4] == items[2:4]
    assert isinstance(applied[4], Note) and "gone.jpg" in applied[4].text
    assert applied[5] == Note(f"{paths.corrections('folder')} is applied to 2 images")
    assert list(corrections.together(decided)) == [("c.jpg", "d.jpg")]
    assert corrections.apply(items, [], "folder") == items


def test_an_image_with_objects_is_not_relabelled() -> None:
    record = Record("a.jpg", None, (Box("ant", (0, 0, 2, 2)),))
    with pytest.raises(UserError, match="cannot be relabelled"):
        corrections.apply([record], [Correction("a.jpg", "label in doubt", "", "relabel:bee")], "folder")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,what\n", "lacks the columns other, decision: expected"),
        ("path,what,other,decision\na,b,,maybe\n", "line 2: `decision` must be keep, relabel:NAME, drop, together"),
        ("path,what,other,decision\na,b,,relabel:\n", "found 'relabel:'"),
        ("path,what,other,decision\na,b,,drop\na,c,,relabel:x\n", "a has two decisions, drop and relabel:x"),
    ],
)
def test_what_cannot_be_meant_is_refused(workplace: Path, text: str, said: str) -> None:
    write(text)
    with pytest.raises(UserError, match=said):
        corrections.read("folder")
