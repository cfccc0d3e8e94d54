import hashlib
from collections import Counter, defaultdict
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from stages.datasets import grouping, splits
from stages.datasets.index_file import IndexRow
from stages.datasets.splits import Split

CHOICES = Split(protocol="auto", train=0.5, val=0.25, test=0.25, val_fraction=0.2, folds=5, seed=0, groups="")


def row(path: str, label: str, split: str | None = None) -> IndexRow:
    return IndexRow(path, hashlib.sha256(path.encode()).hexdigest(), 4, 4, label, (), split)


def split_names(images: splits.SplitImages) -> dict[str, str]:
    return {image: name for name, part in images.items() for image in part}


def test_groups_come_from_pairs_and_from_paths() -> None:
    rows = [row(path, "ant") for path in ("p1-a", "p1-b", "p2-a", "p3-a", "x", "y")]
    image = {item.path: item.sha256 for item in rows}
    actual = grouping.groups(rows, [("p2-a", "x"), ("x", "p3-a"), ("y", "gone")], r"^(p\d)-")
    members = defaultdict(set)
    for sha256, group in actual.items():
        members[group].add(sha256)
    assert sorted(map(sorted, members.values())) == sorted(
        [sorted([image["p1-a"], image["p1-b"]]), sorted([image["p2-a"], image["x"], image["p3-a"]])]
    )


def test_a_column_of_the_index_groups_images() -> None:
    rows = [
        replace(row(path, "ant"), group=group) for path, group in (("a", "p1"), ("b", "p1"), ("c", "p2"), ("d", None))
    ]
    assert grouping.groups(rows, [], "").keys() == {rows[0].sha256, rows[1].sha256}


@settings(max_examples=60)
@given(
    numbers=st.lists(st.integers(0, 12), min_size=24, max_size=80),
    official=st.booleans(),
    seed=st.integers(0, 3),
)
def test_no_group_is_in_two_splits(numbers: list[int], official: bool, seed: int) -> None:
    rows = [row(f"{number}/{position}", f"class {position % 3}") for position, number in enumerate(numbers)]
    if official:  # val is cut from the train list, within which groups are kept
        rows = [IndexRow(*[getattr(item, name) for name in item.__slots__[:6]], "train") for item in rows]
    groups = grouping.groups(rows, [], r"^\d+")
    images, source = splits.draw(rows, CHOICES.model_copy(update={"seed": seed}), groups)
    where = split_names(images)
    assert where.keys() == {item.sha256 for item in rows}
    splits_of = defaultdict(set)
    for image, group in groups.items():
        splits_of[group].add(where[image])
    assert all(len(names) == 1 for names in splits_of.values())
    assert ("kept together" in source) == bool(groups)


@settings(max_examples=60)
@given(
    numbers=st.lists(st.integers(0, 30), min_size=12, max_size=80),
    count=st.integers(3, 7),
    seed=st.integers(0, 3),
)
def test_no_group_is_in_two_folds_and_each_image_is_judged_once(numbers: list[int], count: int, seed: int) -> None:
    rows = [row(f"{number}/{position}", f"class {position % 3}") for position, number in enumerate(numbers)]
    groups = grouping.groups(rows, [], r"^\d+")
    folds, source = splits.draw_folds(rows, CHOICES.model_copy(update={"folds": count, "seed": seed}), groups)
    turns, everything = splits.rotated(folds), sorted(item.sha256 for item in rows)
    for part in ("test", "val"):
        assert sorted(image for turn in turns for image in turn[part]) == everything
    for images in [*turns, splits.kept(folds)]:
        assert sorted(image for part in images.values() for image in part) == everything
        splits_of = defaultdict(set)
        for image, name in split_names(images).items():
            splits_of[groups.get(image, image)].add(name)
        assert all(len(names) == 1 for names in splits_of.values())
    assert ("kept together" in source) == bool(groups)


def test_the_page_is_told_of_folds_that_groups_leave_without_a_class() -> None:
    rows = [row(f"{number % 2}/{number}", "ant") for number in range(8)] + [row(f"x{n}", "bee") for n in range(8)]
    _, source = splits.draw_folds(rows, CHOICES, grouping.groups(rows, [], r"^\d"))
    assert source.count("has no image of ant") == 1
    assert "the train part of fold" in source


def test_shares_hold_as_well_as_groups_allow() -> None:
    rows = [row(f"{number // 4}/{number}", "ant" if number < 400 else "bee") for number in range(800)]
    images, _ = splits.draw(rows, CHOICES, grouping.groups(rows, [], r"^\d+"))
    label = {item.sha256: item.label for item in rows}
    counts = {name: Counter(label[image] for image in part) for name, part in images.items()}
    assert counts == {
        name: {"ant": count, "bee": count} for name, count in (("train", 200), ("val", 100), ("test", 100))
    }


def test_the_page_is_told_what_groups_cost() -> None:
    rows = [row(f"one/{number}", "ant") for number in range(8)] + [row(f"{number}/x", "bee") for number in range(8)]
    _, source = splits.draw(rows, CHOICES, grouping.groups(rows, [], r"^one"))
    assert "1 group of 8 images, kept together; " in source and "has no image of ant" in source
    listed = [row("a/1", "ant", "train"), row("a/2", "ant", "test"), row("b", "ant", "train"), row("c", "bee", "train")]
    listed += [row("d", "bee", "train"), row("e", "bee", "test")]
    _, source = splits.draw(listed, CHOICES, grouping.groups(listed, [], r"^a"))
    assert "1 of which the dataset's own lists tear apart" in source
