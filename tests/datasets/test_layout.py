"""The usual names of lists, and names that only look like them."""

import pytest

from stages.datasets import layout

NAMES = {
    "train": ("train", ""), "Training": ("train", ""), "TRN": ("train", ""), "trainval": ("train", ""),
    "training_set": ("train", ""), "trainset": ("train", ""), "TrainSet": ("train", ""), "train images": ("train", ""),
    "train2017": ("train", ""), "seg_train": ("train", "seg"), "train_station": ("train", "station"),
    "val": ("val", ""), "valid": ("val", ""), "Validation": ("val", ""), "dev": ("val", ""), "val-set": ("val", ""),
    "test": ("test", ""), "testing": ("test", ""), "eval": ("test", ""), "test1": ("test", ""),
    "asl_alphabet_test": ("test", "asl alphabet"),
    "cat": None, "contest": None, "strain": None, "": None, "2017": None, "train_test": None, "ünïcode": None,
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_split_that_a_name_says(name: str) -> None:
    assert layout.split_named(name) == NAMES[name]


@pytest.mark.parametrize(
    ("names", "lists"),
    [
        (["Training", "Testing"], {"Training": "train", "Testing": "test"}),
        (["seg_train", "seg_test", "seg_pred"], {"seg_train": "train", "seg_test": "test"}),
        (["train", "dev", "extra"], {"train": "train", "dev": "val"}),
        (["train", "bus"], {}),
        (["test", "val"], {}),
        (["train_station", "test_tube"], {}),
        (["train1", "train2"], {}),
        ([], {}),
    ],
)
def test_lists_stand_beside_each_other_and_are_called_alike(names: list[str], lists: dict[str, str]) -> None:
    assert layout.splits_of(names) == lists
