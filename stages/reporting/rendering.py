"""What all pages share: templates with their filters, the style and the script. Names are hostile until escaped."""

import base64
import hashlib
import json
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from stages.errors import counted
from stages.reporting import words

TEMPLATES = Path(__file__).parent / "templates"
LISTED = 200  # duplicates, bad images and others: a page lists at most this many of each
ENTITY = re.compile(r"&(?=#?\w+;)")  # in Markdown an ampersand begins one only there
MARKDOWN = re.compile(r"[\\`*\[\]|~$]|(?<![A-Za-z0-9])[_#]|_(?![A-Za-z0-9])")  # a_b is no emphasis


def environment(*folders: Path, escape: bool) -> Environment:
    """The templates of this room and of other folders, with the filters that they use.

    Args:
        folders: of other templates.
        escape: whether text is escaped for HTML.
    """
    templates = Environment(
        loader=FileSystemLoader([*folders, TEMPLATES]),
        autoescape=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {"json": embedded, "md": escaped, "fence": fence}
    templates.filters |= {"percent": words.percent, "number": words.number, "counted": counted}
    return templates


def shell() -> dict[str, str]:
    """Style and script of every page, and the checksum by which the page's policy allows the script."""
    script = (TEMPLATES / "script.js.j2").read_text(encoding="utf-8")
    return {
        "style": Markup((TEMPLATES / "style.css.j2").read_text(encoding="utf-8")),
        "script": Markup(script),
        "script_sha256": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }


def escaped(value: object) -> str:
    """Text for a cell of a Markdown table: one line, without markup or HTML."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(value))
    text = MARKDOWN.sub(lambda match: "\\" + match[0], ENTITY.sub("&amp;", text))
    return text.replace("<", "&lt;").replace(">", "&gt;")


def embedded(value: object) -> Markup:
    """Data for the script of a page, as JSON that cannot end the element around it."""
    return Markup(json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"))


def fence(text: str) -> str:
    """As many backticks as it takes for a code block around `text`."""
    return "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
