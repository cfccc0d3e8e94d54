"""Damage of every kind is found, named and mended, and whole copies elsewhere stay as they were."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dvc.repo import Repo

from stages import paths
from stages.errors import UserError
from stages.features import audit, h5
from stages.features.store import RowStore

HERE, STALE, OTHER = ({"backbone": name, "cut": "pooled", "pipeline": version} for name, version in
                      (("toy", 2), ("toy", 1), ("joy", 2)))  # fmt: skip
ONE = ("evaluation",)
OUT = Path("cache/features/toy/toy.h5")
FLIPS, CUTS = 300, 20


def shas(first: int, count: int = 4) -> list[str]:
    return [hashlib.sha256(b"%d" % number).hexdigest() for number in range(first, first + count)]


def add(provenance: dict[str, object], first: int) -> Path:
    """A part of four rows in the store."""
    store = RowStore(provenance)
    before = set(store.home.glob("*.h5"))
    with store.locked():
        rows = np.arange(first, first + 4, dtype="f2").reshape(4, 1, 1).repeat(6, 2)
        whole = {"features/pooled": rows, "ok": np.ones(4, "u1"), "views": np.zeros((4, 1, 2, 3), "f4")}
        store.add(whole, shas(first), ONE)
    (path,) = set(store.home.glob("*.h5")) - before
    return path


def cached(path: Path, home: Path) -> Path:
    """A copy of a file, or a hard link to it, in DVC's cache, as DVC names it."""
    digest = hashlib.md5(path.read_bytes()).hexdigest()
    copy = home / digest[:2] / digest[2:]
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, copy)
    return copy


@pytest.fixture
def dvc(workplace: Path) -> Path:
    """A checkout with DVC; the folder of its objects."""
    return Path(Repo.init(str(workplace), no_scm=True).cache.local.path)


def mended(path: Path, damage: Callable[[], None], copy: Path) -> None:
    """Damages a part; it must be found alone, be restored from the copy, and the copy must stay as it was."""
    good, before = path.read_bytes(), (copy.read_bytes(), copy.stat().st_ino)
    damage()
    found = audit.damaged()
    assert list(found) == [path], found
    assert path.name in found[path]
    assert audit.repair(found) == [path]
    assert path.read_bytes() == good
    assert (copy.read_bytes(), copy.stat().st_ino) == before
    path.unlink()  # the next damage must not reach the copy
    shutil.copy(copy, path)


def test_flipped_bits_and_truncations_are_found_and_mended(
    workplace: Path, dvc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = add(HERE, 0)
    copy, size, random = cached(path, dvc), path.stat().st_size, np.random.default_rng(0)
    monkeypatch.setattr(audit, "_dvc_files", lambda: [copy])  # asking DVC takes longer than all else here

    def flip(place: int, bit: int) -> None:
        data = bytearray(path.read_bytes())
        data[place] ^= 1 << bit
        path.write_bytes(data)

    for place, bit in zip(random.integers(0, size, FLIPS).tolist(), random.integers(0, 8, FLIPS).tolist(), strict=True):
        mended(path, lambda place=place, bit=bit: flip(place, bit), copy)  # type: ignore[misc]

    def cut(length: int) -> None:
        path.write_bytes(path.read_bytes()[:length])

    for length in [0, *random.integers(0, size, CUTS - 1).tolist()]:
        mended(path, lambda length=length: cut(length), copy)  # type: ignore[misc]
    print(f"{FLIPS} flipped bits and {CUTS} truncations: all found, named and mended")


def test_two_parts_under_each_others_names_go_back(workplace: Path, dvc: Path) -> None:
    one, other = add(HERE, 0), add(HERE, 10)
    good = one.read_bytes(), other.read_bytes()
    one.write_bytes(good[1])
    other.write_bytes(good[0])
    found = audit.damaged()
    assert set(found) == {one, other} and all("other rows than its name" in reason for reason in found.values())
    assert audit.repair(found) == sorted([one, other])
    assert (one.read_bytes(), other.read_bytes()) == good
    assert not audit.damaged()
    assert sorted(path.name for path in one.parent.iterdir()) == sorted([one.name, other.name, "lock"])


@pytest.mark.parametrize("strange", [STALE, OTHER], ids=["stale", "of another model"])
def test_a_part_of_another_provenance_goes_where_it_belongs(
    workplace: Path, dvc: Path, strange: dict[str, object]
) -> None:
    here, there = add(HERE, 0), add(strange, 0)
    good = here.read_bytes(), there.read_bytes()
    there.rename(here)
    found = audit.damaged()
    assert list(found) == [here] and "another provenance" in found[here]
    assert audit.repair(found) == []
    assert not here.exists() and there.read_bytes() == good[1]
    assert not audit.damaged()


def test_what_dvc_shares_with_a_damaged_part_goes_too(workplace: Path, dvc: Path) -> None:
    path = add(HERE, 0)
    OUT.parent.mkdir(parents=True)
    copy = cached(path, dvc)
    copy.unlink()
    for name in (OUT, copy):
        name.hardlink_to(path)
    data = bytearray(path.read_bytes())
    data[0] ^= 1  # DVC's copy is not even known as a feature file any more
    path.write_bytes(data)
    found = audit.damaged()
    assert set(found) == {path, OUT.resolve(), copy}
    assert audit.repair(found) == []
    assert not path.exists() and not OUT.exists() and not copy.exists()


def test_a_damaged_out_is_removed_and_the_part_stays(workplace: Path, dvc: Path) -> None:
    path = add(HERE, 0)
    OUT.parent.mkdir(parents=True)
    OUT.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(h5.Damaged, match="verify --repair"):
        h5.read(OUT)
    found = audit.damaged()
    assert list(found) == [OUT.resolve()]
    audit.repair(found)
    assert not OUT.exists() and path.exists()


def test_damaged_downloads_and_training_runs_are_found(workplace: Path, dvc: Path) -> None:
    import torch

    content = b"weights"
    kept = paths.store() / "downloads" / f"sha256-{hashlib.sha256(content).hexdigest()}" / "w.whl"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(content)
    run = paths.store() / "train" / "0123456789abcdef.pt"
    run.parent.mkdir()
    torch.save({"x": torch.arange(1000)}, run)
    assert not audit.damaged()
    kept.write_bytes(b"weight5")
    data = bytearray(run.read_bytes())
    data[len(data) // 2] ^= 1
    run.write_bytes(data)
    assert set(audit.damaged()) == {kept, run}


def test_a_disk_that_fails_is_not_damage(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = add(HERE, 0)

    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("os.pread", fail)
        with pytest.raises(UserError, match="cannot be read: Input/output error"):  # noqa: SIM117
            with RowStore(HERE).locked():
                pass
    assert path.exists()
