"""The examples of docs/extending.md run: its head through the whole pipeline, its knob and its metric with it."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from pydantic import create_model

from stages import evaluate, extract, index, lr_sweep, paths, predict, report, review, split, train
from stages import params as params_module
from stages.heads import options, registry
from stages.metrics import classification, table
from tests.trained import SMALL

PAGE = Path(__file__).parents[1] / "docs/extending.md"
BLOCK = re.compile(r"^( *)```python\n\1# (stages/\S+\.py)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def code(path: str) -> str:
    """The block of the page that belongs into a file."""
    ((indent, text),) = [
        (indent, text) for indent, name, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")) if name == path
    ]
    return "\n".join(line.removeprefix(indent) for line in text.splitlines()) + "\n"


def entry(path: str, module: ModuleType) -> dict[str, Any]:
    """A line of a registry as a dictionary, read in the module that it belongs into."""
    line: dict[str, Any] = eval(f"{{{code(path)}}}", vars(module).copy())
    return line


@pytest.fixture
def extended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package as it is after the edits that the page describes."""
    namespace = vars(options).copy()
    exec(code("stages/heads/options.py"), namespace)
    monkeypatch.setattr(options, "PrototypesOptions", namespace["PrototypesOptions"], raising=False)
    monkeypatch.setattr(registry, "PrototypesOptions", namespace["PrototypesOptions"], raising=False)
    head = ModuleType("stages.heads.prototypes")
    exec(code("stages/heads/prototypes.py"), vars(head))
    monkeypatch.setitem(sys.modules, head.__name__, head)
    for name, spec in entry("stages/heads/registry.py", registry).items():
        monkeypatch.setitem(registry.HEADS, name, spec)
    name, _, annotation = code("stages/params.py").partition(":")
    field: Any = (eval(annotation.strip(), vars(params_module).copy()), ...)
    wider: Any = create_model("Params", __base__=params_module.Params, **{name.strip(): field})
    monkeypatch.setattr(params_module, "Params", wider)
    namespace = vars(classification).copy()
    exec(code("stages/metrics/classification.py"), namespace)
    scores, brier = classification.scores, namespace["brier"]
    monkeypatch.setattr(classification, "scores", lambda logits, y: scores(logits, y) | {"brier": brier(logits, y)})
    for name, metric in entry("stages/metrics/table.py", table).items():
        monkeypatch.setitem(table.METRICS, name, metric)  # type: ignore[arg-type]


@pytest.mark.usefixtures("extended")
def test_the_head_knob_and_metric_of_the_page_go_through_the_pipeline(
    workplace: Path,
    params: Callable[..., Any],
    class_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    photos = class_folder(8)
    chosen = params(**SMALL, dataset="folder", root=str(photos), head="prototypes", sharpness=0.5, refit="auto")
    for stage in (index, split, extract, review, lr_sweep, train, evaluate, report):
        stage.main(chosen)
    head = json.loads((paths.HEAD / "head.json").read_text())
    assert (paths.HEAD / "chosen").is_dir()  # it was solved again on train and val together
    assert head["head"] == "prototypes" and head["knobs"]["sharpness"] == head["params"]["sharpness"] == 0.5
    metrics = json.loads((paths.EVALUATION).read_text())
    assert 0 < metrics["brier"] < 2 and metrics["head"] == "prototypes"
    page = (paths.REPORTS / "report.html").read_text(encoding="utf-8")
    assert "Brier score" in page and "prototypes" in page
    (workplace / "params.yaml").unlink()
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["predict", "--json", str(next(photos.rglob("*.jpg")))])
    with pytest.raises(SystemExit) as ended:
        predict.run()
    assert not ended.value.code
    assert json.loads(capsys.readouterr().out)["label"] in ("ant", "bee", "cat")


def test_the_brier_score_by_hand() -> None:
    namespace = vars(classification).copy()
    exec(code("stages/metrics/classification.py"), namespace)
    logits = torch.tensor([[0.0, 0.0], [torch.log(torch.tensor(3.0)), 0.0]])
    assert namespace["brier"](logits, torch.tensor([0, 1])) == pytest.approx((0.5 + 2 * 0.75**2) / 2)


@pytest.mark.usefixtures("extended")
def test_the_knob_of_the_page_is_checked(params: Callable[..., Any]) -> None:
    with pytest.raises(params_module.UserError, match=r"`sharpness` must be greater than 0"):
        params(head="prototypes", sharpness=-1.0)
