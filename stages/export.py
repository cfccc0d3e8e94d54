"""Writes the head of the last run with its backbone into one file for other programs, and a model card next to it.

The file is first run on test images and compared with coldcut's own predictions: where they do not agree, nothing is
written.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from stages import command, files, paths, results
from stages.command import LOG
from stages.errors import UserError
from stages.exporting import card, check, formats
from stages.exporting.network import ExportedNetwork
from stages.prediction import predictor
from stages.prediction.predictor import Predictor
from stages.reporting import words

EXAMPLES = """\
  python -m stages.export --format onnx
  python -m stages.export --format torch --out /models/logos.pt2"""
FOLDER = Path("export")
SCORES = (
    "probabilities",
    "all_scores",
)  # outputs that are compared across precisions: a box without an object may be any
TOLERANCE = 1e-3  # of probabilities and scores, and of boxes relative to their coordinates


def main(arguments: argparse.Namespace) -> int:
    """Exports into a temporary folder, checks, and only then moves the files to where they belong."""
    loaded = predictor.load()
    format_, suffix = arguments.format, formats.FORMATS[arguments.format].suffix
    dataset = loaded.described["params"]["dataset"]
    data = words.indexed_data(results.read_json(paths.index(dataset).with_suffix(".json")))
    out = arguments.out or FOLDER / f"{data.removesuffix(f' ({dataset})')}-{loaded.described['head']}{suffix}"
    if out.suffix != suffix:
        raise UserError(f"`--out` must end in {suffix} with `--format {format_}`, found {out.name!r}.")
    pixels = check.sample_pixels(loaded)
    LOG.info("exporting %s to %s and checking the file on %d images", loaded.described["head"], format_, len(pixels))
    suppresses = loaded.finds_boxes and formats.FORMATS[format_].suppresses
    program = formats.capture(ExportedNetwork(loaded, suppresses=suppresses), pixels.shape[-1])
    LOG.debug("outputs: %s", ", ".join(program.outputs))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=out.parent, suffix=files.TEMPORARY) as folder:
            path = Path(folder) / out.name
            run = formats.write(program, path, format_=format_, metadata=card.metadata(loaded, data))
            checked = _check(loaded, run, pixels, file=out.name, format_=format_)
            metrics = card.metrics_of(loaded, results.read_evaluation())
            Path(f"{path}.md").write_text(card.write(loaded, checked, data, metrics), "utf-8")
            for part in sorted(Path(folder).iterdir(), key=lambda part: part.suffix == suffix):  # the file itself last
                files.commit(part, out.parent / part.name)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}.") from None
    LOG.info(
        "scores differ by at most %.1e from coldcut's in float32, and by %.1e from those at the training precision",
        checked.difference,
        checked.moved,
    )
    print(f"{out}, with its card {out}.md")
    return 0


def _check(loaded: Predictor, run: formats.Runner, pixels: formats.Pixels, *, file: str, format_: str) -> card.Checked:
    """Compares a file with coldcut.

    Args:
        loaded: what was exported.
        run: the file as a function.
        pixels: (N, 3, S, S) views.
        file: name of the file.
        format_: its format.

    Raises:
        UserError: the outputs differ by more than TOLERANCE.
    """
    exact, as_trained = check.predict(check.in_float32(loaded), pixels), check.predict(loaded, pixels)
    difference = check.difference(run, exact, pixels, list(exact))
    if not difference <= TOLERANCE:
        raise UserError(
            f"The {format_} file does not agree with coldcut: a number differs by {difference:.1e}, more than "
            f"{TOLERANCE:g}. Nothing was written; try another format."
        )
    if formats.FORMATS[format_].suppresses and loaded.finds_boxes and not check.suppresses_alike(run, loaded, pixels):
        raise UserError(
            f"The {format_} file does not suppress the same boxes as coldcut. Nothing was written; try another format."
        )
    moved = check.difference(run, as_trained, pixels, SCORES)
    same = check.same_class(exact, as_trained, loaded.thresholds)
    several = loaded.thresholds is not None
    return card.Checked(file, format_, len(pixels), difference, moved, same, several)


def run() -> None:
    """Parses the arguments and exports."""
    parser = command.parser("export", description=__doc__, examples=EXAMPLES)
    parser.add_argument(
        "--format", choices=list(formats.FORMATS), required=True, help="format of the file; openvino writes two files"
    )
    parser.add_argument(
        "--out",
        type=paths.typed_path,
        metavar="FILE",
        help=f"path of the file (default: {FOLDER}/DATA-HEAD.SUFFIX)",
    )
    command.run(main, parser.parse_args())


if __name__ == "__main__":
    run()
