"""Iterative stratification: every label keeps its share in every split as well as that can be."""

import hashlib
from collections import Counter
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from stages.datasets import splits, stratification
from stages.datasets.index_file import IndexRow
from tests.datasets.test_splits import choices, is_partition

SHARES = {"test": 0.25, "val": 0.25, "train": 0.5}


def row(number: int, *labels: str, split: str | None = None) -> IndexRow:
    sha256 = hashlib.sha256(str(number).encode()).hexdigest()
    return IndexRow(f"{number}.jpg", sha256, 4, 4, "", (), split, labels=labels)


def counts(rows: Sequence[IndexRow], images: splits.SplitImages) -> dict[str, Counter[str]]:
    row_of = {row.sha256: row for row in rows}
    return {split: Counter(label for i in members for label in row_of[i].classes) for split, members in images.items()}


def test_labels_that_occur_together_and_alone_keep_their_shares() -> None:
    rows = [
        row(number, *(("cat",) if number % 2 else ()), *(("dog",) if number % 5 == 0 else ())) for number in range(200)
    ]
    images, source = splits.draw(rows, choices())
    assert is_partition(rows, images)
    assert {split: len(members) for split, members in images.items()} == {"train": 100, "val": 50, "test": 50}
    assert counts(rows, images) == {
        "train": {"cat": 50, "dog": 20}, "val": {"cat": 25, "dog": 10}, "test": {"cat": 25, "dog": 10}
    }  # fmt: skip
    assert source == "50% / 25% / 25% of every label as well as that can be, by iterative stratification, seed 0"


def test_the_rarest_label_comes_first_and_what_a_split_lacks_is_told() -> None:
    rows = [row(number, "common", *(("rare",) if number < 2 else ())) for number in range(40)]
    images, source = splits.draw(rows, choices())
    assert counts(rows, images)["train"] == {"common": 20, "rare": 1}
    assert "; no image of " in source and source.endswith("has rare")


def test_images_without_any_label_fill_the_splits_up() -> None:
    rows = [row(number, *(("cat",) if number < 4 else ())) for number in range(40)]
    images, _ = splits.draw(rows, choices())
    assert [len(images[split]) for split in ("train", "val", "test")] == [20, 10, 10]


def test_groups_stay_whole_and_shares_that_suffer_are_told() -> None:
    rows = [row(number, "cat") for number in range(40)]
    groups = {one.sha256: rows[0].sha256 for one in rows[:30]}
    images, source = splits.draw(rows, choices(), groups)
    assert sum(bool({one.sha256 for one in rows[:30]} & set(members)) for members in images.values()) == 1
    assert "shares that could not be kept: cat has" in source


def test_published_lists_stay_and_a_missing_val_is_cut_by_labels() -> None:
    rows = [row(n, *(("cat",) if n % 2 else ("dog",)), split="test" if n >= 60 else "train") for n in range(80)]
    images, source = splits.draw(rows, choices())
    assert counts(rows, images)["val"] == {"cat": 6, "dog": 6} and len(images["test"]) == 20
    assert "by iterative stratification" in source


@settings(max_examples=40)
@given(st.lists(st.sets(st.sampled_from("abcde")), min_size=1, max_size=60))
def test_every_image_is_in_one_split_and_no_label_is_far_off(lists: list[set[str]]) -> None:
    rows = [row(number, *sorted(labels)) for number, labels in enumerate(lists)]
    split_of = stratification.assign(rows, {}, shares=SHARES, turn=str.encode)
    assert split_of.keys() == {one.sha256 for one in rows}
    again = stratification.assign(rows, {}, shares=SHARES, turn=str.encode)
    assert split_of == again
    rarest = min(
        (c := Counter(label for labels in lists for label in labels)), key=lambda label: (c[label], label), default=None
    )
    if rarest:  # the first label that is dealt out is as even as whole images can be
        for split, share in SHARES.items():
            held = sum(split_of[one.sha256] == split and rarest in one.classes for one in rows)
            assert abs(held - share * c[rarest]) <= 1
