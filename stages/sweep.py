"""sweep: a grid of heads, trained at once on the cached features and compared on validation.

It reads the features, index and split of the last `dvc repro`; every knob that is not an axis comes from params.yaml.
The settings of params.yaml itself are always among those compared. The test split is never used.
"""

import argparse
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from statistics import mean, stdev

from stages import command, files, paths
from stages.backbones.device import pick_head_device
from stages.errors import UserError, counted
from stages.features.forecast import duration
from stages.features.h5 import INPUT
from stages.heads.registry import head_with_rate
from stages.params import Params, load, with_overrides
from stages.sweeping import heatmap, many_heads
from stages.training import data, epochs, history, learning_rate

EXAMPLES = "  python -m stages.sweep --lr 0.0003,0.001,0.003 --weight-decay 0,0.01,0.1 --seeds 3"
AXES = ("lr", "weight_decay", "dropout", "label_smoothing")
FACTORS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)  # times `lr`, if `--lr` is left out
DECAYS = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
SHOWN = 10  # settings in the table of sweep.md, and
PRINTED = 5  # on the terminal
CSV, PAGE, MAP = (paths.REPORTS / name for name in ("sweep.csv", "sweep.md", "sweep.png"))


@dataclass(frozen=True)
class SweepRow:
    """A setting and its results on validation: means over the seeds, or None if the loss of a seed was not finite."""

    lr: float
    weight_decay: float
    dropout: float
    label_smoothing: float
    seeds: int
    val_loss: float | None = None
    val_accuracy: float | None = None
    val_accuracy_sd: float | None = None
    best_epoch: float | None = None
    val_map: float | None = None
    val_map_sd: float | None = None

    @property
    def choice(self) -> float | None:
        """Accuracy, or mAP where images have several labels."""
        return self.val_accuracy if self.val_map is None else self.val_map


def main(params: Params, axes: Mapping[str, str | None], seeds: int) -> list[SweepRow]:
    """Trains the grid and writes the table, the heat map and the page; returns the settings, best first.

    Args:
        params: of the current folder.
        axes: values separated by commas, by the names in `AXES`; None for the default of an axis.
        seeds: heads per setting, the first with `seed` itself.

    Raises:
        UserError: an axis is empty, does not matter to the head or has values that params.yaml could not have; or the
            head cannot be trained in a stack on vectors; or every setting diverged.
    """
    current, params = params, with_overrides(params, {"head": head_with_rate(params.head)})
    settings = grid(params, axes)
    seeded = [vary(setting, "seed", params.seed + number) for setting in settings for number in range(seeds)]
    head_data, device = data.load_data(params), pick_head_device(params.device)
    train, val = head_data.splits["train"], head_data.splits["val"]
    if not len(train.y) or not len(val.y):
        raise UserError(f"There are {len(train.y)} train and {len(val.y)} val images: both are needed (see `split`).")
    params, seeded = (
        epochs.resolve(params, len(train.y))[0],
        [epochs.resolve(setting, len(train.y))[0] for setting in seeded],
    )
    command.LOG.info(_announcement(len(seeded), len(train.y), params))
    best_epochs: list[tuple[float, float, int] | None] = [None] * len(seeded)
    for index, head in many_heads.fit(params.head, head_data, settings=seeded, device=device):
        if head:
            best = head.history[head.best_epoch - 1]
            best_epochs[index] = best.val_loss, best.choice, head.best_epoch
    results = [best_epochs[first : first + seeds] for first in range(0, len(seeded), seeds)]
    rows = [_row(*row, several=head_data.multilabel) for row in zip(settings, results, strict=True)]
    rows = sorted(rows, key=lambda row: _score(row, params.monitor))
    if rows[0].val_loss is None:
        raise UserError(f"The loss of all {len(rows)} settings is not finite: try smaller values of `--lr`.")
    _write(rows, current, axes)
    return rows


def _announcement(heads: int, images: int, params: Params) -> str:
    """What is about to be trained, and for how long at most: heads in a stack take less time than one by one."""
    words = f"trains {heads} {params.head} heads at once, up to {counted(params.epoch_count, 'epochs')} on "
    words += counted(images, "images")
    try:
        last = json.loads((paths.TIMINGS / "train.json").read_text())
        seconds, of = float(last["seconds"]), {"head": last["of"]["head"], "images": last["train images"]}
    except (OSError, ValueError, TypeError, KeyError):
        return words
    if of != {"head": params.head, "images": images}:
        return words
    return f"{words}; `dvc repro` took {seconds:.1f} s for one, so this takes {duration(heads * seconds)} at most"


def grid(params: Params, axes: Mapping[str, str | None]) -> list[Params]:
    """The params of every combination, and those of params.yaml itself if they are not among them.

    Raises:
        UserError: see `main`.
    """
    if params.head not in many_heads.STACKABLE:
        raise UserError(f"`sweep` trains heads {' and '.join(many_heads.STACKABLE)}, found head: {params.head}.")
    if params.tap != "same" or params.cut == INPUT:
        raise UserError(
            f"`sweep` trains heads on cached vectors, found cut={params.cut}, tap={params.tap}: take tap=same (and no "
            "`phases`) with any cut except input, or change `lr` and `lr_backbone` with `dvc exp run -S`."
        )
    if params.head == "linear" and axes["dropout"] is not None:
        raise UserError("`--dropout` does not matter to head linear: leave it out, or take head: mlp.")
    default = {
        "lr": [float(f"{factor * params.learning_rate:.3g}") for factor in FACTORS],
        "weight_decay": list(DECAYS),
        "dropout": [params.dropout],
        "label_smoothing": [params.label_smoothing],
    }
    values = {name: default[name] if (text := axes[name]) is None else _parse(name, text) for name in AXES}
    settings = [params]
    for name in AXES:
        settings = [vary(setting, name, value) for setting, value in product(settings, values[name])]
    return settings if params in settings else [*settings, params]


def vary(params: Params, name: str, value: float) -> Params:
    """Params with another value of one knob, checked as params.yaml is checked.

    Raises:
        UserError: params.yaml could not have that value.
    """
    try:
        return with_overrides(params, {name: value})
    except UserError as error:
        message = str(error).replace(f"{paths.PARAMS}: `{name}`", f"`--{name.replace('_', '-')}`")
        raise UserError(message.replace("must be auto or", "must be")) from None  # an axis has numbers alone


def train_command(best: SweepRow, params: Params) -> str:
    """The command that trains with the settings of a row; it names the head where params.yaml leaves that to `auto`."""
    head = head_with_rate(params.head)
    named = [] if head == params.head else [f"-S head={head}"]
    names = [name for name in AXES if getattr(best, name) != getattr(params, name)]
    return " ".join(["dvc exp run", *named, *(f"-S {name}={getattr(best, name)!r}" for name in names or AXES[:2])])


def table(rows: Sequence[SweepRow]) -> list[list[str]]:
    """The cells of a table, its header first. lr and weight decay always have a column, other axes if they vary."""
    axes = [name for name in AXES if name in AXES[:2] or len({getattr(row, name) for row in rows}) > 1]
    score = "val accuracy" if rows[0].val_map is None else "val mAP"
    head = [*axes, score, "val cross-entropy", "best epoch"]
    return [head] + [[*(f"{getattr(row, name):g}" for name in axes), *_results(row)] for row in rows]


def _results(row: SweepRow) -> list[str]:
    if row.val_loss is None or row.choice is None:
        return ["diverged", "", ""]
    deviation = row.val_accuracy_sd if row.val_map is None else row.val_map_sd
    spread = "" if deviation is None else f" ± {deviation:.2%}"
    return [f"{row.choice:.2%}{spread}", f"{row.val_loss:.4f}", f"{row.best_epoch:g}"]


def _parse(name: str, text: str) -> list[float]:
    """The values of an axis, each once, in their order."""
    flag = f"--{name.replace('_', '-')}"
    try:
        values = [float(number) for number in text.split(",") if number.strip()]
    except ValueError as error:
        raise UserError(f"`{flag}` takes numbers separated by commas ({error}), e.g. {flag} 0.001,0.01.") from None
    if not values:
        raise UserError(
            f"`{flag}` is empty: give numbers separated by commas, e.g. {flag} 0.001,0.01, or leave it out."
        )
    return list(dict.fromkeys(values))


def _row(params: Params, results: Sequence[tuple[float, float, int] | None], *, several: bool) -> SweepRow:
    """The means over the seeds of a setting."""
    setting = {name: getattr(params, name) for name in AXES} | {"seeds": len(results)}
    converged = [result for result in results if result]
    if len(converged) < len(results):
        return SweepRow(**setting)
    loss, score, epoch = (list(values) for values in zip(*converged, strict=True))
    name, deviation = "val_map" if several else "val_accuracy", stdev(score) if len(score) > 1 else None
    means = {"val_loss": mean(loss), "best_epoch": mean(epoch), name: mean(score), f"{name}_sd": deviation}
    return SweepRow(**setting, **means)


def _score(row: SweepRow, monitor: str) -> tuple[float, float]:
    """A key that sorts the rows, best first; those that diverged come last."""
    if row.val_loss is None or row.choice is None:
        return float("inf"), 0.0
    return history.score(row.val_loss, row.val_accuracy, monitor=monitor, map=row.val_map)


def _write(rows: Sequence[SweepRow], params: Params, axes: Mapping[str, str | None]) -> None:
    """The table, the heat map and the page."""
    other = "val_accuracy" if rows[0].val_map is not None else "val_map"  # of the other kind of labels
    header = [name for name in asdict(rows[0]) if not name.startswith(other)]
    cells = ({name: value for name, value in asdict(row).items() if name in header} for row in rows)
    files.write_csv(CSV, header, cells, digits=6)
    points = [(row.lr, row.weight_decay, getattr(row, params.monitor)) for row in rows]
    files.write_bytes(MAP, heatmap.draw(points, params.monitor))
    files.write_text(PAGE, page(rows, params, axes))


def page(rows: Sequence[SweepRow], params: Params, axes: Mapping[str, str | None]) -> str:
    """The page, in Markdown.

    Args:
        rows: the settings, best first.
        params: of the current folder.
        axes: as in `main`.
    """
    flags = [f"--{name.replace('_', '-')} {value}" for name, value in axes.items() if value is not None]
    sweep_command = shlex.join(
        ["python", "-m", "stages.sweep", *" ".join([*flags, f"--seeds {rows[0].seeds}"]).split()]
    )
    header, *body = [f"| {' | '.join(cells)} |" for cells in table(rows[:SHOWN])]
    subject = f"head {head_with_rate(params.head)} on {params.dataset}, {params.backbone}, {params.cut}"
    return "\n".join([
        "# Sweep", "",
        f"{len(rows)} settings of {subject}; {counted(rows[0].seeds, 'seeds')} each, chosen by {params.monitor}.", "",
        "The best on validation; the test split was not used:", "",
        header, "|---" * header.count(" | ") + "|---|", *body, "",
        f"![{params.monitor} by learning rate and weight decay](sweep.png)", "",
        "Train the best:", "", "```sh", train_command(rows[0], params), "```", "",
        "Make this page again:", "", "```sh", sweep_command, "```", "",
    ])  # fmt: skip


def _print(options: argparse.Namespace) -> int:
    """Sweeps, and prints the best."""
    if options.seeds < 1:
        raise UserError(f"`--seeds` must be at least 1, found {options.seeds}.")
    params = learning_rate.resolve(load())[0]
    rows = main(params, {name: getattr(options, name) for name in AXES}, options.seeds)
    cells = table(rows[:PRINTED])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    print(f"{len(rows)} settings: {CSV}, {PAGE}, {MAP}. The best:\n{train_command(rows[0], params)}")
    return 0


def run() -> None:
    """Reads the arguments and sweeps."""
    parser = command.parser("sweep", description=__doc__, examples=EXAMPLES)
    for name in AXES:
        parser.add_argument(f"--{name.replace('_', '-')}", metavar="VALUES", help="values separated by commas")
    parser.add_argument("--seeds", type=int, default=1, help="heads per setting, with seed, seed + 1, …")
    command.run(_print, parser.parse_args())


if __name__ == "__main__":
    run()
