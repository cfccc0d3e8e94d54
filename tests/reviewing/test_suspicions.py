from pathlib import Path

import pytest

from stages.errors import UserError
from stages.reviewing import suspicions
from stages.reviewing.suspicions import Suspicion

COPY = Suspicion("near-duplicate", 'a, "b".jpg', "test", "ant", "", 0.9912, other="c\n.jpg", other_split="train")


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    table = [COPY, Suspicion("label in doubt", "d.jpg", "val", "ant", "bee", 0.5, decision="relabel:bee")]
    suspicions.write(tmp_path / "review.csv", table)
    assert suspicions.read(tmp_path / "review.csv") == [COPY._replace(score=0.991), table[1]]


@pytest.mark.parametrize(
    ("changed", "leak"),
    [({}, True), ({"other_split": "test"}, False), ({"other_split": ""}, False), ({"what": "label in doubt"}, False)],
)
def test_a_leak_is_a_copy_in_another_split(changed: dict[str, str], leak: bool) -> None:
    assert COPY._replace(**changed).leak is leak


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ("path,what\na,b\n", "lacks the columns split"),
        (",".join(Suspicion._fields) + "\nlabel in doubt,a,test,b,c,high,,,\n", "line 2: `score` must be a number"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "review.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=said):
        suspicions.read(path)
