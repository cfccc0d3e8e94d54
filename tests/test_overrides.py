"""DVC must read the values of knobs as they were."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.hydra import apply_overrides
from hydra.core.override_parser.overrides_parser import OverridesParser

from stages.overrides import argument, flatten, hydra

VALUES: list[Any] = [
    "plain", "/a b/c", "it's", "a=b,c", "pypi:f==6.6", "1", "true", "a\\b", "end\\", "x\\'y", "$(x)", "a{b}[c]", "näme",
    "", 'q"q', "~/x", "-x", "# x", "two\nlines", "map@16", "a+b", None, True, 3, 0.001, [], ["a b", "c"],
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_hydra_reads_what_was_written(value: object) -> None:
    parser = OverridesParser.create()
    assert parser.parse_override(f"key={hydra(value)}").value() == value


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_dvc_writes_what_was_written(value: object, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("key: old\n")
    apply_overrides(tmp_path / "params.yaml", [f"key={hydra(value)}"])
    assert yaml.safe_load((tmp_path / "params.yaml").read_text())["key"] == value


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_shell_reads_what_was_written(value: object) -> None:
    shell = ["bash", "-c", f"printf %s {argument('key', value).removeprefix('-S ')}"]
    assert subprocess.run(shell, capture_output=True, text=True, check=True).stdout == f"key={hydra(value)}"


def test_quotes_in_quotes_stay_readable() -> None:
    assert argument("root", "/home/me/my photos") == "-S \"root='/home/me/my photos'\""
    assert argument("lr", 0.1) == "-S lr=0.1"


def test_a_knob_in_a_block_has_a_dot() -> None:
    assert dict(flatten("a.", {"b": 1, "c": {"d": [2], "e": {}}})) == {"a.b": 1, "a.c.d": [2]}
