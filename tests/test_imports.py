"""Which modules import which, read from a small package."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stages import imports
from stages.errors import UserError

CACHED = (imports.modules, imports.imports, imports.holds_code, imports._tree)
Package = Callable[[dict[str, str]], None]
SET = "x = 1\n"  # a module that holds code


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    """Writes modules of `stages`, and makes them those that are read."""

    def write(sources: dict[str, str]) -> None:
        for name, text in {"__init__": "", **sources}.items():
            path = tmp_path / "stages" / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    monkeypatch.setattr(imports, "ROOT", tmp_path)
    for function in CACHED:
        function.cache_clear()
    yield write
    for function in CACHED:
        function.cache_clear()


def reached(module: str, **chosen: str | None) -> set[str]:
    return set(imports.chains(f"stages.{module}", {f"stages.{room}": name for room, name in chosen.items()}, ()))


def test_imports_within_functions_count_and_those_for_types_do_not(package: Package) -> None:
    importing = "if TYPE_CHECKING:\n    from stages import b\ndef f():\n    import stages.c\n"
    only_words = {"room/__init__": '"""Only words."""\n'}
    package({"a": importing, "b": SET, "c": "from stages.room import d\n", "room/d": SET, **only_words})
    assert reached("a") == {"stages.a", "stages.c", "stages.room.d"}


def test_a_package_with_code_counts(package: Package) -> None:
    package({"a": "from stages.room import d\n", "room/__init__": "import stages.b\n", "room/d": SET, "b": SET})
    assert reached("a") == {"stages.a", "stages.b", "stages.room", "stages.room.d"}


def test_a_module_that_is_chosen_at_run_time(package: Package) -> None:
    source = "from importlib import import_module\nimport_module(f'stages.room.{name}')\n"
    package({"a": source, "room/__init__": "", "room/d": SET, "room/e": SET})
    assert reached("a", room=None) == {"stages.a", "stages.room.d", "stages.room.e"}
    assert reached("a", room="e") == {"stages.a", "stages.room.e"}


def test_what_is_left_out_takes_along_what_only_it_imports(package: Package) -> None:
    package({"a": "import stages.b\n", "b": "import stages.c\n", "c": SET})
    assert set(imports.chains("stages.a", {}, {"stages.b"})) == {"stages.a"}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("from . import b\n", "imports relatively"),
        ("from importlib import import_module\nimport_module(name)\n", "may be any module"),
        ("from importlib import import_module\nimport_module(f'stages.{a}.{b}')\n", "may be any module"),
        ("def f(:\n", "stages/a.py is not valid Python"),
        ("x = '\0'\n", "stages/a.py is not valid Python"),
    ],
)
def test_an_import_that_cannot_be_told_is_an_error(package: Package, source: str, message: str) -> None:
    package({"a": source, "b": SET})
    with pytest.raises(UserError, match=message):
        reached("a")
