"""How hard the built-in scenes are: heads on frozen features over three splits, and ridge on 32 x 32 raw pixels.

Run it in a checkout after `dvc repro`, from the top folder: python -m tests.bench.difficulty
"""

import io

import numpy as np
import torch
from PIL import Image

from stages.datasets import index_file, source, splits
from stages.params import Params, load
from stages.training import closed_form, data, loop
from stages.training.data import HeadData, SplitData
from stages.training.model import TrainResult, logits

SPLIT_SEEDS = (0, 1, 2)
RAW_SIZE = 32


def main() -> None:
    """Prints test top-1 of each head and of raw pixels, a row a split seed."""
    params = load()
    rows = index_file.read(params.dataset)
    found, raw = data.load_data(params), raw_pixels(params, rows)
    whole = {row.sha256: place for place, row in enumerate(rows)}
    vectors = torch.zeros(len(rows), *found.splits["train"].x.shape[1:])
    for split in found.splits.values():
        vectors[split.index_positions] = split.x
    print(f"{'split seed':12}{'linear':>8}{'mlp':>8}{'ridge':>8}{'ridge on raw pixels':>22}")
    for seed in SPLIT_SEEDS:
        drawn, _ = splits.draw(rows, params.split.model_copy(update={"seed": seed}))
        places = {name: [whole[image] for image in drawn[name]] for name in drawn}
        features, pixels = lined_up(vectors, rows, places, found), lined_up(raw, rows, places, found)
        device = torch.device("cpu")
        heads = [loop.fit(name, features, params=params, device=device) for name in ("linear", "mlp")]
        scores = [
            top1(head, features) for head in (*heads, closed_form.fit("ridge", features, params=params, device=device))
        ]
        scores.append(top1(closed_form.fit("ridge", pixels, params=params, device=device), pixels))
        print(f"{seed:<12}{scores[0]:>8.3f}{scores[1]:>8.3f}{scores[2]:>8.3f}{scores[3]:>22.3f}", flush=True)


def raw_pixels(params: Params, rows: list[index_file.IndexRow]) -> torch.Tensor:
    """(N, 1, 3072) in [0, 1]."""
    folder = source.folder(params.dataset, params.options, params.root)
    small = [
        np.asarray(
            Image.open(io.BytesIO(source.read(folder, row.path, row.sha256)))
            .convert("RGB")
            .resize((RAW_SIZE, RAW_SIZE))
        )
        for row in rows
    ]
    return torch.from_numpy(np.stack(small).reshape(len(rows), 1, -1)).float() / 255


def lined_up(
    x: torch.Tensor, rows: list[index_file.IndexRow], places: dict[str, list[int]], found: HeadData
) -> HeadData:
    """The parts of a split for any vectors."""
    number = {label: place for place, label in enumerate(found.classes)}
    y = torch.tensor([number[row.label] for row in rows])
    return HeadData(found.classes, {name: SplitData(x[at], y[at], at) for name, at in places.items()}, found.provenance)


def top1(head: TrainResult, judged: HeadData) -> float:
    """Accuracy on the test part."""
    split = judged.splits["test"]
    return float((logits(head.module, split).argmax(1) == split.y).double().mean())


if __name__ == "__main__":
    main()
