"""The heat map of a sweep, as a PNG, which every viewer of Markdown can show."""

import io
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

CELL = 0.62  # inches
TITLES = {
    "val_accuracy": "Validation accuracy, %",
    "val_map": "Validation mAP, %",
    "val_loss": "Validation cross-entropy",
}
DARK = 0.55  # share of the colour scale up to which text is white


def draw(points: Sequence[tuple[float, float, float | None]], metric: str) -> bytes:
    """A PNG of learning rate by weight decay: one cell per pair, with its best value; the best cell has a frame.

    The values of an axis stand at equal steps in their order, as powers do on a logarithmic axis, which leaves room for
    0. The colours span the better half of the values, because a grid reaches far into what does not work.

    Args:
        points: (lr, weight decay, value); the value is None if the heads diverged.
        metric: one of TITLES; only of `val_loss` the lower is the better.
    """
    higher_is_better = metric != "val_loss"
    better = max if higher_is_better else min
    rates, decays = sorted({point[0] for point in points}), sorted({point[1] for point in points})
    values = np.full((len(decays), len(rates)), np.nan)
    for rate, decay, value in points:
        if value is not None:
            row, column = decays.index(decay), rates.index(rate)
            values[row, column] = value if np.isnan(values[row, column]) else better(value, values[row, column])
    goodness = values if higher_is_better else -values
    finite = goodness[~np.isnan(goodness)]
    low, high = (np.median(finite), finite.max()) if len(finite) else (0.0, 0.0)
    with mpl.rc_context({"font.size": 9, "text.parse_math": False}):
        figure = Figure(figsize=(CELL * len(rates) + 1.6, 0.75 * CELL * len(decays) + 1.3), layout="constrained")
        axes = figure.subplots()
        axes.imshow(goodness, cmap="viridis", vmin=low, vmax=high, origin="lower", aspect="auto")
        axes.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
        axes.set_yticks(range(len(decays)), [f"{decay:g}" for decay in decays])
        axes.set(title=TITLES[metric], xlabel="learning rate", ylabel="weight decay")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        for row, column in np.argwhere(~np.isnan(values)):
            shade = (goodness[row, column] - low) / max(high - low, 1e-12)
            text = f"{values[row, column]:.1%}"[:-1] if higher_is_better else f"{values[row, column]:.3g}"
            axes.text(column, row, text, ha="center", va="center", color="white" if shade < DARK else "black")
            if goodness[row, column] == high:
                axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="red", linewidth=2))
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=144, metadata={"Software": None})
    return stream.getvalue()
