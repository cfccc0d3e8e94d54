"""The stage `code`: a list per stage, of the modules that it imports and the templates beside them."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from stages import code, paths
from stages.params import Params


@pytest.fixture
def lists(workplace: Path, params: Callable[..., Params]) -> Callable[[str], dict[str, str]]:
    """Runs the stage on a dataset; the text of each list."""

    def write(dataset: str) -> dict[str, str]:
        code.main(params(dataset=dataset))
        return {stage: paths.code(stage).read_text() for stage in code.STAGES}

    return write


def test_a_line_is_a_hash_and_a_path(lists: Callable[[str], dict[str, str]]) -> None:
    for text in lists("folder").values():
        for line in text.splitlines():
            digest, name = line.split("  ")
            assert hashlib.sha256((code.ROOT / name).read_bytes()).hexdigest() == digest


def test_the_reader_of_a_dataset_counts_for_the_index_alone(
    lists: Callable[[str], dict[str, str]],
) -> None:
    folder, voc = lists("folder"), lists("voc")
    assert {stage for stage in code.STAGES if folder[stage] != voc[stage]} == {"index"}
    assert "stages/datasets/voc.py" in voc["index"] and "stages/datasets/voc.py" not in folder["index"]


def test_templates_count_where_their_room_is_imported() -> None:
    assert Path("stages/reporting/templates/page.html.j2") in code.files_of("report", "folder")
    assert Path("stages/comparing/templates/compare.html.j2") not in code.files_of("report", "folder")


def test_every_head_counts_for_training() -> None:
    heads = {path for path in code.files_of("train", "folder") if path.parent.name == "heads"}
    assert {Path("stages/heads/lda.py"), Path("stages/heads/multiscale.py")} <= heads
