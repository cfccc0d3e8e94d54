"""Splits: exact counts in every class, stable when images are added, and the dataset's own lists where it has any."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages import paths
from stages.datasets import splits
from stages.datasets.base import Box
from stages.datasets.index_file import IndexRow
from stages.datasets.splits import Split
from stages.errors import UserError


def row(label: str, number: int, split: str | None = None) -> IndexRow:
    name = f"{label}/{number}.jpg"
    return IndexRow(name, hashlib.sha256(name.encode()).hexdigest(), 4, 4, label, (), split)


def rows(split: str | None = None, **counts: int) -> list[IndexRow]:
    return [row(label, number, split) for label, count in counts.items() for number in range(count)]


def choices(**changes: Any) -> Split:
    plain = {
        "protocol": "auto",
        "train": 0.5,
        "val": 0.25,
        "test": 0.25,
        "val_fraction": 0.2,
        "folds": 5,
        "seed": 0,
        "groups": "",
    }
    return Split(**(plain | changes))


def counts(listed: Sequence[IndexRow], images_of: splits.SplitImages) -> dict[str, Counter[str]]:
    label = {row.sha256: row.label for row in listed}
    return {part: Counter(label[image] for image in images) for part, images in images_of.items()}


def is_partition(listed: Sequence[IndexRow], images_of: splits.SplitImages) -> bool:
    return sorted(image for images in images_of.values() for image in images) == sorted(row.sha256 for row in listed)


def test_fractions_are_exact_in_every_class() -> None:
    listed = rows(ant=40, bee=8, cat=100)
    images_of, source = splits.draw(listed, choices())
    assert is_partition(listed, images_of)
    assert counts(listed, images_of) == {
        "train": {"ant": 20, "bee": 4, "cat": 50},
        "val": {"ant": 10, "bee": 2, "cat": 25},
        "test": {"ant": 10, "bee": 2, "cat": 25},
    }
    assert source == "50% / 25% / 25% of every class, at least one image each, seed 0"


@settings(max_examples=100)
@given(sizes=st.lists(st.integers(3, 60), min_size=1, max_size=4), seed=st.integers(0, 9),
       shares=st.sampled_from([(0.5, 0.25, 0.25), (0.8, 0.1, 0.1), (0.1, 0.45, 0.45), (0.34, 0.33, 0.33)]))  # fmt: skip
def test_no_class_is_without_a_part(sizes: list[int], seed: int, shares: tuple[float, float, float]) -> None:
    listed = rows(**{f"class{number}": size for number, size in enumerate(sizes)})
    images_of, _ = splits.draw(listed, choices(train=shares[0], val=shares[1], test=shares[2], seed=seed))
    assert is_partition(listed, images_of)
    numbers = counts(listed, images_of)
    for number, size in enumerate(sizes):
        label = f"class{number}"
        assert all(numbers[part][label] >= 1 for part in splits.SPLITS)
        if size >= 10:
            assert abs(numbers["test"][label] - shares[2] * size) <= 1
            assert abs(numbers["val"][label] - shares[1] * size) <= 1
    order = {row.sha256: position for position, row in enumerate(listed)}
    for images in images_of.values():
        assert images == sorted(images, key=order.__getitem__)  # in index order


@settings(max_examples=100)
@given(sizes=st.lists(st.integers(3, 60), min_size=1, max_size=6), count=st.integers(3, 10), seed=st.integers(0, 9))
def test_folds_have_their_share_of_every_class_and_of_all(sizes: list[int], count: int, seed: int) -> None:
    listed = rows(**{f"class{number}": size for number, size in enumerate(sizes)})
    folds, source = splits.draw_folds(listed, choices(folds=count, seed=seed))
    assert len(folds) == count and source.startswith(f"{count} folds of every class, seed {seed}: ")
    named = dict(zip(map(str, range(count)), folds, strict=True))
    assert is_partition(listed, named)
    assert max(map(len, folds)) - min(map(len, folds)) <= 1
    numbers = counts(listed, named)
    for number, size in enumerate(sizes):
        of_class = [numbers[fold][f"class{number}"] for fold in named]
        assert max(of_class) - min(of_class) <= 1 and sum(of_class) == size
    for turn in splits.rotated(folds):
        assert set(counts(listed, turn)["train"]) == {row.label for row in listed}  # nothing is left to guess
        assert is_partition(listed, turn)


def test_added_images_move_few_others_to_another_fold() -> None:
    before, after = rows(ant=100, bee=50), rows(ant=104, bee=50)
    first, second = (splits.draw_folds(listed, choices())[0] for listed in (before, after))
    fold_after = {image: number for number, images in enumerate(second) for image in images}
    moved = sum(fold_after[image] != number for number, images in enumerate(first) for image in images)
    assert moved <= 30  # of 150


def test_a_class_that_is_too_small_for_folds_is_named() -> None:
    with pytest.raises(UserError, match=r"too few images for train, val and test, which need one each: 'bee' \(2\)"):
        splits.draw_folds(rows(ant=9, bee=2), choices())


def test_folds_are_written_beside_the_splits_of_the_head_that_is_kept(workplace: Path) -> None:
    folds, source = splits.draw_folds(rows(ant=9, bee=6), choices(folds=3))
    splits.write(paths.split("toy"), splits.kept(folds), source=source, choices=choices(folds=3), folds=folds)
    assert splits.read_folds("toy") == folds
    assert splits.read("toy") == {"train": [*folds[1], *folds[2]], "val": folds[0], "test": []}
    assert splits.read_parts("toy") == {"fold 1": folds[0], "fold 2": folds[1], "fold 3": folds[2]}
    assert json.loads(paths.split("toy").read_text())["params"]["folds"] == 3
    images_of, source = splits.draw(rows(ant=9, bee=6), choices())
    splits.write(paths.split("toy"), images_of, source=source, choices=choices())
    assert splits.read_folds("toy") == [] and splits.read_parts("toy") == images_of
    assert "folds" not in json.loads(paths.split("toy").read_text())["params"]  # as before there were any


def test_the_order_of_the_index_is_nothing() -> None:
    listed = rows(ant=20, bee=20)
    first, _ = splits.draw(listed, choices())
    second, _ = splits.draw(listed[::-1], choices())
    assert {part: set(images) for part, images in first.items()} == {
        part: set(images) for part, images in second.items()
    }


def test_the_seed_changes_the_split() -> None:
    listed = rows(ant=40)
    assert splits.draw(listed, choices()) == splits.draw(listed, choices())
    images_of = {tuple(splits.draw(listed, choices(seed=seed))[0]["test"]) for seed in range(5)}
    assert len(images_of) == 5


def test_added_images_move_few_others() -> None:
    before, after = rows(ant=100, bee=50), rows(ant=104, bee=50)
    first, second = (splits.draw(listed, choices())[0] for listed in (before, after))
    part_before = {image: part for part, images in first.items() for image in images}
    part_after = {image: part for part, images in second.items() for image in images}
    moved = [image for image in part_before if part_after[image] != part_before[image]]
    assert len(moved) <= 4
    bees = {row.sha256 for row in before if row.label == "bee"}
    assert not bees & set(moved)  # another class is not touched at all


@pytest.mark.parametrize("size", [1, 2])
def test_a_class_that_is_too_small_is_named(size: int) -> None:
    with pytest.raises(
        UserError, match=rf"1 of 2 classes .* for train, test and val, which need one each: 'bee' \({size}\)"
    ):
        splits.draw(rows(ant=9, bee=size), choices())
    assert counts(rows(bee=3), splits.draw(rows(bee=3), choices())[0]) == {part: {"bee": 1} for part in splits.SPLITS}


def official(*names: str) -> list[IndexRow]:
    listed = []
    for position, name in enumerate(names):
        listed += [row(label, 100 * position + number, name) for label in ("ant", "bee") for number in range(10)]
    return listed


def labels_of(listed: Sequence[IndexRow], split: str) -> set[str]:
    return {row.sha256 for row in listed if row.split == split}


@pytest.mark.parametrize("protocol", ["auto", "published"])
def test_official_lists_are_kept(protocol: str) -> None:
    listed = official("train", "val", "test")
    images_of, source = splits.draw(listed, choices(protocol=protocol))
    for part in splits.SPLITS:
        assert set(images_of[part]) == labels_of(listed, part)
    assert source == "the dataset's own lists"


def test_fractions_pass_over_official_lists() -> None:
    listed = official("train", "val", "test")
    images_of, source = splits.draw(listed, choices(protocol="fractions"))
    assert counts(listed, images_of)["test"] == {"ant": 8, "bee": 8}  # of 30
    assert "50%" in source and "lists" not in source


@pytest.mark.parametrize("protocol", ["auto", "published"])
def test_a_missing_val_is_cut_from_train(protocol: str) -> None:
    listed = official("train", "test")
    images_of, source = splits.draw(listed, choices(protocol=protocol, val_fraction=0.3))
    assert set(images_of["test"]) == labels_of(listed, "test")
    assert set(images_of["train"]) | set(images_of["val"]) == labels_of(listed, "train")
    assert counts(listed, images_of)["val"] == {"ant": 3, "bee": 3}
    assert counts(listed, images_of)["train"] == {"ant": 7, "bee": 7}
    assert (
        source == "the dataset's own lists; val is cut from train, 30% of every class but at least one image "
        "(6 of 20 images), seed 0"
    )


def test_auto_takes_the_val_list_as_test_where_there_is_no_test() -> None:
    listed = official("train", "val")
    images_of, source = splits.draw(listed, choices())
    assert set(images_of["test"]) == labels_of(listed, "val")
    assert set(images_of["train"]) | set(images_of["val"]) == labels_of(listed, "train")
    assert counts(listed, images_of)["val"] == {"ant": 2, "bee": 2}
    assert "its val list is the test" in source


def test_published_keeps_lists_without_a_test() -> None:
    listed = official("train", "val")
    images_of, source = splits.draw(listed, choices(protocol="published"))
    assert (set(images_of["train"]), set(images_of["val"])) == (labels_of(listed, "train"), labels_of(listed, "val"))
    assert images_of["test"] == []
    assert source == "the dataset's own lists; there is no test"


def test_published_needs_lists() -> None:
    with pytest.raises(UserError, match=r"`split.protocol`: published needs a train list, and this dataset has none"):
        splits.draw(rows(ant=9), choices(protocol="published"))


def test_write_and_read(workplace: Any) -> None:
    images_of, source = splits.draw(rows(ant=8, bee=8), choices(seed=4))
    splits.write(paths.split("toy"), images_of, source=source, choices=choices(seed=4))
    assert splits.read("toy") == images_of
    written = json.loads(paths.split("toy").read_text())
    assert written["source"] == source and written["params"]["seed"] == 4


@pytest.mark.parametrize("content", [None, "{", "{}", '{"train": [], "val": []}'])
def test_a_split_that_is_not_whole(workplace: Any, content: str | None) -> None:
    if content is not None:
        paths.split("toy").parent.mkdir(parents=True)
        paths.split("toy").write_text(content)
    with pytest.raises(UserError, match=r"data/split/toy.json cannot be read .*verify --repair`"):
        splits.read("toy")


def test_images_in_no_list_are_told(workplace: Any) -> None:
    listed = [*rows("train", ant=4, bee=4), *rows("test", ant=2, bee=2)]
    loose = [row("ant", 90 + number) for number in range(3)]
    images_of, source = splits.draw([*listed, *loose], choices())
    assert "3 images are in none and left out" in source
    assert not {item.sha256 for item in loose} & {image for images in images_of.values() for image in images}


def test_a_class_that_no_list_trains_is_refused() -> None:
    with pytest.raises(UserError, match=r"The train list has no image of 'bee', so no head can learn it"):
        splits.draw([*rows("train", ant=4), *rows("test", bee=2)], choices())


def with_objects(listed: Sequence[IndexRow], *labels: str) -> list[IndexRow]:
    return [replace(item, objects=tuple(Box(label, (0, 0, 1, 1)) for label in labels)) for item in listed]


def test_rare_labels_of_objects_join_the_commonest() -> None:
    listed = with_objects([*rows(ant=40), *rows(bee=1), *(row("", number) for number in range(2))], "ant")
    images_of, _ = splits.draw(listed, choices())
    assert is_partition(listed, images_of)
    assert [len(images_of[part]) for part in splits.SPLITS] == [21, 11, 11]


def test_images_without_objects_are_a_stratum_of_their_own() -> None:
    listed = [*with_objects(rows(ant=8), "ant"), *(row("", number) for number in range(4))]
    images_of, _ = splits.draw(listed, choices())
    assert counts(listed, images_of) == {
        "train": {"ant": 4, "": 2},
        "val": {"ant": 2, "": 1},
        "test": {"ant": 2, "": 1},
    }


def test_an_object_that_no_list_trains_is_told() -> None:
    train, test = with_objects(rows("train", ant=4), "ant"), with_objects(rows("test", ant=2), "ant", "bee")
    images_of, source = splits.draw([*train, *test], choices())
    assert len(images_of["test"]) == 2
    assert "no image of train has bee" in source
    seen = with_objects(rows("train", ant=4), "ant", "bee")
    assert "no image of train" not in splits.draw([*seen, *test], choices())[1]


@given(
    st.lists(st.sampled_from(["ant", "bee", ""]), min_size=1, max_size=60),
    st.data(),
    st.sampled_from(["none", "train", "lists"]),
)
@settings(max_examples=60)
def test_where_images_have_no_label_no_label_moves_an_image(labels: list[str], data: st.DataObject, own: str) -> None:
    parts = {"none": [None], "train": ["train", None], "lists": ["train", "val", "test", None]}[own]
    listed = [replace(row("x", number, parts[number % len(parts)]), label=label) for number, label in enumerate(labels)]
    later = [replace(image, label=image.label or data.draw(st.sampled_from(["ant", "cat", ""]))) for image in listed]
    more = [*later, *rows(dog=7)]
    drawn = [splits.draw(images, choices(), partly_labelled=True)[0] for images in (listed, later, more)]
    assert is_partition(listed, drawn[0]) and drawn[0] == drawn[1]
    assert all(set(drawn[0][part]) <= set(drawn[2][part]) for part in splits.SPLITS)


def test_hashed_shares_are_about_those_asked_for() -> None:
    images_of, source = splits.draw(rows(ant=4000), choices(protocol="hashed", train=0.6, val=0.1, test=0.3))
    assert [round(len(images_of[part]) / 4000, 1) for part in splits.SPLITS] == [0.6, 0.1, 0.3]
    assert "each image by its own hash" in source
    other, _ = splits.draw(rows(ant=4000), choices(protocol="hashed", seed=1))
    assert other["test"] != images_of["test"]


def test_hashed_keeps_groups_whole() -> None:
    listed = rows(ant=40)
    groups = {image.sha256: listed[number // 4 * 4].sha256 for number, image in enumerate(listed)}
    images_of, _ = splits.draw(listed, choices(protocol="hashed"), groups)
    split_of = {image: part for part, images in images_of.items() for image in images}
    assert all(split_of[image] == split_of[leader] for image, leader in groups.items())
