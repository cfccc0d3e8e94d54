"""Asks the head of the last run about new images: their classes, or the boxes of their objects.

Backbone, preprocessing, cut, tap and head are those that the head was trained with, whatever params.yaml says now.
Images that cannot be read are told and passed over; the exit code is 1 then.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from stages import command
from stages.boxes.geometry import Detections
from stages.command import LOG, shown
from stages.errors import UserError
from stages.features.extraction import Image, load_extractor, reason
from stages.images.decode import decode
from stages.prediction import files, model
from stages.prediction.files import ImageFile
from stages.prediction.model import Answer, Predictor

EXAMPLES = """\
  python -m stages.predict photo.jpg holiday/
  python -m stages.predict --json --top 1 holiday/ > answers.jsonl
  find . -name '*.jpg' | python -m stages.predict --out drawn -"""
BATCHES = 4  # answered at a time: decoding and computing overlap within these
TOP = 5  # classes told of an image
LIKELY = 0.005  # of the classes after the first, in a line for people
QUIET_SECONDS = 2  # before a progress bar shows
TOLERANCE = (  # as measured on the built-in logos, between float32 and bfloat16
    "probabilities may differ by 0.02, some by 0.15, scores of boxes by 0.06, their sides by 1 % of the image's"
)
DIGITS, PIXEL_DIGITS = 6, 3  # of scores and of boxes
Line = dict[str, Any]


def main(given: argparse.Namespace) -> int:
    """Answers file by file; returns 1 if any could not be read."""
    with redirect_stdout(sys.stderr):  # which is for results
        predictor = model.load()
    _check(given, predictor)
    _introduce(predictor)
    confidence = predictor.decide.confidence if given.confidence is None else given.confidence
    names = files.named(given.paths) if files.STDIN in given.paths else list(files.named(given.paths))
    started, count, bad = time.perf_counter(), 0, 0
    total = len(names) if isinstance(names, list) else None
    with tqdm(total=total, unit=" images", delay=QUIET_SECONDS, disable=True if given.quiet else None) as progress:
        for file, answer in answered(predictor, names):
            found = _sure(answer, confidence, given.top) if isinstance(answer, Detections) else answer
            line = {"path": file.path} | _told(predictor, file, found, confidence, given.top)
            if given.out and isinstance(found, Detections):
                line["drawn"] = str(_drawn(predictor, file, found, given.out))
            tqdm.write(json.dumps(line) if given.json else sentence(line), file=sys.stdout)
            sys.stdout.flush()
            count, bad = count + 1, bad + ("error" in line)
            progress.update()
    seconds = time.perf_counter() - started
    LOG.info("%d images in %.1f s%s", count, seconds, f", {bad} of them could not be read" if bad else "")
    return int(bad > 0)


def answered(predictor: Predictor, names: Iterable[str]) -> Iterator[tuple[ImageFile, Answer | str]]:
    """Files in their order, each with its answer or the reason why there is none."""
    looked = map(files.look, names)
    while some := list(islice(looked, BATCHES * predictor.specs[0].batch_size)):
        good = [file for file in some if not file.problem]
        answers = iter(_answers(predictor, good))
        for file in some:
            yield file, file.problem or next(answers)


def _answers(predictor: Predictor, good: Sequence[ImageFile]) -> list[Answer | str]:
    """Answers and reasons; where one image stops all (a file that changed meanwhile), each is asked alone."""
    if not good:
        return []
    images: list[Image] = [(os.path.abspath(file.path), file.sha256) for file in good]
    try:
        found = predictor.answers(images, [file.extent for file in good])
    except UserError as error:
        if len(good) == 1:
            return [str(error)]
        return [answer for file in good for answer in _answers(predictor, [file])]
    pairs = zip(images, found, strict=True)
    return [reason(predictor.specs[0], image) if answer is None else answer for image, answer in pairs]


def _sure(found: Detections, confidence: float, most: int | None) -> Detections:
    """The boxes with at least this score, the surest first."""
    order = found.scores.argsort(descending=True)
    return found.pick(order[found.scores[order] >= confidence][:most])


def _told(predictor: Predictor, file: ImageFile, answer: Answer | str, confidence: float, top: int | None) -> Line:
    """What a line of JSON says of an image beside its path."""
    if isinstance(answer, str):
        return {"error": answer}
    if isinstance(answer, Detections):
        width, height = file.extent
        return {"width": width, "height": height, "boxes": list(_objects(predictor, answer))}
    best = answer.topk(min(top or TOP, len(answer)))
    pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    likely = [{"label": predictor.classes[place], "probability": round(value, DIGITS)} for value, place in pairs]
    return likely[0] | {"confident": float(best.values[0]) >= confidence, "top": likely}


def _objects(predictor: Predictor, found: Detections) -> Iterator[Line]:
    """Objects as far as the head predicts them: class and score, box in pixels of the image, or both."""
    for box, score, label in zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True):
        named = {"label": predictor.classes[label], "score": round(score, DIGITS)}
        placed = {"box": [round(side, PIXEL_DIGITS) for side in box]}
        yield {"box": placed, "class": named, "both": named | placed}[predictor.predicts]


def sentence(line: Line) -> str:
    """A line for people."""
    path = shown(line["path"])
    if "error" in line:
        return f"{path}: error: {shown(line['error'])}"
    if "top" in line:
        unsure = "" if line["confident"] else "not sure: "
        likely = [line["top"][0], *(one for one in line["top"][1:] if one["probability"] >= LIKELY)]
        return f"{path}: {unsure}{', '.join(_percent(one, 'probability') for one in likely)}"
    drawn = f" -> {shown(line['drawn'])}" if "drawn" in line else ""
    return f"{path}: {'; '.join(map(_object, line['boxes'])) or 'nothing found'}{drawn}"


def _object(one: Line) -> str:
    named = _percent(one, "score") if "label" in one else "an object"
    return f"{named} at {' '.join(f'{side:.0f}' for side in one['box'])}" if "box" in one else named


def _percent(one: Line, key: str) -> str:
    return f"{shown(one['label'])} {one[key]:.1%}"


def _drawn(predictor: Predictor, file: ImageFile, found: Detections, folder: Path) -> Path:
    from stages.prediction import drawing  # matplotlib has the font

    pixels = decode(Path(file.path).read_bytes())
    names = [_percent(one, "score") if "label" in one else "" for one in _objects(predictor, found)]
    return drawing.write(drawing.draw(pixels, found, names), folder, file)


def _check(given: argparse.Namespace, predictor: Predictor) -> None:
    if given.confidence is not None and not 0 <= given.confidence <= 1:
        raise UserError(f"`--confidence` must be from 0 to 1, found {given.confidence:g}.")
    if given.top is not None and given.top < 1:
        raise UserError(f"`--top` must be at least 1, found {given.top}.")
    if given.out and (not predictor.finds_boxes or predictor.predicts == "class"):
        raise UserError(f"`--out` is for pictures with boxes, and head {predictor.described['head']} finds none here.")


def _introduce(predictor: Predictor) -> None:
    """Says what answers, and on what: where that differs from training, how far answers may."""
    described, made = predictor.described, load_extractor(predictor.specs[0]).provenance
    engine = ", ".join(str(made[key]) for key in ("engine", "device", "precision") if key in made)
    batch = f", batches of {made['batch_size']}" if "batch_size" in made else ""
    LOG.info(
        "%s on %s (cut %s, tap %s), %d classes, trained on %s; %s%s%s",
        *(described["head"], predictor.provenance["backbone"], predictor.provenance["cut"], described["tap"]),
        *(len(predictor.classes), described["params"]["dataset"]),
        *(
            engine or "torch",
            batch,
            f", {len(predictor.specs[0].views)} views averaged" if predictor.decide.tta else "",
        ),
    )
    if changed := model.differences(predictor):
        LOG.info("Not as it was trained (%s): %s.", ", ".join(changed), TOLERANCE)
        for name, values in changed.items():
            LOG.debug("  %s: %s", name, values)


def run() -> None:
    """Reads the arguments and answers."""
    parser = command.parser("predict", __doc__, EXAMPLES)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a file, a folder, or - for paths on standard input")
    parser.add_argument("--json", action="store_true", help="a line of JSON an image, as results come")
    parser.add_argument("--out", type=Path, metavar="DIR", help="a folder for pictures with the boxes drawn in")
    parser.add_argument(
        "--top", type=int, metavar="K", help=f"so many classes ({TOP}), or boxes at most (all), of an image"
    )
    parser.add_argument(
        "--confidence", type=float, metavar="T", help="the least score of a box, or of a sure class (decide.confidence)"
    )
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    command.run(main, parser.parse_args())


if __name__ == "__main__":
    run()
