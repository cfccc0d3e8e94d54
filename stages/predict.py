"""Predicts new images with the head of the last run: their classes or labels, or the boxes of their objects.

The backbone, the preprocessing, the cut and the tap are those that the head was trained with, whatever params.yaml says
now. Images that cannot be read are reported and skipped; the exit code is then 1.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable
from contextlib import redirect_stdout

from tqdm import tqdm

from stages import command, paths
from stages.boxes.geometry import Detections
from stages.command import LOG
from stages.errors import UserError, counted
from stages.features.extraction import load_extractor
from stages.prediction import answers, image_files, outputs, predictor
from stages.prediction.outputs import Output
from stages.prediction.predictor import Predictor

EXAMPLES = """\
  python -m stages.predict photo.jpg holiday/
  python -m stages.predict --json --top 1 holiday/ > predictions.jsonl
  find . -name '*.jpg' | python -m stages.predict --out pictures -
  python -m stages.predict --format yolo --out labels holiday/
  python -m stages.predict --format coco --out results.json --ids instances_val.json --confidence 0 holiday/"""
PICTURES, COCO, YOLO = "pictures", "coco", "yolo"
QUIET_SECONDS = 2  # before a progress bar shows
TOLERANCE = (  # as measured on the built-in logos, between float32 and bfloat16
    "probabilities may differ by 0.02, a few by 0.15, scores of boxes by 0.06, their corners by 1 % of the image's side"
)


def main(arguments: argparse.Namespace) -> int:
    """Prints one line per image; returns 1 if any image could not be read."""
    with redirect_stdout(sys.stderr):  # standard output is for results
        loaded = predictor.load()
    _check(arguments, loaded)
    _introduce(loaded)
    output = _output(arguments, loaded) if arguments.out else None
    confidence = loaded.decide.confidence if arguments.confidence is None else arguments.confidence
    names: Iterable[str] = image_files.expand(arguments.paths)
    if image_files.STDIN not in arguments.paths:  # whose lines are answered as they come
        names = list(names)
    started, count, failed = time.perf_counter(), 0, 0
    total = len(names) if isinstance(names, list) else None
    hide = True if arguments.quiet else None  # None: shown on a terminal
    with tqdm(total=total, unit=" images", delay=QUIET_SECONDS, disable=hide) as progress:
        for file, prediction in answers.predict(loaded, names):
            if isinstance(prediction, Detections):
                prediction = answers.confident(prediction, confidence, arguments.top)
            line = answers.answer(loaded, file, prediction, confidence=arguments.confidence, top=arguments.top)
            if output and isinstance(prediction, Detections):
                written = output.add(file, prediction)
                line |= {output.key: str(written)} if output.key else {}
            tqdm.write(json.dumps(line) if arguments.json else answers.sentence(line), file=sys.stdout)
            sys.stdout.flush()
            count, failed = count + 1, failed + ("error" in line)
            progress.update()
    if not count:
        raise UserError("No path came on standard input: expected one per line, such as `find . -name '*.jpg'` gives.")
    if output:
        output.close()
    seconds = time.perf_counter() - started
    unread = f"; {counted(failed, 'paths')} could not be read" if failed else ""
    LOG.info("%s in %.1f s%s", counted(count - failed, "images"), seconds, unread)
    return int(failed > 0)


def _output(arguments: argparse.Namespace, loaded: Predictor) -> Output:
    """Where the boxes go."""
    if arguments.format == COCO:
        return outputs.CocoResults(arguments.out, loaded, arguments.ids)
    if arguments.format == YOLO:
        return outputs.YoloLabels(arguments.out, loaded, arguments.paths)
    return outputs.Pictures(arguments.out, loaded)


def _check(arguments: argparse.Namespace, loaded: Predictor) -> None:
    if arguments.confidence is not None and not 0 <= arguments.confidence <= 1:
        raise UserError(f"`--confidence` must be from 0 to 1, found {arguments.confidence:g}.")
    if arguments.top is not None and arguments.top < 1:
        raise UserError(f"`--top` must be at least 1, found {arguments.top}.")
    if arguments.out and (not loaded.finds_boxes or loaded.predicts == "class"):
        raise UserError(f"`--out` writes boxes, but the head {loaded.described['head']} predicts none: leave it out.")
    if arguments.format and not arguments.out:
        raise UserError(
            f"`--format {arguments.format}` needs `--out`, a {'file' if arguments.format == COCO else 'folder'}."
        )
    if arguments.format in (COCO, YOLO) and loaded.predicts == "box":
        raise UserError(
            f"`--format {arguments.format}` needs classes, and this head predicts boxes alone: leave it out."
        )
    if arguments.ids and arguments.format != COCO:
        raise UserError("`--ids` numbers COCO's results: add `--format coco`, or leave it out.")
    if arguments.format == COCO and arguments.out.suffix.lower() != ".json":
        raise UserError(f"`--format coco` writes one file: `--out` must end in .json, found {arguments.out.name!r}.")


def _introduce(loaded: Predictor) -> None:
    """Says what predicts and on what device; where that differs from training, how far results may differ."""
    described, provenance = loaded.described, load_extractor(loaded.specs[0]).provenance
    engine = [str(provenance[key]) for key in ("engine", "device", "precision") if key in provenance] or ["torch"]
    if "batch_size" in provenance:
        engine.append(f"batches of {provenance['batch_size']}")
    if loaded.decide.tta and len(loaded.specs[0].views) > 1:
        engine.append(f"{len(loaded.specs[0].views)} views averaged")
    LOG.info(
        "%s on %s (cut %s, tap %s), %s, trained on %s; %s",
        *(described["head"], loaded.provenance["backbone"], loaded.provenance["cut"], described["tap"]),
        *(counted(len(loaded.classes), "classes"), described["params"]["dataset"], ", ".join(engine)),
    )
    if changed := predictor.differences(loaded):
        LOG.info("This differs from training: %s. Therefore %s.", ", ".join(changed), TOLERANCE)
        for name, values in changed.items():
            LOG.debug("  %s: %s", name, values)


def run() -> None:
    """Parses the arguments and predicts."""
    parser = command.parser("predict", description=__doc__, examples=EXAMPLES)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="an image, a folder, or - for paths on standard input")
    parser.add_argument("--json", action="store_true", help="print one line of JSON per image")
    parser.add_argument(
        "--out",
        type=paths.typed_path,
        metavar="PATH",
        help="where to write boxes: a folder, or a file with `--format coco`",
    )
    parser.add_argument(
        "--format",
        choices=(PICTURES, COCO, YOLO),
        help="what to write: pictures with the boxes drawn in (default), coco (one .json of results), yolo (labels)",
    )
    parser.add_argument(
        "--ids",
        type=paths.typed_path,
        metavar="FILE",
        help="a COCO annotation file: the results use its numbers of images and categories",
    )
    parser.add_argument(
        "--top",
        type=int,
        metavar="K",
        help=f"list K classes per image (default: {answers.TOP}), or at most K boxes (default: all)",
    )
    parser.add_argument(
        "--confidence",
        type=float,
        metavar="T",
        help="print boxes from this score on, mark less probable classes as not sure (default: decide.confidence); "
        "with several labels, print those of at least this probability (default: the threshold of each label)",
    )
    command.run(main, parser.parse_args())


if __name__ == "__main__":
    run()
