"""Finds the file that an annotation names. If two files fit a name, it is not guessed.

Names may differ from the file's in backslashes, percent-encoding, capitals, normal forms of Unicode, absolute paths of
another machine, the suffix or the folders, as long as exactly one file fits.
"""

import os
import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from stages.datasets.layout import split_named
from stages.datasets.tree import IMAGE_SUFFIXES, may_be_image, named_as_image
from stages.errors import listed
from stages.images.header import looks_like_image

MISSING = "the image is not there"
SEVERAL = "several files fit the image's name"
OUTSIDE = "the image lies outside of root"
SUFFIXES = {*IMAGE_SUFFIXES, ".json", ".txt", ".xml"}
HEAD = 4096  # bytes of a file that tell whether it is an image


class Match(NamedTuple):
    """The file that a name means, or why there is none.

    Attributes:
        path: below the folder; if there is a problem, the name itself.
        problem: empty, or one of the reasons above.
        detail: the files that fit, or the name that was looked for.
    """

    path: str
    problem: str = ""
    detail: str = ""


class ImageFinder:
    """Finds images below a folder by the names that annotations give them.

    Args:
        root: the folder.
        files: the paths of its files, with forward slashes.
    """

    def __init__(self, root: Path, files: Iterable[str]) -> None:
        self.root = root
        self.files = set(files)
        self.by_path, self.by_name, self.by_stem = (defaultdict[str, list[str]](list) for _ in range(3))
        self.folders = {plain(part) for path in self.files for part in path.split("/")[:-1]}
        for path in sorted(self.files):
            self.by_path[plain(path)].append(path)
            self.by_name[plain(posixpath.basename(path))].append(path)
            self.by_stem[stem(posixpath.basename(path))].append(path)

    def find_all(self, names: Sequence[str], homes: Sequence[str] = ("",), split: str | None = None) -> list[Match]:
        """The file that each name means.

        Names are compared exactly first, then more and more loosely. The first comparison with which any file fits
        decides, and a file that was found for one name is not available to looser comparisons of others.

        Args:
            names: as the annotations have them.
            homes: folders that a name may start from, the most likely first.
            split: that of the annotations' list; files in a folder of another split do not fit.
        """
        matches, taken = dict[int, Match](), set[str]()
        likenesses = (
            self._exact,
            self._spelled,
            self._of_other_suffix,
            self._elsewhere,
            self._elsewhere_of_other_suffix,
        )
        for strength, likeness in enumerate(likenesses):
            matched = set[str]()
            for number, name in enumerate(names):
                if number not in matches:
                    asked = name if strength == 0 and name in self.files else self._asked(name)
                    paths = list(dict.fromkeys(likeness(asked, homes)))
                    if strength > 0:
                        paths = [path for path in paths if not split or not _of_another_split(path, split)]
                    if strength > 1:
                        paths = [path for path in paths if path not in taken]
                    if paths:
                        several = len(paths) > 1
                        matches[number] = Match(name, SEVERAL, listed(paths, 2)) if several else Match(paths[0])
                        matched.update(paths)
            taken |= matched
        return [matches.get(number) or self._none(name) for number, name in enumerate(names)]

    def _none(self, name: str) -> Match:
        below = self._below_root(name)
        return Match(name, OUTSIDE if below is None or below.startswith("../") else MISSING, name)

    def _asked(self, name: str) -> str:
        """A name as a path below the root, or as the possible end of one."""
        below = self._below_root(name)
        return slashed(name).lstrip("/") if below is None else below

    def _exact(self, name: str, homes: Sequence[str]) -> list[str]:
        paths = (name, *(posixpath.normpath(posixpath.join(home, name)) for home in homes))
        return [path for path in paths[1:] + paths[:1] if path in self.files][:1]

    def _spelled(self, name: str, homes: Sequence[str]) -> list[str]:
        """Files of the same name in another spelling: percent-encoding, capitals, normal form."""
        return [path for key in _keys(name, homes) for path in self.by_path.get(key, ())]

    def _of_other_suffix(self, name: str, homes: Sequence[str]) -> list[str]:
        keys = _keys(name, homes)
        paths = [path for key in keys for path in self._of_stem(key) if _folder(path) == posixpath.dirname(key)]
        return self._images_among(paths)

    def _elsewhere(self, name: str, homes: Sequence[str]) -> list[str]:
        return self._of_tail(name, self.by_name.get(plain(posixpath.basename(name)), ()))

    def _elsewhere_of_other_suffix(self, name: str, homes: Sequence[str]) -> list[str]:
        return self._images_among(self._of_tail(name, self._of_stem(name)))

    def _below_root(self, name: str) -> str | None:
        """The name with forward slashes, relative to the root; None for an absolute path outside of the root."""
        text = slashed(name)
        if not text.startswith("/") and text[1:2] != ":":
            return text
        for root in (self.root.as_posix(), os.path.realpath(self.root)):
            if text.startswith(f"{root}/"):
                return text.removeprefix(f"{root}/")
        return None

    def _of_stem(self, name: str) -> list[str]:
        """Files whose names differ from a name only in the suffix."""
        return self.by_stem.get(stem(posixpath.basename(name)), [])

    def _images_among(self, paths: Sequence[str]) -> list[str]:
        """The files whose first bytes are those of an image; if there are none, those with the name of an image."""
        named = [path for path in paths if may_be_image(path)]
        if len(paths) == len(named) == 1:
            return named
        images = list[str]()
        for path in paths:
            try:
                with (self.root / path).open("rb") as file:
                    if looks_like_image(file.read(HEAD)):
                        images.append(path)
            except OSError:
                continue
        return images or named

    def _of_tail(self, name: str, paths: Iterable[str]) -> list[str]:
        """The files that share the most folders with the name, counted from its end.

        If the name has a folder that exists, the file must be in it: `train/1.jpg` never means `val/1.jpg`.
        """
        folders = [part for part in plain(name).split("/")[:-1] if part not in ("", ".", "..")]
        best, longest = list[str](), -1
        for path in paths:
            above = plain(path).split("/")[:-1]
            shared = 0
            while shared < min(len(folders), len(above)) and folders[-1 - shared] == above[-1 - shared]:
                shared += 1
            rest = folders[: len(folders) - shared]
            if rest and rest[-1] in self.folders:
                continue
            if shared > longest:
                best, longest = [], shared
            if shared == longest:
                best.append(path)
        return best


def _keys(name: str, homes: Sequence[str]) -> list[str]:
    """A name below each of the folders, in the form in which names are compared."""
    return [plain(posixpath.normpath(posixpath.join(home, name))) for home in homes]


def _folder(path: str) -> str:
    return plain(posixpath.dirname(path))


def _of_another_split(path: str, split: str) -> bool:
    named = [split_name for part in path.split("/")[:-1] if (split_name := split_named(part))]
    return bool(named) and all(split_name[0] != split for split_name in named)


def slashed(name: str) -> str:
    """A path with forward slashes only, without `file://` and `./`."""
    return posixpath.normpath(name.strip().replace("\\", "/").removeprefix("file://")) if name.strip() else ""


def plain(name: str) -> str:
    """A name in the form in which names are compared: percent-encoding decoded, composed Unicode, no capitals."""
    return unicodedata.normalize("NFC", unquote(name)).casefold()


def stem(name: str) -> str:
    """A name without its suffix, in the form in which names are compared; `im.0` does not have a suffix."""
    root, suffix = posixpath.splitext(name)
    return plain(root if suffix.lower() in SUFFIXES else name)


def unmentioned(files: Iterable[str], mentioned: Iterable[str]) -> list[str]:
    """The files with the name of an image that no annotation names."""
    used = set(mentioned)
    return [path for path in files if named_as_image(path) and path not in used]
