"""Which images and classes the page shows. Every choice follows from the numbers: the same run, the same page."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stages.datasets.index_file import IndexRow
from stages.reporting.gather import ClassRow, RunResults
from stages.reporting.predictions import ClassPredictions, LabelPredictions, ShownBoxes

BLOCK = 4096  # images whose probabilities are looked at together


@dataclass(frozen=True)
class Confused:
    """A class that is taken for another.

    Attributes:
        actual: the class.
        predicted: what it is taken for.
        count: number of images, or boxes, for which it is.
        of: number of images, or objects, of the class.
        example: the position of the mistake with the highest score.
    """

    actual: str
    predicted: str
    count: int
    of: int
    example: int


def right(judged: ClassPredictions, count: int) -> list[int]:
    """Images predicted right, from the most to the least confident, of different classes as far as possible."""
    order = _by(-judged.confidence, judged.right)
    if len(order) <= count:
        return order
    picked, seen = list[int](), set[int]()
    for start in np.linspace(0, len(order) - 1, count).round().astype(int):
        free = [i for i in [*order[start:], *reversed(order[:start])] if i not in picked]
        picked.append(next((i for i in free if judged.labels[i] not in seen), free[0]))
        seen.add(int(judged.labels[picked[-1]]))
    return picked


def wrong(judged: ClassPredictions, count: int) -> list[int]:
    """Images that are predicted wrong, the most confident first."""
    return _by(-judged.confidence, ~judged.right)[:count]


def uncertain(judged: ClassPredictions, count: int) -> list[int]:
    """The images whose probabilities have the highest entropy."""
    certainty = np.empty(len(judged.probabilities))
    for first in range(0, len(certainty), BLOCK):  # all at once in float64 they would take twice as much as they do
        p = judged.probabilities[first : first + BLOCK].astype(np.float64)
        certainty[first : first + BLOCK] = (p * np.log(np.maximum(p, 1e-12))).sum(1)
    return _by(certainty, np.ones(len(certainty), bool))[:count]


def weakest(run: RunResults, count: int) -> list[ClassRow]:
    """The classes with the lowest accuracy; without those that have no image or no mistake."""
    rows = [row for row in run.classes if row.accuracy is not None and row.accuracy < 1]
    return sorted(rows, key=lambda row: (row.accuracy or 0, row.name))[:count]


def listed_classes(run: RunResults, most: int) -> list[ClassRow]:
    """All classes, or so many with the lowest accuracy, in the order of classes."""
    places = sorted(
        range(len(run.classes)), key=lambda i: (run.classes[i].accuracy is None, run.classes[i].accuracy or 0)
    )
    return [run.classes[place] for place in sorted(places[:most])]


def members(judged: ClassPredictions, label: int, count: int) -> list[int]:
    """Images of one class, mistakes first, each time the most confident first."""
    order = np.lexsort((-judged.confidence, judged.right))
    return [int(i) for i in order if judged.labels[i] == label][:count]


def confused(judged: ClassPredictions, names: list[str], count: int) -> list[Confused]:
    """The pairs of classes that are mistaken most often."""
    counts = judged.confusion()
    mistakes = [(times, a, p) for a, p, times in counts.pairs() if a != p]
    pairs = []
    for times, a, p in sorted(mistakes, key=lambda mistake: (-mistake[0], *mistake[1:]))[:count]:
        example = _by(-judged.confidence, (judged.labels == a) & (judged.chosen == p))[0]
        pairs.append(Confused(names[a], names[p], times, int(counts.totals[a]), example))
    return pairs


def mixed_up(judged: LabelPredictions, names: list[str], count: int) -> list[Confused]:
    """The pairs of labels of which most often one is missed and the other one added in the same image."""
    together = judged.missed.astype(np.int64).T @ judged.added
    pairs = sorted(
        ((int(together[a, p]), int(a), int(p)) for a, p in np.argwhere(together)), key=lambda x: (-x[0], x[1:])
    )
    totals = judged.present.sum(0)
    return [
        Confused(names[a], names[p], times, int(totals[a]),
                 _by(-judged.probabilities[:, p], judged.missed[:, a] & judged.added[:, p])[0])
        for times, a, p in pairs[:count]
    ]  # fmt: skip


def entries(keys: npt.NDArray[np.floating], among: npt.NDArray[np.bool_], count: int) -> list[tuple[int, int]]:
    """Images and labels where `among` (N, C) holds, the lowest key first, one per image."""
    first = dict[int, int]()
    for place in _by(keys.ravel(), among.ravel()):
        first.setdefault(place // among.shape[1], place % among.shape[1])
    return list(first.items())[:count]


def most_mistakes(judged: LabelPredictions, count: int) -> list[int]:
    """Images with the most labels missed or added; two at least."""
    mistakes = (judged.missed | judged.added).sum(1)
    return _by(-mistakes.astype(float), mistakes > 1)[:count]


def all_right(judged: LabelPredictions, count: int) -> list[int]:
    """Images that have labels, all of which are right: those with the most labels first."""
    labels = judged.present.sum(1)
    return _by(-labels.astype(float), judged.right & (labels > 0))[:count]


def ranked(scores: npt.NDArray[np.floating], among: npt.NDArray[np.bool_], count: int) -> dict[str, list[int]]:
    """The positions with the best, the middle and the worst scores, none of them twice.

    Args:
        scores: (N,).
        among: (N,) which positions may be chosen.
        count: how many of each; fewer where there are few.
    """
    order = _by(-scores, among)
    size = min(count, len(order) // 3 or 1)
    start = max(size, (len(order) - size) // 2)
    return {"best": order[:size], "middle": order[start:-size][:size], "worst": order[size:][-size:][::-1]}


def missed(shown: ShownBoxes, count: int) -> list[int]:
    """Objects that no shown box hits, the largest first, one per image."""
    areas = np.array([box.area for box in shown.all.objects])
    return _of_images(_by(-areas, shown.missed), shown.all.object_images, count)


def false_alarms(shown: ShownBoxes, kinds: list[str], count: int) -> list[int]:
    """Shown boxes with mistakes of these kinds, the highest scores first, one per image."""
    among = shown.wrong & np.isin(shown.all.kinds, [shown.all.names.index(kind) for kind in kinds])
    return _of_images(_by(-shown.all.scores, among), shown.all.images, count)


def misnamed(shown: ShownBoxes, names: list[str], count: int) -> list[Confused]:
    """The pairs of classes that shown boxes confuse most often, for boxes that lie on an object."""
    boxes = shown.all
    among = np.flatnonzero(shown.wrong & (boxes.kinds == boxes.names.index("class")))
    pairs = Counter[tuple[int, int]]()
    example = dict[tuple[int, int], int]()
    for i in among[np.argsort(-boxes.scores[among], kind="stable")]:
        pair = int(boxes.object_labels[boxes.meant[i]]), int(boxes.labels[i])
        pairs[pair] += 1
        example.setdefault(pair, int(i))
    objects = np.bincount(boxes.object_labels[boxes.counts], minlength=len(names))
    most = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:count]
    return [Confused(names[a], names[p], times, int(objects[a]), example[a, p]) for (a, p), times in most]


def samples(rows: list[IndexRow], count: int) -> list[IndexRow]:
    """Images spread over the classes: the first of every class comes before the second of any."""
    turns, turn_of = dict[str, int](), list[tuple[int, int]]()
    for i, row in enumerate(rows):
        turns[row.caption] = turns.get(row.caption, -1) + 1
        turn_of.append((turns[row.caption], i))
    firsts = [i for turn, i in turn_of if turn == 0]
    if len(firsts) > count:  # not only the classes from a to m
        chosen = np.linspace(0, len(firsts) - 1, count).round().astype(int)
        return [rows[firsts[i]] for i in chosen]
    return [rows[i] for _, i in sorted(turn_of)[:count]]


def _by(keys: npt.NDArray[np.floating], among: npt.NDArray[np.bool_]) -> list[int]:
    """Positions where `among` holds, the lowest key first, equal ones in their order."""
    return [int(i) for i in np.argsort(keys, kind="stable") if among[i]]


def _of_images(positions: list[int], images: npt.NDArray[np.int64], count: int) -> list[int]:
    """The first position of each image, `count` at most."""
    first = dict[int, int]()
    for i in positions:
        first.setdefault(int(images[i]), i)
    return list(first.values())[:count]
