"""The page on which people label images: one file for the browser that loads nothing and needs no server."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from stages.reporting import rendering
from stages.reporting.pictures import Picture

TEMPLATES = Path(__file__).parent / "templates"
GUESSES = 9  # classes that have a key of their own, the most probable ones


@dataclass(frozen=True)
class AskedImage:
    """An image to label.

    Attributes:
        picture: to show; it has a thumbnail.
        part: train, val or test: where it will be once it has a label.
        guesses: positions of classes, the most probable first; empty if nothing is known yet.
    """

    picture: Picture
    part: str
    guesses: Sequence[int]


def html(images: Sequence[AskedImage], classes: Sequence[str], name: str) -> str:
    """The page. A guess is preselected for images to learn from, never for those that are judged by.

    Args:
        images: to label, in this order.
        classes: that are known so far.
        name: of the dataset.
    """
    script = (TEMPLATES / "label.js.j2").read_text(encoding="utf-8")
    shown = [
        {
            "path": image.picture.row.path,
            "uri": image.picture.uri,
            "width": image.picture.width,
            "height": image.picture.height,
            "part": image.part,
            "preselect": image.part == "train",
            "guesses": list(image.guesses[:GUESSES]),
        }
        for image in images
    ]
    digest = hashlib.sha256("".join(image.picture.row.sha256 for image in images).encode()).hexdigest()
    page = {"images": shown, "classes": list(classes), "id": digest[:16], "file": f"labels-{digest[:8]}.csv"}
    template = rendering.environment(TEMPLATES, escape=True).get_template("label.html.j2")
    return template.render(
        page=page,
        images=images,
        name=name,
        style=rendering.shell()["style"],
        script=Markup(script),
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
