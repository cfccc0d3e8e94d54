"""Writes the head of the last run with its backbone into one file for other programs, and a model card beside it.

Before the file is there, it is run on test images and compared with coldcut's own answers: where they do not agree,
nothing is written.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from stages import command, files, paths
from stages.command import LOG
from stages.errors import UserError
from stages.exporting import card, check, formats
from stages.exporting.network import ExportedNetwork
from stages.prediction import model
from stages.prediction.model import Predictor
from stages.reporting.gather import read_json

EXAMPLES = """\
  python -m stages.export --format onnx
  python -m stages.export --format torch --out /models/logos.pt2"""
FOLDER = Path("export")
SCORES = ("probabilities", "scores")  # the box of a place without an object may be any
TOLERANCE = 1e-3  # of probabilities and scores, and of boxes relative to their coordinates


def main(given: argparse.Namespace) -> int:
    """Exports, checks, and only then puts the files where they belong."""
    predictor = model.load()
    chosen = formats.FORMATS[given.format]
    out = (
        given.out or FOLDER / f"{predictor.described['params']['dataset']}-{predictor.described['head']}{chosen.suffix}"
    )
    if out.suffix != chosen.suffix:
        raise UserError(f"`--out` must end in {chosen.suffix} with `--format {given.format}`, found {out.name!r}.")
    pixels = check.some_pixels(predictor)
    LOG.info("%s to %s, to be checked on %d images", predictor.described["head"], given.format, len(pixels))
    made = formats.program(ExportedNetwork(predictor), pixels.shape[-1])
    LOG.debug("outputs: %s", ", ".join(made.outputs))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=out.parent, suffix=files.TEMPORARY) as folder:
            answer = formats.write(given.format, made, card.told(predictor), Path(folder) / out.name)
            checked = _checked(predictor, answer, pixels, out.name, given.format)
            metrics = card.metrics_of(predictor, read_json(paths.REPORTS / "metrics.json"))
            (Path(folder) / f"{out.name}.md").write_text(card.write(predictor, checked, metrics), "utf-8")
            for path in sorted(Path(folder).iterdir(), key=lambda path: path.suffix == out.suffix):  # that one last
                files.commit(path, out.parent / path.name)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}.") from None
    LOG.info("agrees to %.1e; with training's precision scores differ by %.1e", checked.difference, checked.moved)
    print(f"{out}, and its card {out}.md")
    return 0


def _checked(
    predictor: Predictor, answer: formats.Runner, pixels: formats.Pixels, name: str, format_: str
) -> card.Checked:
    """How far a file's answers are from ours.

    Raises:
        UserError: too far.
    """
    exact, as_trained = check.ours(check.exact(predictor), pixels), check.ours(predictor, pixels)
    found = check.difference(answer, exact, pixels, list(exact))
    if not found <= TOLERANCE:
        raise UserError(
            f"The {format_} file does not agree with coldcut: a number differs by {found:.1e}, above {TOLERANCE:g}. "
            "Nothing was written; try another format."
        )
    moved = check.difference(answer, as_trained, pixels, SCORES)
    return card.Checked(name, format_, len(pixels), found, moved, check.same_class(exact, as_trained))


def run() -> None:
    """Reads the arguments and exports."""
    parser = command.parser("export", __doc__, EXAMPLES)
    parser.add_argument("--format", choices=list(formats.FORMATS), required=True, help="openvino is two files")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"default: {FOLDER}/DATASET-HEAD.SUFFIX")
    command.run(main, parser.parse_args())


if __name__ == "__main__":
    run()
