"""`python -m stages.store`: the entries, what is damaged, what nothing refers to."""

import os
from pathlib import Path

import pytest

from stages import files, paths, store
from tests import defaults
from tests.faults.test_corruption import HERE, OTHER, add

WEEKS = 30 * 24 * 3600


@pytest.fixture
def filled(workplace: Path, repository: Path) -> dict[str, Path]:
    """A store with features that an out has, features that none has, a training run and a leftover; all of them old."""
    (workplace / "params.yaml").write_text(defaults.text())
    (workplace / "data/none").mkdir(parents=True)
    found = {"used": add(HERE, 0), "unused": add(OTHER, 0), "training": paths.store() / "train" / "0.pt"}
    found["leftover"] = paths.store() / "train" / f"0.pt.01234567{files.TEMPORARY}"
    for name in ("training", "leftover"):
        files.write_bytes(found[name], b"state")
    files.link(found["used"], workplace / "cache/features/toy/toy.h5")
    for path in (*paths.store().rglob("*"), paths.store()):
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - WEEKS))
    return found


def test_ls_names_every_entry(filled: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    store.ls()
    said = capsys.readouterr().out
    assert "toy pooled None, 1 part" in said and "joy pooled None, 1 part" in said
    assert "training" in said and "leftover" in said and "hard links" in said


def test_gc_drops_what_nothing_refers_to(filled: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    store.gc(days=7, dry=True)
    assert all(path.exists() for path in filled.values())
    assert "would remove features" in capsys.readouterr().out
    store.gc(days=7, dry=False)
    assert {name for name, path in filled.items() if path.exists()} == {"used"}


def test_gc_keeps_what_is_new(filled: dict[str, Path]) -> None:
    store.gc(days=60, dry=False)
    assert {name for name, path in filled.items() if path.exists()} == {"used", "unused", "training"}


def test_gc_leaves_features_that_a_run_holds(filled: dict[str, Path]) -> None:
    with files.locked(filled["unused"].parent, None):
        entry = store.Entry("features", filled["unused"].parent, "")
        assert not store.drop(entry)
    assert filled["unused"].exists()
    assert store.drop(entry) and not entry.path.exists()


def test_verify_says_what_to_do(filled: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    filled["training"].unlink()
    assert store.verify(repair=False)
    filled["unused"].write_bytes(b"half")
    assert not store.verify(repair=False)
    assert f"{filled['unused']} is damaged." in capsys.readouterr().out
    assert store.verify(repair=True)
    assert store.verify(repair=False)


def test_a_forecast_knows_the_last_speed_of_the_same_network(workplace: Path) -> None:
    from stages.features import forecast

    files.write_bytes(paths.TIMINGS / "extract.json", b'{"of": {"backbone": "a", "cut": "pooled"}, "images/s": 268.0}')
    assert forecast.last_speed("a", "pooled") == 268 and forecast.last_speed("b", "pooled") is None
    said = forecast.describe({"pooled": ((1280,), "f2")}, images=9144, views=1, missing=9144, speed=268)
    assert said == "9,144 images × 1,280 × float16 = 23.4 MB, about 34 s at 268 images/s; 9,144 rows missing"


def test_images_that_were_unpacked_by_half_are_leftovers(filled: dict[str, Path]) -> None:
    half = paths.unpacked("caltech101") / "0123456789abcdef" / "caltech-101.zip.01234567.unpacking"
    (half / "ant").mkdir(parents=True)
    for path in (half / "ant", half):
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - WEEKS))
    assert half in [entry.path for entry in store.unreferenced(7)]
