"""Whether a file answers as we do."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from stages import paths
from stages.datasets import index_file, source, splits
from stages.errors import UserError
from stages.exporting.formats import Pixels, Runner
from stages.exporting.network import OutputLayer, preprocessing
from stages.features import h5, joined
from stages.features.extraction import Spec, load_extractor
from stages.images.decode import decode, prepare
from stages.images.header import BadImage
from stages.params import load
from stages.prediction.model import Predictor
from stages.reporting.gather import read_json
from stages.training import data

IMAGES = 50
BATCHES = (1, 3)  # and the rest: a file must take any number
Values = Mapping[str, torch.Tensor]


def some_pixels(model: Predictor) -> Pixels:
    """The evaluation views (N, 3, S, S) of IMAGES test images at even steps; of val images where there is no test.

    Raises:
        UserError: the images are not there.
    """
    dataset = model.described["params"]["dataset"]
    split, row_of = splits.read(dataset), {row.sha256: row for row in index_file.read(dataset)}
    root = read_json(paths.index(dataset).with_suffix(".json"))["root"]
    folder, how = source.folder(dataset, getattr(load().datasets, dataset), root), preprocessing(model.specs[0])
    rows = [row_of[image] for image in split["test"] or split["val"]]
    found = []
    for place in np.linspace(0, len(rows) - 1, min(IMAGES, len(rows))).round().astype(int):
        row = rows[place]
        try:
            found.append(prepare(decode(source.read(folder, row.path, row.sha256)), how)[0].numpy())
        except BadImage:
            continue
    if not found:
        raise UserError(f"No image of {dataset} can be decoded, so that nothing can be checked.")
    return np.stack(found)


def exact(model: Predictor) -> Predictor:
    """The same, computed and kept in float32, as files compute."""
    head = copy.deepcopy(model.head).eval()  # a copied rest of a backbone would be in train mode
    head.precision = "float32"
    specs = tuple(replace(spec, precision="float32", dtype="float32") for spec in model.specs)
    return replace(model, head=head, specs=specs)


@torch.inference_mode()
def ours(model: Predictor, pixels: Pixels) -> Values:
    """What our own engine and head answer on views (N, 3, S, S)."""
    features = _features(model, pixels).to(next(iter(model.head.state_dict().values())).device)
    raw = model.head(features)
    raw = tuple(level.cpu() for level in raw) if isinstance(raw, tuple) else raw.cpu()
    answers: Values = OutputLayer(model)(raw)
    return answers


def difference(run: Runner, wanted: Values, pixels: Pixels, names: Sequence[str]) -> float:
    """The largest difference of any number of a file's answers of these names, asked in batches of different sizes.

    It is relative for numbers above 1: boxes are in pixels.
    """
    batches = np.split(pixels, np.cumsum(BATCHES))
    found = [run(batch) for batch in batches if len(batch)]
    return max(largest(np.concatenate([one[name] for one in found]), wanted[name]) for name in wanted if name in names)


def largest(found: object, wanted: torch.Tensor) -> float:
    """The largest difference, relative for numbers above 1; nan where a number is."""
    return float(((torch.as_tensor(found) - wanted).abs() / wanted.abs().clamp(min=1)).max())


def same_class(one: Values, other: Values) -> int | None:
    """For how many images two answers name the same class; None of boxes."""
    if "probabilities" not in one:
        return None
    return int((one["probabilities"].argmax(1) == other["probabilities"].argmax(1)).sum())


def _features(model: Predictor, pixels: Pixels) -> torch.Tensor:
    """What the head takes of views, as the stage extract keeps it."""
    if model.provenance["cut"] == h5.INPUT:
        return torch.from_numpy(pixels).float()
    each = [_rows(spec, pixels) for spec in model.specs]
    rows = each[0] if len(each) == 1 else {joined.LAYER: np.concatenate([one[joined.LAYER] for one in each], 1)}
    members = {h5.LAYER + name: layer[:, None] for name, layer in rows.items()}
    members["views"] = np.zeros((len(pixels), 1, 2, 3), np.float32)
    extents = torch.ones((len(pixels), 2), dtype=torch.long)
    part = data.unlabelled(h5.Features(members, model.provenance), extents, model.params)
    return part.batch(torch.arange(len(pixels)))


def _rows(spec: Spec, pixels: Pixels) -> dict[str, h5.Array]:
    """Layer -> (N, …), in batches of the size that features are computed in, padded."""
    ready, made = load_extractor(spec), list[list[h5.Array]]()
    assert ready.engine is not None
    size = ready.batch_size
    for first in range(0, len(pixels), size):
        batch = torch.from_numpy(pixels[first : first + size])
        padded = torch.cat([batch, torch.zeros((size - len(batch), *batch.shape[1:]), dtype=torch.uint8)])
        made.append([layer[: len(batch)] for layer in ready.engine(padded)])
    layers = zip(ready.layers.items(), zip(*made, strict=True), strict=True)
    return {name: np.concatenate(batches).astype(dtype) for (name, (_, dtype)), batches in layers}
