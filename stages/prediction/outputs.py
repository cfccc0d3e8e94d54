"""The files that predict writes for detected boxes: pictures, COCO's results, or YOLO's label files."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Protocol

from stages import files, paths
from stages.boxes.geometry import Detections
from stages.datasets import coco
from stages.errors import UserError, listed
from stages.images.decode import decode
from stages.prediction import answers
from stages.prediction.answers import PIXEL_DIGITS, SCORE_DIGITS
from stages.prediction.image_files import ImageFile
from stages.prediction.predictor import Predictor

CLASSES = "classes.txt"  # the names of the classes, beside YOLO's label files


class Output(Protocol):
    """Where the boxes of images go.

    Attributes:
        key: what predict's JSON calls the file of an image; empty if an image has no file of its own.
    """

    key: ClassVar[str]

    def add(self, file: ImageFile, detections: Detections) -> Path:
        """Takes the boxes of an image, in its pixels; returns the file that has them, now or in the end."""

    def close(self) -> None:
        """Writes what waits until all images are known."""


class Pictures:
    """Pictures of the images with their boxes.

    Args:
        folder: for the pictures.
        predictor: names the classes.
    """

    key: ClassVar[str] = "drawn"

    def __init__(self, folder: Path, predictor: Predictor) -> None:
        self.folder, self.predictor = folder, predictor

    def add(self, file: ImageFile, detections: Detections) -> Path:
        """Writes the picture of an image."""
        from stages.prediction import drawing  # brings matplotlib for its font

        pixels = decode(Path(file.path).read_bytes())
        picture = drawing.draw(pixels, detections, answers.captions(self.predictor, detections))
        return drawing.write(picture, self.folder, file)

    def close(self) -> None:
        """Nothing waits."""


class CocoResults:
    """COCO's results: a list of {image_id, category_id, bbox: [x, y, width, height] in pixels, score}.

    Each entry also has `file_name` and `category_name`, which evaluators pass over. Images and categories are numbered
    from 1 in the order of the predictions and of the classes, or as a file of annotations numbers them.

    Args:
        path: of the file.
        predictor: names the classes.
        ids: a file of annotations in COCO's format.

    Raises:
        UserError: that file cannot be read, or it lacks a class.
    """

    key: ClassVar[str] = ""

    def __init__(self, path: Path, predictor: Predictor, ids: Path | None = None) -> None:
        self.path, self.ids, self.classes = path, ids, predictor.classes
        self.results, self.count = list[dict[str, Any]](), 0
        self.categories = dict(zip(self.classes, range(1, len(self.classes) + 1), strict=True))
        self.images = dict[str, list[tuple[str, Any]]]()  # name without folders -> name in the file, number
        if ids:
            contents = coco.load(ids)
            self.categories = {str(category.get("name")): category.get("id") for category in contents["categories"]}
            for image in contents["images"]:
                name = str(image.get("file_name"))
                self.images.setdefault(os.path.basename(name), []).append((name, image.get("id")))
            if lacking := [name for name in self.classes if name not in self.categories]:
                raise UserError(f"`--ids`: {ids} has no category {listed(lacking)}, which the head knows.")

    def add(self, file: ImageFile, detections: Detections) -> Path:
        """Takes the boxes of an image."""
        self.count += 1
        image_id = self._image_id(file.path) if self.ids else self.count
        rows = zip(detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True)
        for (x1, y1, x2, y2), score, label in rows:
            name = self.classes[label]
            self.results.append({
                "image_id": image_id,
                "category_id": self.categories[name],
                "bbox": [round(side, PIXEL_DIGITS) for side in (x1, y1, x2 - x1, y2 - y1)],
                "score": round(score, SCORE_DIGITS),
                "file_name": file.path,
                "category_name": name,
            })  # fmt: skip
        return self.path

    def close(self) -> None:
        """Writes the file."""
        files.write_json(self.path, self.results)

    def _image_id(self, path: str) -> Any:
        """The number of an image in the file of annotations; of several with its name, that in the same folders."""
        candidates = self.images.get(os.path.basename(path), [])
        if len(candidates) > 1:
            whole = Path(os.path.abspath(path)).as_posix()
            candidates = [candidate for candidate in candidates if whole.endswith(f"/{candidate[0]}")]
        if len(candidates) != 1:
            raise UserError(
                f"{path} has {len(candidates)} entries in {self.ids} (`--ids`), expected one: predict only images of "
                "that file, or leave `--ids` out."
            )
        return candidates[0][1]


class YoloLabels:
    """YOLO's label files, and the names of the classes beside them: `dataset: yolo` and tools for labelling read them.

    An image has a file of its name, below the folders that it has below the argument that named it.

    Args:
        folder: for the files.
        predictor: names the classes.
        arguments: of the command: images and folders.
    """

    key: ClassVar[str] = "labels"

    def __init__(self, folder: Path, predictor: Predictor, arguments: Iterable[str]) -> None:
        self.folder, self.predictor = folder, predictor
        self.folders = [paths.typed_path(path) for path in arguments if os.path.isdir(paths.typed(path))]
        self.image_of = dict[Path, str]()

    def add(self, file: ImageFile, detections: Detections) -> Path:
        """Writes the label file of an image.

        Raises:
            UserError: another image of this run has the same name.
        """
        image, (width, height) = Path(file.path), file.extent
        home = next((folder for folder in self.folders if image.is_relative_to(folder)), image.parent)
        path = self.folder / image.relative_to(home).with_suffix(".txt")
        if (other := self.image_of.setdefault(path, file.path)) != file.path:
            raise UserError(f"{other} and {file.path} would share {path}: rename one of them.")
        lines = []
        for (x1, y1, x2, y2), label in zip(detections.boxes.tolist(), detections.labels.tolist(), strict=True):
            shares = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
            lines.append(" ".join([str(label), *(f"{share:.6f}" for share in shares)]))
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(path, "".join(f"{line}\n" for line in lines).encode())
        return path

    def close(self) -> None:
        """Writes the names of the classes."""
        names = "".join(f"{' '.join(name.split())}\n" for name in self.predictor.classes)  # one line each
        files.write_bytes(self.folder / CLASSES, names.encode())
