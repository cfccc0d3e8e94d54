"""The table of metrics: the title of each number of an evaluation, how it is written, and which way is better.

evaluate only writes numbers that are in this table, and the page, its text, `compare` and the model card take titles
and formats from here. A new metric is therefore one function beside this module and one line below. Needs no torch.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

Task = Literal["classification", "multilabel", "detection", "largest"]
SHARE = "{:.1%}"
VAL = "val_"  # what the names of numbers on validation begin with
DERIVED = ("_low", "_high", "_mean", "_sd")  # interval of a metric, its mean and standard deviation over seeds


class Metric(NamedTuple):
    """One line of the table.

    Attributes:
        title: what people call it, as in the middle of a sentence.
        task: the task that it belongs to.
        remark: what it says, in a few words.
        format: how a value is written.
        better: whether a higher or a lower value is better.
    """

    title: str
    task: Task
    remark: str
    format: str = SHARE
    better: Literal["higher", "lower"] = "higher"

    @property
    def heading(self) -> str:
        """The title as the first word of a line."""
        return self.title if self.title.startswith("mAP") else self.title[:1].upper() + self.title[1:]

    def text(self, value: float | None) -> str:
        """A value as people read it; a dash for None."""
        return "–" if value is None else self.format.format(value)


class Baseline(NamedTuple):
    """A result that needs no training, to compare a head with.

    Attributes:
        title: what it is.
        metrics: the metrics that it can be compared with.
    """

    title: str
    metrics: tuple[str, ...]


# The headline of a task is the first of its metrics that a head has.
METRICS: Mapping[str, Metric] = {
    "top1": Metric("top-1 accuracy", "classification", "the most probable class is the right one"),
    "top5": Metric("top-5 accuracy", "classification", "the right class is among the five most probable"),
    "macro_accuracy": Metric("macro accuracy", "classification", "mean of the accuracies of the classes"),
    "cross_entropy": Metric("cross-entropy", "classification", "in nats; lower is better", "{:.3f}", "lower"),
    "ece": Metric("calibration error", "classification", "gap between confidence and accuracy", better="lower"),
    "map": Metric("mAP", "multilabel", "mean of the average precisions of the classes"),
    "map_voc07": Metric("mAP, VOC 2007", "multilabel", "mean over 11 points of recall"),
    "micro_f1": Metric("micro F1", "multilabel", "of all labels together, each class at its threshold"),
    "macro_f1": Metric("macro F1", "multilabel", "mean of the F1 of the classes"),
    "exact_match": Metric("exact matches", "multilabel", "images of which every label is right"),
    "coverage": Metric(
        "coverage", "multilabel", "classes to go down an image's list until it has all", "{:.2f}", "lower"
    ),
    "binary_cross_entropy": Metric("binary cross-entropy", "multilabel", "in nats; lower is better", "{:.3f}", "lower"),
    "map_50": Metric("mAP at IoU 0.5", "detection", "area under the curve, mean over classes"),
    "map_50_95": Metric("mAP at IoU 0.5 to 0.95", "detection", "COCO's mean over ten overlaps"),
    "map_75": Metric("mAP at IoU 0.75", "detection", "boxes that fit tightly"),
    "map_50_voc07": Metric("mAP at IoU 0.5, VOC 2007", "detection", "mean over 11 points of recall"),
    "map_small": Metric("mAP of small objects", "detection", "area below 32 × 32 pixels, IoU 0.5 to 0.95"),
    "map_medium": Metric("mAP of medium objects", "detection", "up to 96 × 96 pixels, IoU 0.5 to 0.95"),
    "map_large": Metric("mAP of large objects", "detection", "above 96 × 96 pixels, IoU 0.5 to 0.95"),
    "correct_at_iou50": Metric("class and box right", "largest", "right class, and an IoU of 0.5 or more"),
    "accuracy": Metric("class right", "largest", "class of the largest object"),
    "mean_iou": Metric("mean IoU", "largest", "overlap: common area divided by united area"),
    "box_l1_px": Metric("corners off by", "largest", "mean, in pixels of the view", "{:,.1f} px", "lower"),
    "box_smooth_l1": Metric("smooth L1", "largest", "of centre and size; lower is better", "{:.4f}", "lower"),
}
BASELINES: Mapping[str, Baseline] = {
    "ridge_map": Baseline("ridge regression, same features", ("map",)),
    "prevalence": Baseline("a random order", ("map",)),
    "ridge_top1": Baseline("ridge regression, same features", ("top1",)),
    "majority": Baseline("always the most frequent class", ("top1", "accuracy")),
    "chance": Baseline("a guess", ("top1",)),
    "typical_mean_iou": Baseline("always the typical box", ("mean_iou",)),
}
COLUMNS = 12  # numbers in metrics.json
OTHERS = (
    "confident_share",
    "confident_accuracy",
    "unknown_share",
    "unknown_accuracy",
    "unheld_share",
    "lr",
)  # numbers that pages write in whole sentences


def of_task(task: str) -> dict[str, Metric]:
    """The metrics of a task, the headline first."""
    return {name: metric for name, metric in METRICS.items() if metric.task == task}


def headline(task: str, values: Mapping[str, object]) -> str:
    """The metric that decides between two heads: the task's first that is in `values`, or its very first if none is."""
    names = list(of_task(task))
    return next((name for name in names if name in values or VAL + name in values), names[0])


def in_words(task: str, values: Mapping[str, Any]) -> dict[str, str]:
    """The headline of a run by its title, such as {"top-1 accuracy": "94.8 %"}; on val if nothing else is judged."""
    name = headline(task, values)
    metric, judged = METRICS[name], "" if name in values else VAL
    return {f"{judged.replace('_', ' ')}{metric.title}": metric.text(values.get(judged + name))}


def task_of(values: Mapping[str, object]) -> Task:
    """The task whose metrics are among `values`.

    Raises:
        LookupError: there is no metric among them.
    """
    for name in values:
        if metric := METRICS.get(name.removeprefix(VAL)):
            return metric.task
    raise LookupError(f"no metric is among {', '.join(values)}")


def compared(task: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The few numbers by which people compare experiments, one column each in DVC's tables.

    They are the metrics on the evaluated split, the interval and the spread of the headline, the headline on
    validation, and baselines.
    """
    first = headline(task, values)
    judged = "" if first in values else VAL
    columns = [judged + name for name in of_task(task)]
    columns += [f"{judged}{first}{ending}" for ending in DERIVED]
    columns += [VAL + first, *BASELINES, *OTHERS]
    names = [name for name in dict.fromkeys(columns) if name in values]
    return {name: values[name] for name in names[:COLUMNS]}


def unlisted(values: Mapping[str, object]) -> Iterator[str]:
    """Names of fractional numbers that are not in the table."""
    listed = {*METRICS, *BASELINES, *OTHERS}
    for name, value in values.items():
        bare = name.removeprefix(VAL)
        for ending in DERIVED:
            bare = bare.removesuffix(ending)
        if isinstance(value, float) and bare not in listed:
            yield name
