"""The row store: only what is missing is computed, the file never tells how it came about, damage costs only time."""

import hashlib
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages import paths
from stages.features import h5
from stages.features.store import RowStore, fingerprint

PROVENANCE = {"backbone": "toy", "cut": "pooled"}
OUT = Path("cache/features/toy/toy-pooled.h5")
BAD = 3  # the image with this number cannot be decoded


def shas(numbers: Sequence[int]) -> list[str]:
    return [hashlib.sha256(b"image %d" % number).hexdigest() for number in numbers]


def rows_of(numbers: Sequence[int]) -> dict[str, h5.Array]:
    """The rows of some images: a function of the image alone."""
    features = np.array([[np.arange(4) + 10 * n] for n in numbers], "f2").reshape(len(numbers), 1, 4)
    ok = np.array([n != BAD for n in numbers], "u1")
    features[ok == 0] = 0
    return {"features/pooled": features, "ok": ok, "views": np.array([np.full((1, 2, 3), n) for n in numbers], "f4")}


def run(numbers: Sequence[int], *, step: int = 2, out: Path = OUT, order: Sequence[int] | None = None) -> list[int]:
    """An extraction in little; returns the images that it computed."""
    computed = []
    with RowStore(PROVENANCE).locked() as store:
        missing = [numbers[place] for place in store.missing(shas(numbers))]
        missing = [number for number in order if number in missing] if order else missing
        for first in range(0, len(missing), step):
            part = missing[first : first + step]
            store.add(rows_of(part), shas(part))
            computed += part
        store.assemble(shas(numbers), out)
    return computed


def parts_in_store() -> list[Path]:
    return sorted(RowStore(PROVENANCE).home.glob("*.h5"))


def check(out: Path, numbers: Sequence[int]) -> None:
    found = h5.read(out)
    assert found.sha256 == shas(numbers)
    for name, rows in rows_of(numbers).items():
        np.testing.assert_array_equal(found.members[name], rows)
    assert found.provenance == PROVENANCE


def test_missing_add_assemble(workplace: Path) -> None:
    numbers = [5, 0, 3, 7]
    with RowStore(PROVENANCE).locked() as store:
        assert store.missing(shas(numbers)) == [0, 1, 2, 3]
        store.add(rows_of([0, 7]), shas([0, 7]))
        assert store.missing(shas(numbers)) == [0, 2]
        store.add(rows_of([3, 5]), shas([3, 5]))
        assert store.missing(shas(numbers)) == []
        store.assemble(shas(numbers), OUT)
        assert store.bad(shas(numbers)) == [2]
        assert store.bad(shas([3, 0])) == [0]
    check(OUT, numbers)


def test_the_store_is_in_the_main_checkout(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(workplace / "main"))
    home = RowStore(PROVENANCE).home
    assert home == workplace / "main/cache/store/features" / fingerprint(PROVENANCE)
    assert home == paths.store() / "features" / fingerprint(dict(reversed(PROVENANCE.items())))
    assert fingerprint(PROVENANCE) != fingerprint(PROVENANCE | {"cut": "map"})


def test_rows_of_another_provenance_are_not_seen(workplace: Path) -> None:
    run([0, 1])
    with RowStore(PROVENANCE | {"cut": "map"}).locked() as store:
        assert store.missing(shas([0, 1])) == [0, 1]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    step=st.integers(1, 9),
    order=st.permutations(list(range(8))),
    first=st.lists(st.integers(0, 7), unique=True, min_size=1),
)
def test_the_bytes_do_not_depend_on_how_they_came_about(
    step: int, order: list[int], first: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DVC_ROOT", raising=False)
        patch.chdir(tmp_path_factory.mktemp("plain"))
        run(list(range(8)))
        expected = OUT.read_bytes()
        patch.chdir(tmp_path_factory.mktemp("another"))
        run(first, step=step, out=Path("first.h5"))  # a smaller set before
        computed = run(list(range(8)), step=step, order=order)
        assert sorted(computed) == sorted(set(range(8)) - set(first))
        assert OUT.read_bytes() == expected


def test_one_file_remains_and_it_is_the_out(workplace: Path) -> None:
    assert run(list(range(6))) == list(range(6))
    (part,) = parts_in_store()
    assert part.stat().st_ino == OUT.stat().st_ino
    assert OUT.stat().st_nlink == 2
    assert sorted(path.name for path in part.parent.iterdir()) == sorted([part.name, "lock"])
    check(OUT, range(6))


def test_many_rows_are_gathered_block_by_block(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.features.store.GATHER_ROWS", 3)
    run(list(range(10)), step=4)
    check(OUT, range(10))


def test_a_second_run_computes_nothing_and_gives_the_same_file(workplace: Path) -> None:
    run(list(range(6)))
    before, inode = OUT.read_bytes(), parts_in_store()[0].stat().st_ino
    OUT.unlink()  # DVC removes an out before its stage runs
    assert run(list(range(6))) == []
    assert OUT.read_bytes() == before
    assert [part.stat().st_ino for part in parts_in_store()] == [inode]
    assert OUT.stat().st_ino == inode  # one copy on the disk


def test_added_images_alone_are_computed(workplace: Path) -> None:
    run([0, 1, 2, 4])
    numbers = [5, 0, 1, 6, 2, 4]
    assert run(numbers) == [5, 6]
    check(OUT, numbers)
    (part,) = parts_in_store()
    assert part.stat().st_ino == OUT.stat().st_ino


def test_removed_images_keep_the_big_part(workplace: Path) -> None:
    run(list(range(6)))
    big = parts_in_store()
    OUT.unlink()
    assert run([4, 1]) == []
    check(OUT, [4, 1])
    assert parts_in_store() == big
    assert run(list(range(6))) == []  # and back again
    check(OUT, range(6))


def test_another_order_of_the_same_images(workplace: Path) -> None:
    run(list(range(6)))
    OUT.unlink()
    assert run([5, 4, 3, 2, 1, 0]) == []
    check(OUT, [5, 4, 3, 2, 1, 0])


def test_a_damaged_part_is_dropped_and_computed_again(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(list(range(6)))
    expected = OUT.read_bytes()
    OUT.unlink()
    with RowStore(PROVENANCE).locked() as store:
        store.add(rows_of([8, 9]), shas([8, 9]))
    big, small = sorted(parts_in_store(), key=lambda part: -len(h5.read(part).sha256))
    data = bytearray(big.read_bytes())
    data[-3] ^= 4
    big.write_bytes(data)
    assert run(list(range(6))) == list(range(6))
    assert f"{big} is damaged: dropped, its rows are computed again" in capfd.readouterr().err
    assert OUT.read_bytes() == expected
    assert small in parts_in_store()


def test_a_half_written_part_is_dropped(workplace: Path) -> None:
    run([0, 1, 2])
    (part,) = parts_in_store()
    OUT.unlink()
    part.write_bytes(part.read_bytes()[:700])
    assert run([0, 1, 2]) == [0, 1, 2]


def test_a_part_of_another_provenance_is_dropped(workplace: Path) -> None:
    home = RowStore(PROVENANCE).home
    whole = rows_of([0, 1]) | {"sha256": np.array(shas([0, 1]), dtype="S64")}
    whole["features/pooled"] += 1
    h5.write(
        home / "strange.h5",
        members=h5.layout(2, 1, {"pooled": ((4,), "f2")}),
        provenance=PROVENANCE | {"cut": "map"},
        pieces=iter([(0, whole)]),
    )
    assert run([0, 1]) == [0, 1]
    assert not (home / "strange.h5").exists()
    check(OUT, [0, 1])


def test_leftovers_of_a_killed_run_are_removed(workplace: Path) -> None:
    home = RowStore(PROVENANCE).home
    home.mkdir(parents=True)
    (home / "0123.h5.deadbeef.partial").write_bytes(b"half")
    run([0, 1])
    assert [path for path in home.iterdir() if path.suffix == ".partial"] == []


def test_no_image_is_computed_twice_for_two_places(workplace: Path) -> None:
    with RowStore(PROVENANCE).locked() as store:
        store.add(rows_of([1]), shas([1]))
        store.assemble(shas([1, 1, 1]), OUT)
    check(OUT, [1, 1, 1])


def test_the_lock_is_free_after_an_error(workplace: Path) -> None:
    def fail() -> None:
        with RowStore(PROVENANCE).locked():
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert run([0]) == [0]


def test_a_second_process_waits_for_the_first(workplace: Path, repository: Path) -> None:
    script = f"""
        import json, sys, time
        from stages.features.store import RowStore
        with RowStore({PROVENANCE!r}).locked() as store:
            print(time.monotonic(), len(store.missing({shas([0, 1])!r})))
    """
    environment: dict[str, Any] = os.environ | {"PYTHONPATH": str(repository)}
    with RowStore(PROVENANCE).locked() as store:
        other = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert other.stderr is not None
        assert other.stderr.readline() == "another run computes these features: waiting for it\n"
        store.add(rows_of([0, 1]), shas([0, 1]))
        time.sleep(0.2)
        assert other.poll() is None
        released = time.monotonic()
    out, _ = other.communicate(timeout=30)
    entered, missing = out.split()
    assert float(entered) >= released
    assert int(missing) == 0  # it sees what the first one kept
