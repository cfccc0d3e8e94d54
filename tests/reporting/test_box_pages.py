"""The page of heads for boxes: what is found, what is missed, and what is said of it."""

import json
import re
from collections.abc import Callable

import numpy as np
import pytest

from stages import paths
from stages.errors import UserError
from stages.reporting import advice, choose, command, gather, page, words
from stages.reporting.predictions import BoxPredictions, LargestPredictions
from tests.reporting.synthetic import HOSTILE, Made

Reported = Callable[[], tuple[str, str]]


@pytest.fixture
def detector(made: Made) -> Made:
    """A detector that is right on one in three images."""
    made.task, made.head, made.confidence = "detection", "anchors", 0.4
    return made


@pytest.fixture
def largest(made: Made) -> Made:
    """The same for the largest object."""
    made.task, made.head = "largest", "largest"
    return made


# --- detectors


def test_the_answer_counts_objects_found_and_boxes_right(detector: Made, reported: Reported) -> None:
    html, markdown = reported()
    for text in (html, markdown):
        told = re.search(r"(\d+) of (\d+) objects in unseen images are found, and (\d+) of (\d+) boxes are right", text)
        assert told and 3 * int(told[1]) == int(told[2]) < 100 and 3 * int(told[3]) == int(told[4])
        assert "43.2%" in text and "mean best IoU of the clustered anchors with the boxes of train: 0.65" in text
        assert "cannot represent 3 objects of train (16.7%)" in text
        assert "Never found, because no training image has any" in text


def test_a_class_that_is_never_found_is_named_at_the_top(detector: Made, reported: Reported) -> None:
    assert "AP is 0.0%" not in reported()[0]
    path = paths.PLOTS / "per_class.csv"
    lines = path.read_text().splitlines()
    lines[-1] = lines[-1].rpartition(",")[0] + ",0.0"
    path.write_text("\n".join(lines) + "\n")
    run = gather.load("folder")
    assert f"AP is 0.0% for {run.classes[-1].name}:" in " ".join(page.of(run).summary().caveats)


NOTHING = dict.fromkeys(("class", "place", "both", "double", "background", "missed"), 0.0)


@pytest.mark.parametrize(
    ("costs", "recalls", "said"),
    [
        ({}, (0.5, 0.9), []),
        ({"missed": 0.019}, (0.5, 0.9), []),
        (
            {"missed": 0.3},
            (0.5, 0.9),
            ["50.0% of those up to 20 pixels.*90.0% of those from 30 on. Try image_size=416"],
        ),
        ({"missed": 0.3}, (0.85, 0.9), ["Objects are missed. Try epochs=auto, unfreezing the last block"]),
        (
            {"place": 0.1, "class": 0.2, "double": 0.05},
            (0.9, 0.9),
            ["wrong class.*20.0%", "overlap.*image_size=416.*1.7"],
        ),
        ({"background": 0.1}, (0.9, 0.9), ["images without objects"]),
    ],
)
def test_the_page_says_what_would_help(
    detector: Made, costs: dict[str, float], recalls: tuple[float, float], said: list[str]
) -> None:
    detector.write()
    run = gather.load("folder")
    groups = [{"from": 10.0, "to": 20.0, "objects": 5, "recall": recalls[0]},
              {"from": 30.0, "to": 90.0, "objects": 5, "recall": recalls[1]}]  # fmt: skip
    run.predictions.update({"costs": NOTHING | costs, "recall_by_size": groups})
    sentences = advice.remedies(run)
    overfit = [sentence for sentence in sentences if sentence.startswith("The loss is")]
    assert len(overfit) == bool(said)  # the loss of val is 1.5 times that of train in this run
    for sentence, pattern in zip(sentences, said, strict=False):
        assert re.search(pattern, sentence)
    assert len(sentences) == len(said) + len(overfit)


def test_what_was_chosen_for_the_data_is_told(detector: Made, reported: Reported) -> None:
    assert "Chosen for this data" not in reported()[0]
    path = paths.HEAD / "head.json"
    head = json.loads(path.read_text())
    head["epochs_from"] = "epochs: auto takes 200: because"
    head["params"]["image_size"] = "objects"
    path.write_text(json.dumps(head))
    (chosen,) = (
        text for name, text in page.of(gather.load("folder")).summary().facts if name == "Chosen for this data"
    )
    assert "image_size: objects takes 224: nine of ten" in str(chosen) and "epochs: auto takes 200" in str(chosen)


def test_what_would_help_stands_below_the_mistakes(detector: Made, reported: Reported) -> None:
    html, markdown = reported()
    assert "What would help" in html and "What would help" in markdown
    assert "maps take 1.7 times the space" in markdown


def test_a_higher_threshold_shows_fewer_boxes(detector: Made) -> None:
    detector.write()
    run = gather.load("folder")
    found = BoxPredictions.load(run)
    all_of, some = found.above(0.4), found.above(0.7)
    assert (all_of.hits.sum(), all_of.wrong.sum(), all_of.missed.sum()) == (8, 16, 16)
    assert some.is_shown.sum() == 12 and (some.hits.sum(), some.wrong.sum(), some.missed.sum()) == (4, 8, 20)
    assert all_of.mistakes() == {"class": 8, "place": 0, "both": 0, "double": 0, "background": 8, "missed": 8}
    assert found.above(1.0).right_share is None and found.above(1.0).found_share == 0


def test_pictures_follow_from_the_numbers(detector: Made) -> None:
    detector.write()
    run = gather.load("folder")
    shown = BoxPredictions.load(run).above(0.4)
    f1 = shown.f1(24)
    assert np.array_equal(f1 == 1, np.arange(24) % 3 == 0)
    ranked = choose.ranked(f1, ~np.isnan(f1), 6)
    assert ranked["best"] == [0, 3, 6, 9, 12, 15] and set(f1[ranked["worst"]]) == {0}
    assert not {*ranked["best"]} & {*ranked["middle"]} and not {*ranked["middle"]} & {*ranked["worst"]}
    assert choose.false_alarms(shown, ["background"], 3) == [2, 5, 8]
    assert choose.false_alarms(shown, ["class", "place"], 3) == [1, 4, 7]
    pair = choose.misnamed(shown, sorted(HOSTILE), 9)[0]
    assert (pair.actual, pair.count, pair.of) == (sorted(HOSTILE)[1], 2, 4)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 100])
def test_best_middle_and_worst_share_no_image(count: int) -> None:
    ranked = choose.ranked(np.arange(float(count)), np.ones(count, bool), 6)
    places = [place for group in ranked.values() for place in group]
    assert len(places) == len({*places}) and len(places) == min(count, 18 if count >= 18 else count // 3 * 3 or count)


def test_without_a_sure_box_the_page_says_so(detector: Made, reported: Reported) -> None:
    detector.confidence = 0.99
    html, markdown = reported()
    assert "No box has a confidence of 0.99 or more" in html and "No box has" in markdown


def test_a_refit_and_the_monitor_are_told(detector: Made, reported: Reported) -> None:
    detector.refit = "trainval"
    html, markdown = reported()
    assert "trained again on train and val together" in html and "trained again" in markdown
    head = json.loads((paths.HEAD / "head.json").read_text()) | {"refit_epochs": 77}
    (paths.HEAD / "head.json").write_text(json.dumps(head))
    assert "on train and val together, for 77 epochs" in words.kept(gather.load("folder"))
    assert "Average precision by epoch" in html and "Accuracy by epoch" not in html


def test_every_kind_of_picture_is_shown(detector: Made, reported: Reported) -> None:
    html, _ = reported()
    for title in ("Best", "In between", "Worst", "Not found", "False alarms", "Other mistakes"):
        assert f"<h3>{title} <small>" in html
    assert ">missed: " in html and ">✗ " in html and "1 of 1 found" in html


def test_views_are_told_by_average_precision(detector: Made, reported: Reported) -> None:
    detector.views = ((1, 0.4), (2, 0.5))
    html, _ = reported()
    assert "Average precision by the number of views averaged: 1: 40.0%, 2: 50.0%." in html


def test_boxes_of_other_images_are_refused(detector: Made) -> None:
    detector.write()
    run = gather.load("folder")
    (paths.PREDICTIONS / "boxes.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="store verify --repair"):
        page.markdown(run, {})


def test_knobs_of_boxes_are_settings(detector: Made) -> None:
    detector.write()
    text = command.complete(gather.load("folder"))
    assert "-S boxes.predict=both" in text and "boxes.anchor_count=7" in text


# --- the largest object


@pytest.mark.parametrize(
    ("predict", "answer"),
    [
        ("both", "8 of 24 unseen images get the class of their largest object right, and a box"),
        ("box", "16 of 24 unseen images get a box that overlaps their largest object"),
        ("class", "16 of 24 unseen images get the class of their largest object right;"),
    ],
)
def test_the_answer_is_of_what_is_predicted(largest: Made, reported: Reported, predict: str, answer: str) -> None:
    largest.predict = predict
    html, markdown = reported()
    assert answer in html and answer in markdown
    assert ("Mean IoU" in markdown) == (predict != "class")
    assert ("always the most frequent class" in markdown) == (predict != "box")


def test_the_overlap_is_of_each_image(largest: Made) -> None:
    largest.write()
    found = LargestPredictions.load(gather.load("folder"))
    assert found.iou == pytest.approx(np.where(np.arange(24) % 3 < 2, 17 / 18, 0))
    assert np.array_equal(found.right, np.arange(24) % 3 == 0)


def test_a_better_typical_box_is_admitted(largest: Made, reported: Reported) -> None:
    html, _ = reported()
    assert "The head is no better than always the typical box (mean IoU)." in html
