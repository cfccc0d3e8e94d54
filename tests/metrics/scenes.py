"""Objects and boxes found: by hand, and at random."""

import torch

from stages.boxes.geometry import Detections, GroundTruth

SQUARE = [0.0, 0.0, 10.0, 10.0]
FAR = [50.0, 50.0, 60.0, 60.0]


def found(boxes: list[list[float]], confidence: list[float], labels: list[int] | None = None) -> Detections:
    labels = [0] * len(boxes) if labels is None else labels
    return Detections(
        torch.tensor(boxes).reshape(-1, 4), torch.tensor(confidence), torch.tensor(labels, dtype=torch.int64)
    )


def truth(
    boxes: list[list[float]],
    labels: list[int] | None = None,
    ignored: tuple[int, ...] = (),
    crowd: tuple[int, ...] = (),
) -> GroundTruth:
    labels = [0] * len(boxes) if labels is None else labels
    flags = [torch.tensor([position in chosen for position in range(len(boxes))]).bool() for chosen in (ignored, crowd)]
    return GroundTruth(torch.tensor(boxes).reshape(-1, 4), torch.tensor(labels, dtype=torch.int64), *flags)


Scene = tuple[list[GroundTruth], list[Detections]]


def scene(seed: int, classes: int) -> Scene:
    """Images with 0 to 8 objects, found more or less, with doubles, wrong classes and false alarms."""
    generator = torch.Generator().manual_seed(seed)

    def boxes(count: int) -> torch.Tensor:
        corner, size = torch.rand(2, count, 2, generator=generator)
        return torch.cat([corner * 150, corner * 150 + 4 + size * 140], dim=1).round(decimals=1)

    truths, items = [], []
    for _ in range(int(torch.randint(1, 6, (), generator=generator))):
        count, extra = torch.randint(0, 9, (2,), generator=generator).tolist()
        labels = torch.randint(classes, (count,), generator=generator)
        flags = torch.rand(2, count, generator=generator) < 0.2
        objects = GroundTruth(boxes(count), labels, flags[0], flags[1])
        near = objects.boxes.repeat(2, 1) + 8 * torch.randn(2 * count, 4, generator=generator)
        near[:, 2:] = torch.maximum(near[:, 2:], near[:, :2] + 1)
        many = torch.cat([near, boxes(extra)])
        confidence = torch.rand(len(many), generator=generator).round(decimals=2)  # ties
        label = torch.cat([labels, labels, torch.randint(classes, (extra,), generator=generator)])
        drop = torch.rand(len(many), generator=generator) < 0.3
        truths.append(objects)
        items.append(Detections(many[~drop], confidence[~drop], label[~drop]))
    return truths, items
