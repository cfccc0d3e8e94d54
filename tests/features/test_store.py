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

from stages import files, paths
from stages.features import h5
from stages.features.store import RowStore, fingerprint

PROVENANCE = {"backbone": "toy", "cut": "pooled"}
OUT = Path("cache/features/toy/toy-pooled.h5")
BAD = 3  # the image with this number cannot be decoded
ONE = ("evaluation",)
DRAWN = (*ONE, *(f"drawn({number})" for number in range(1, 6)))
TURNED = (*ONE, *(f"turned({number})" for number in range(1, 3)))
KNOWN = (*DRAWN, *TURNED[1:])
Part = tuple[tuple[str, ...], list[int]]  # views, and the images they were computed of


def shas(numbers: Sequence[int]) -> list[str]:
    return [hashlib.sha256(b"image %d" % number).hexdigest() for number in numbers]


def rows_of(numbers: Sequence[int], views: Sequence[str] = ONE) -> dict[str, h5.Array]:
    """The rows of some images: a function of the image and the view alone; exact in float16."""
    drawn = [200 * KNOWN.index(view) for view in views]
    features = np.array([[np.arange(4) + 10 * n + d for d in drawn] for n in numbers], "f2")
    affine = np.array([[np.full((2, 3), n + d) for d in drawn] for n in numbers], "f4")
    ok = np.array([n != BAD for n in numbers], "u1")
    features[ok == 0] = 0
    return {"features/pooled": features, "ok": ok, "views": affine}


def run(
    numbers: Sequence[int],
    views: Sequence[str] = ONE,
    *,
    step: int = 2,
    out: Path = OUT,
    order: Sequence[int] | None = None,
    log: list[Part] | None = None,
) -> list[int]:
    """An extraction in little; returns the images that it computed, and in `log` with the views."""
    computed = []
    with RowStore(PROVENANCE).locked() as store:
        for lacking, places in store.missing(shas(numbers), views).items():
            missing = [numbers[part_path] for part_path in places]
            missing = [number for number in order if number in missing] if order else missing
            if log is not None:
                log.append((lacking, missing))
            for first in range(0, len(missing), step):
                part = missing[first : first + step]
                store.add(rows_of(part, lacking), shas(part), lacking)
                computed += part
        store.assemble(shas(numbers), views, out)
    return computed


def parts_in_store() -> list[Path]:
    return sorted(RowStore(PROVENANCE).home.glob("*.h5"))


def check(out: Path, numbers: Sequence[int], views: Sequence[str] = ONE) -> None:
    found = h5.read(out)
    assert found.sha256 == shas(numbers)
    for name, rows in rows_of(numbers, views).items():
        np.testing.assert_array_equal(found.members[name], rows)
    assert found.provenance == PROVENANCE | {"views": list(views)}


def test_missing_add_assemble(workplace: Path) -> None:
    numbers = [5, 0, 3, 7]
    with RowStore(PROVENANCE).locked() as store:
        assert store.missing(shas(numbers), ONE) == {ONE: [0, 1, 2, 3]}
        store.add(rows_of([0, 7]), shas([0, 7]), ONE)
        assert store.missing(shas(numbers), ONE) == {ONE: [0, 2]}
        store.add(rows_of([3, 5]), shas([3, 5]), ONE)
        assert store.missing(shas(numbers), ONE) == {}
        store.assemble(shas(numbers), ONE, OUT)
        assert store.bad(shas(numbers), ONE[0]) == [2]
        assert store.bad(shas([3, 0]), ONE[0]) == [0]
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
        assert store.missing(shas([0, 1]), ONE) == {ONE: [0, 1]}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    step=st.integers(1, 9),
    order=st.permutations(list(range(8))),
    first=st.lists(st.integers(0, 7), unique=True, min_size=1),
    views=st.lists(st.sampled_from(KNOWN), unique=True, min_size=1).map(tuple),
    before=st.lists(st.sampled_from(KNOWN), unique=True, min_size=1).map(tuple),
)
def test_the_bytes_do_not_depend_on_how_they_came_about(
    step: int,
    order: list[int],
    first: list[int],
    views: tuple[str, ...],
    before: tuple[str, ...],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DVC_ROOT", raising=False)
        patch.chdir(tmp_path_factory.mktemp("plain"))
        run(list(range(8)), views)
        expected = OUT.read_bytes()
        check(OUT, range(8), views)
        patch.chdir(tmp_path_factory.mktemp("another"))
        run(first, before, step=step, out=Path("first.h5"))  # a smaller set and other views before
        log: list[Part] = []
        run(list(range(8)), views, step=step, order=order, log=log)
        pairs = [(number, view) for names, numbers in log for number in numbers for view in names]
        assert len(pairs) == len(set(pairs))
        every, had = ({(n, v) for n in ns for v in vs} for ns, vs in ((range(8), views), (first, before)))
        assert set(pairs) == every - had
        assert OUT.read_bytes() == expected
        assert run(first, before, out=Path("second.h5")) == []  # nothing that was there has gone
        assert Path("second.h5").read_bytes() == Path("first.h5").read_bytes()


def test_one_file_remains_and_it_is_the_out(workplace: Path) -> None:
    assert run(list(range(6))) == list(range(6))
    (part,) = parts_in_store()
    assert part.stat().st_ino == OUT.stat().st_ino
    assert OUT.stat().st_nlink == 2
    assert sorted(path.name for path in part.parent.iterdir()) == sorted([part.name, "lock"])
    check(OUT, range(6))


def test_many_rows_are_gathered_block_by_block(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.features.store.GATHER_BYTES", 300)
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
        store.add(rows_of([8, 9]), shas([8, 9]), ONE)
    big, small = sorted(parts_in_store(), key=lambda part: -len(h5.read(part).sha256))
    data = bytearray(big.read_bytes())
    data[-3] ^= 4
    big.write_bytes(data)
    assert run(list(range(6))) == list(range(6))
    assert f"{big} is damaged. Dropped: its rows are computed again." in capfd.readouterr().err
    assert OUT.read_bytes() == expected
    assert small in parts_in_store()


def test_a_half_written_part_is_dropped(workplace: Path) -> None:
    run([0, 1, 2])
    (part,) = parts_in_store()
    OUT.unlink()
    part.write_bytes(part.read_bytes()[:700])
    assert run([0, 1, 2]) == [0, 1, 2]


@pytest.mark.parametrize("strange", [{"cut": "map", "views": list(ONE)}, {}, {"views": list(ONE), "more": 1}])
def test_a_part_of_another_provenance_is_dropped(workplace: Path, strange: dict[str, Any]) -> None:
    home = RowStore(PROVENANCE).home
    whole = rows_of([0, 1]) | {"sha256": np.array(shas([0, 1]), dtype="S64")}
    whole["features/pooled"] += 1
    h5.write(
        home / "strange.h5",
        members=h5.layout(2, 1, {"pooled": ((4,), "f2")}),
        provenance=PROVENANCE | strange,
        pieces=iter([(0, whole)]),
    )
    assert run([0, 1]) == [0, 1]
    assert not (home / "strange.h5").exists()
    check(OUT, [0, 1])


def test_parts_under_each_others_names_are_dropped(workplace: Path) -> None:
    with RowStore(PROVENANCE).locked() as store:
        store.add(rows_of([0, 1]), shas([0, 1]), ONE)
        store.add(rows_of([2, 4]), shas([2, 4]), ONE)
    one, other = parts_in_store()
    aside = one.rename(one.with_suffix(".aside"))
    other.rename(one)
    aside.rename(other)
    assert run([0, 1]) == [0, 1]
    check(OUT, [0, 1])


def test_a_run_killed_before_the_small_parts_went_leaves_them_to_the_next(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(files, "discard", lambda path: None)
        run(list(range(6)))
    assert len(parts_in_store()) == 4
    assert run(list(range(6))) == []
    assert len(parts_in_store()) == 1
    assert OUT.stat().st_nlink == 2


def test_leftovers_of_a_killed_run_are_removed(workplace: Path) -> None:
    home = RowStore(PROVENANCE).home
    home.mkdir(parents=True)
    (home / "0123.h5.deadbeef.partial").write_bytes(b"half")
    run([0, 1])
    assert [path for path in home.iterdir() if path.suffix == ".partial"] == []
    left = OUT.with_name(f"{OUT.name}.01234567.partial")
    left.write_bytes(b"half")
    run([0, 1])
    assert not left.exists()


def test_more_views_are_added_to_those_that_are_there(workplace: Path) -> None:
    numbers, log = [0, 1, 2, 3, 4], list[Part]()
    run(numbers, DRAWN[:4])
    assert run([*numbers, 5], DRAWN, log=log) == [*numbers, 5]
    assert log == [(DRAWN[4:], numbers), (DRAWN, [5])]
    check(OUT, [*numbers, 5], DRAWN)
    (part,) = parts_in_store()  # what it contains has gone
    assert part.stat().st_ino == OUT.stat().st_ino


def test_fewer_views_keep_the_big_part(workplace: Path) -> None:
    numbers = list(range(6))
    run(numbers, DRAWN[:3])
    big, before = parts_in_store(), OUT.read_bytes()
    OUT.unlink()
    for views in (ONE, DRAWN[2:3], (DRAWN[2], DRAWN[0])):
        assert run(numbers, views) == []
        check(OUT, numbers, views)
        assert parts_in_store() == big
    assert run(numbers, DRAWN[:3]) == []
    assert OUT.read_bytes() == before


def test_views_of_two_kinds_stay_side_by_side(workplace: Path) -> None:
    numbers, log = list(range(6)), list[Part]()
    run(numbers, DRAWN[:3])
    before = OUT.read_bytes()
    run(numbers, TURNED, log=log)
    assert log == [(TURNED[1:], numbers)]
    check(OUT, numbers, TURNED)
    assert run(numbers, DRAWN[:3]) == []
    assert OUT.read_bytes() == before
    both = (*DRAWN[:3], *TURNED[1:])
    assert run(numbers, both) == []
    check(OUT, numbers, both)
    assert len(parts_in_store()) == 1


def test_many_rows_of_many_views_are_gathered_block_by_block(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.features.store.GATHER_BYTES", 300)
    run([7, 2, 5], DRAWN[:2], step=1)
    run([2, 9], TURNED[:2], step=1)
    mixed = (TURNED[1], DRAWN[1], DRAWN[0])
    run(list(range(10)), mixed, step=4)
    check(OUT, range(10), mixed)


def test_bad_images_are_bad_in_every_view(workplace: Path) -> None:
    run([BAD, 1], DRAWN[:3])
    with RowStore(PROVENANCE).locked() as store:
        assert [store.bad(shas([1, BAD]), view) for view in DRAWN[:3]] == [[1]] * 3


def test_missing_tells_which_views_each_image_lacks(workplace: Path) -> None:
    with RowStore(PROVENANCE).locked() as store:
        store.add(rows_of([0, 1], DRAWN[:2]), shas([0, 1]), DRAWN[:2])
        assert store.missing(shas([0, 1, 2]), DRAWN[:3]) == {(DRAWN[2],): [0, 1], DRAWN[:3]: [2]}
        assert store.missing(shas([1, 2]), (DRAWN[1],)) == {(DRAWN[1],): [1]}


def test_no_image_is_computed_twice_for_two_places(workplace: Path) -> None:
    with RowStore(PROVENANCE).locked() as store:
        store.add(rows_of([1]), shas([1]), ONE)
        store.assemble(shas([1, 1, 1]), ONE, OUT)
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
            print(time.monotonic(), len(store.missing({shas([0, 1])!r}, {ONE!r})))
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
        store.add(rows_of([0, 1]), shas([0, 1]), ONE)
        time.sleep(0.2)
        assert other.poll() is None
        released = time.monotonic()
    out, _ = other.communicate(timeout=30)
    entered, missing = out.split()
    assert float(entered) >= released
    assert int(missing) == 0  # it sees what the first one kept


# --- images, padded to the largest of those asked for


def size_of(number: int) -> tuple[int, int]:
    return (0, 0) if number == BAD else (2 + number % 4, 3 + 7 * number % 5)


def images_of(numbers: Sequence[int]) -> dict[str, h5.Array]:
    """Images of many sizes, padded as far as these need."""
    sizes = np.array([size_of(number) for number in numbers], "i4")
    kept = np.zeros((len(numbers), 1, 3, *h5.padded(sizes)), "u1")
    for part_path, number in enumerate(numbers):
        height, width = size_of(number)
        kept[part_path, 0, :, :height, :width] = number + np.arange(1, width + 1)
    ok = np.array([number != BAD for number in numbers], "u1")
    affine = np.array([[np.full((2, 3), number)] for number in numbers], "f4")
    return {"features/input": kept, "ok": ok, "views": affine, "sizes": sizes}


def run_images(numbers: Sequence[int], step: int, out: Path = OUT) -> int:
    with RowStore({"cut": "input"}).locked() as store:
        missing = [
            number
            for places in store.missing(shas(numbers), ONE).values()
            for number in map(list(numbers).__getitem__, places)
        ]
        for first in range(0, len(missing), step):
            part = missing[first : first + step]
            store.add(images_of(part), shas(part), ONE)
        store.assemble(shas(numbers), ONE, out)
    return len(missing)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    first=st.lists(st.integers(0, 9), unique=True, min_size=1),
    then=st.lists(st.integers(0, 9), unique=True, min_size=1),
    step=st.integers(1, 5),
)
def test_padding_depends_on_the_images_asked_for_alone(
    first: list[int], then: list[int], step: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DVC_ROOT", raising=False)
        patch.setattr("stages.features.store.GATHER_BYTES", 500)
        patch.chdir(tmp_path_factory.mktemp("plain"))
        run_images(then, 10)
        expected = OUT.read_bytes()
        found = h5.read(OUT)
        for name, rows in images_of(then).items():
            np.testing.assert_array_equal(found.members[name], rows)
        patch.chdir(tmp_path_factory.mktemp("another"))
        run_images(first, step, Path("first.h5"))
        assert run_images(then, step) == len(set(then) - set(first))
        assert OUT.read_bytes() == expected


# --- several layers


def test_all_layers_of_a_row_stay_together(workplace: Path) -> None:
    def levels(numbers: Sequence[int]) -> dict[str, h5.Array]:
        rows = rows_of(numbers)
        fine = np.stack([np.full((1, 2, 4, 4), number, "f2") for number in numbers])
        return rows | {"features/pyramid@8": fine, "features/pyramid@16": fine[..., ::2, ::2]}

    with RowStore(PROVENANCE).locked() as store:
        for part in ([5, 1], [0], [7, 2]):
            store.add(levels(part), shas(part), ONE)
        store.assemble(shas([2, 0, 5]), ONE, OUT)
    found = h5.read(OUT)
    assert found.layers["pyramid@16"].shape == (3, 1, 2, 2, 2)
    for name, rows in levels([2, 0, 5]).items():
        np.testing.assert_array_equal(found.members[name], rows)
