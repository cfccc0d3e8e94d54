"""Whether an exported file predicts what coldcut predicts."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from stages import paths, results
from stages.datasets import index_file, source, splits
from stages.errors import UserError
from stages.exporting.formats import Pixels, Runner
from stages.exporting.network import OutputLayer, preprocessing
from stages.features import h5
from stages.features.extraction import Spec, load_extractor
from stages.features.joined import join_rows
from stages.images.decode import decode, prepare
from stages.images.header import BadImage
from stages.params import load
from stages.prediction.predictor import Predictor
from stages.training import data

IMAGES = 50
BATCHES = (1, 3)  # and the rest: a file must take any number of images
FEW = 0.01  # of the boxes that a second stage scores
SAME = 1e-3  # pixels and scores that only rounding tells apart
Outputs = Mapping[str, torch.Tensor]


def sample_pixels(predictor: Predictor) -> Pixels:
    """The evaluation views (N, 3, S, S) of up to IMAGES test images, evenly spread; of val images if there is no test.

    Raises:
        UserError: the images are not at hand.
    """
    dataset = predictor.described["params"]["dataset"]
    split, row_of = splits.read(dataset), {row.sha256: row for row in index_file.read(dataset)}
    root = results.read_json(paths.index(dataset).with_suffix(".json"))["root"]
    folder = source.folder(dataset, getattr(load().datasets, dataset), root)
    how = preprocessing(predictor.specs[0])
    rows = [row_of[image] for image in split["test"] or split["val"]]
    views = []
    for i in np.linspace(0, len(rows) - 1, min(IMAGES, len(rows))).round().astype(int):
        try:
            views.append(prepare(decode(source.read(folder, rows[i].path, rows[i].sha256)), how)[0].numpy())
        except BadImage:
            continue
    if not views:
        raise UserError(f"No image of {dataset} can be decoded, so the file cannot be checked; look at the images.")
    return np.stack(views)


def in_float32(predictor: Predictor) -> Predictor:
    """The same predictor, with features and head in float32, as exported files compute."""
    head = copy.deepcopy(predictor.head).eval()  # a copied rest of a backbone would be in train mode
    head.precision = "float32"
    specs = tuple(replace(spec, precision="float32", dtype="float32") for spec in predictor.specs)
    return replace(predictor, head=head, specs=specs)


@torch.inference_mode()
def predict(predictor: Predictor, pixels: Pixels) -> Outputs:
    """The outputs of coldcut's own engine and head for views (N, 3, S, S)."""
    features = _features(predictor, pixels).to(next(iter(predictor.head.state_dict().values())).device)
    raw = predictor.head(features)
    raw = tuple(level.cpu() for level in raw) if isinstance(raw, tuple) else raw.cpu()
    outputs: Outputs = OutputLayer(predictor)(raw)
    return outputs


def difference(run: Runner, expected: Outputs, pixels: Pixels, names: Sequence[str]) -> float:
    """The largest difference between the outputs of a file and the expected ones; see `largest_difference`.

    Args:
        run: the file as a function. It is called with batches of different sizes.
        expected: outputs by name.
        pixels: (N, 3, S, S) views.
        names: the outputs that are compared, as far as they are expected.
    """
    batches = np.split(pixels, np.cumsum(BATCHES))
    outputs = [run(batch) for batch in batches if len(batch)]
    found = {name: torch.as_tensor(np.concatenate([batch[name] for batch in outputs])) for name in expected}
    same = refined_in_both(found["all_scores"], expected["all_scores"]) if "all_scores" in expected else slice(None)
    return max(largest_difference(found[name][same], expected[name][same]) for name in expected if name in names)


def refined_in_both(scores: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Which boxes (N, P) have a score other than 0 either in both outputs or in none.

    A second stage scores as many boxes as fit, and rounding decides between equally good last ones. Where that is so
    for more than FEW of the scored boxes, all of them count.

    Args:
        scores: (N, P, C) of the file.
        expected: (N, P, C).
    """
    scored, should_be = (values.amax(2) > 0 for values in (scores, expected))
    same = scored == should_be
    return same if (~same).sum() <= FEW * should_be.sum() else torch.ones_like(same)


def largest_difference(values: object, expected: torch.Tensor) -> float:
    """The largest difference, relative where more than 1 is expected (boxes are in pixels); nan where a value is."""
    return float(((torch.as_tensor(values) - expected).abs() / expected.abs().clamp(min=1)).max())


def suppresses_alike(run: Runner, predictor: Predictor, pixels: Pixels) -> bool:
    """Whether the boxes that a file keeps of its own candidates are those that coldcut keeps of them.

    Args:
        run: the file as a function.
        predictor: what was exported.
        pixels: (N, 3, S, S) views.
    """
    outputs = run(pixels)
    layer = OutputLayer(predictor, suppresses=True)
    selection = layer.select(*(torch.from_numpy(outputs[name]) for name in ("all_boxes", "all_scores")))
    expected = {name: values.numpy() for name, values in selection._asdict().items()}
    return np.allclose(_rows(outputs), _rows(expected), rtol=0, atol=SAME)


def _rows(outputs: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """Label, score and corners (N, K, 6) of the boxes of each image, sorted: equal scores may come in any order."""
    columns = [outputs["labels"][..., None], outputs["scores"][..., None], outputs["boxes"]]
    rows = np.concatenate([column.astype(np.float64) for column in columns], axis=2)
    return np.stack([image[np.lexsort(image.T[::-1])] for image in rows])


def same_class(outputs: Outputs, others: Outputs, thresholds: Sequence[float] | None = None) -> int | None:
    """For how many images two outputs name the same class, or the same labels; None where they are boxes."""
    if "probabilities" not in outputs:
        return None
    if thresholds is not None:
        same = [values["probabilities"] >= torch.tensor(thresholds) for values in (outputs, others)]
        return int((same[0] == same[1]).all(1).sum())
    return int((outputs["probabilities"].argmax(1) == others["probabilities"].argmax(1)).sum())


def _features(predictor: Predictor, pixels: Pixels) -> torch.Tensor:
    """What the head takes, from views (N, 3, S, S), as the stage extract keeps it."""
    if predictor.provenance["cut"] == h5.INPUT:
        return torch.from_numpy(pixels).float()
    per_backbone = [_members(spec, pixels) for spec in predictor.specs]
    members = per_backbone[0] if len(per_backbone) == 1 else join_rows(per_backbone, predictor.provenance["cut"])
    members["views"] = np.zeros((len(pixels), 1, 2, 3), np.float32)
    extents = torch.ones((len(pixels), 2), dtype=torch.long)
    split = data.unlabelled(h5.Features(members, predictor.provenance), extents, predictor.params)
    return split.batch(torch.arange(len(pixels)))


def _members(spec: Spec, pixels: Pixels) -> dict[str, h5.Array]:
    """Member -> (N, 1, …) of each layer, computed in padded batches of the size that features are computed in."""
    extractor, batches = load_extractor(spec), list[list[h5.Array]]()
    assert extractor.engine is not None
    size = extractor.batch_size
    for first in range(0, len(pixels), size):
        batch = torch.from_numpy(pixels[first : first + size])
        padded = torch.cat([batch, torch.zeros((size - len(batch), *batch.shape[1:]), dtype=torch.uint8)])
        batches.append([layer[: len(batch)] for layer in extractor.engine(padded)])
    layers = zip(extractor.layers.items(), zip(*batches, strict=True), strict=True)
    return {h5.LAYER + name: np.concatenate(parts)[:, None].astype(dtype) for (name, (_, dtype)), parts in layers}
