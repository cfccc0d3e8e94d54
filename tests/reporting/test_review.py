from collections.abc import Callable
from dataclasses import replace

from stages.reporting import gather, review
from stages.reporting.pictures import Album
from stages.reviewing.suspicions import Suspicion
from tests.reporting.synthetic import Made


def test_nothing_suspected_is_said(reported: Callable[[], tuple[str, str]]) -> None:
    for text in reported():
        assert "Features and pixels show nothing wrong: no image" in text
        assert "Labels are not reviewed, because here the objects have labels" in text


def test_classes_that_cannot_be_told_apart_put_no_label_in_doubt(
    made: Made, reported: Callable[[], tuple[str, str]]
) -> None:
    made.review = {"leave_one_out_accuracy": 0.2, "most_frequent_class": 0.17}
    for text in reported():
        assert "Only 20 of 100 labels can be predicted" in text and "no label is called doubtful" in text
        assert "show nothing wrong" not in text
    made.review = {"leave_one_out_accuracy": 0.8, "most_frequent_class": 0.17}
    for text in reported():
        assert "The other images tell" not in text and "show nothing wrong" in text


def test_a_detector_doubts_annotations(made: Made, reported: Callable[[], tuple[str, str]]) -> None:
    made.task, made.head = "detection", "anchors"
    page, text = reported()
    for said in (page, text):
        assert "Annotations in doubt, on test: " in said and "where nothing is annotated" in said


def test_the_section_shows_what_is_suspected(made: Made, reported: Callable[[], tuple[str, str]]) -> None:
    made.write()
    test_image, train_image = "class0/test <b>0<b>.png", "class0/train <b>0<b>.png"
    made.suspicions = (
        Suspicion("label in doubt", train_image, "train", "plain", "<script>", 0.7),
        Suspicion("mirror image", test_image, "test", "plain", "", 0.99, train_image, "train"),
        Suspicion("near-duplicate", train_image, "train", "plain", "", 0.99, "class1/train <b>0<b>.png", "train"),
        Suspicion("blurred", train_image, "train", "plain", "", 4.0),
        Suspicion("two labels", "gone.png", "", "ant, bee", "", 1.0),
    )
    page, text = reported()
    for heading in ("Leaks (1)", "Conflicts (1)", "Labels in doubt (1)", "Copies within a split (1)", "Odd images (1)"):
        assert heading in page
    assert "looks more like &lt;script&gt;" in page and "rather <script>" not in page
    said = "1 of 24 test images has a copy in another split: top-1 accuracy is 66.7% with them and 65.2% without."
    assert said in page and said in text


def test_only_what_the_page_shows_has_a_picture(made: Made) -> None:
    made.sizes = {"train": 20, "val": 2, "test": 4}
    params = made.write()
    run = gather.load("folder")
    blurred = [Suspicion("blurred", row.path, "train", "plain", "", 4.0) for row in run.rows_of("train")]
    run = replace(run, suspicions=blurred)
    album = Album.open("folder", params.options, params.root)
    (odd,) = review.kinds(run, album)
    assert odd.count == len(blurred) > len(odd.shown) == album.shown == review.SHOWN


def test_one_of_a_kind_is_told_in_the_singular() -> None:
    headings = ("Labels in doubt", "Copies within a split", "Odd images")
    told = [[review.in_words(heading, count) for heading in headings] for count in (1, 2)]
    assert told[0] == ["1 label in doubt", "1 copy within a split", "1 odd image"]
    assert told[1] == ["2 labels in doubt", "2 copies within a split", "2 odd images"]
