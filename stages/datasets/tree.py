"""The files below a folder, for the readers of datasets."""

import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

SKIPPED = ("__MACOSX",)  # macOS adds it to archives; hidden folders are skipped too
IMAGE_SUFFIXES = frozenset(
    {".apng", ".arw", ".avif", ".bmp", ".cr2", ".dib", ".dng", ".gif", ".heic", ".heif", ".j2k", ".jfif", ".jp2",
     ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".jxl", ".nef", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".svg",
     ".tif", ".tiff", ".webp"}
)  # fmt: skip


class Tree(NamedTuple):
    """Paths below a folder, with forward slashes and in the order of their parts.

    Attributes:
        files: every file that no pattern excludes.
        excluded: the files that a pattern excludes.
        links: the folders that are links to others; DVC does not see changes in those.
        empty: the folders without any files and folders.
    """

    files: list[str]
    excluded: list[str]
    links: list[str]
    empty: list[str]


class Folder:
    """A folder of a tree: its own files and its subfolders, by name.

    Attributes:
        path: below the root of the tree; empty for the root itself.
        files: paths of the files directly in it.
        folders: its subfolders, by name.
    """

    def __init__(self, path: str = "") -> None:
        self.path, self.files, self.folders = path, list[str](), dict[str, Folder]()

    def below(self) -> list[str]:
        """Every file in it or in a folder below it."""
        return self.files + [path for folder in self.folders.values() for path in folder.below()]

    @cached_property
    def holds_images(self) -> bool:
        """Whether a file in it or below it has an image's name."""
        return any(map(may_be_image, self.files)) or any(folder.holds_images for folder in self.folders.values())

    @cached_property
    def image_folders(self) -> dict[str, "Folder"]:
        """Its subfolders that hold images."""
        return {name: folder for name, folder in self.folders.items() if folder.holds_images}


def read(root: Path, exclude: Sequence[str] = ()) -> Tree:
    """The files below a folder; links are followed, but no folder is visited twice.

    Args:
        root: the folder.
        exclude: patterns, see `matches`.
    """
    tree, walked = Tree([], [], [], []), set[str]()
    for home, folders, files in os.walk(root, followlinks=True):
        real, below = os.path.realpath(home), os.path.relpath(home, root)
        prefix = "" if below == "." else f"{below}/"
        if real in walked:
            folders.clear()
            continue
        walked.add(real)
        folders[:] = [name for name in folders if not name.startswith(".") and name not in SKIPPED]
        tree.links.extend(prefix + name for name in folders if os.path.islink(os.path.join(home, name)))
        if prefix and not folders and not files:
            tree.empty.append(below)
        for name in files:
            path = prefix + name
            (tree.excluded if any(matches(pattern, path) for pattern in exclude) else tree.files).append(path)
    for paths in tree:
        paths.sort(key=lambda path: path.split("/"))
    return tree


def nested(files: Sequence[str]) -> Folder:
    """Paths as the folders that hold them."""
    top = Folder()
    for path in files:
        folder = top
        *parts, _ = path.split("/")
        for part in parts:
            folder = folder.folders.setdefault(part, Folder(f"{folder.path}/{part}".lstrip("/")))
        folder.files.append(path)
    return top


def matches(pattern: str, path: str) -> bool:
    """Whether a pattern matches the path of a file or of a folder above it, or just the last name of either."""
    pattern = pattern.rstrip("/")
    parts = path.split("/")
    above = ("/".join(parts[: count + 1]) for count in range(len(parts)))
    return any(name == pattern or fnmatchcase(name, pattern) for name in (*parts, *above))


def may_be_image(path: str) -> bool:
    """Whether a file may be an image by its name: it has a suffix of images, or none."""
    name = path.rpartition("/")[2]
    _, dot, suffix = name.rpartition(".")
    return not name.startswith(".") and (not dot or f".{suffix.lower()}" in IMAGE_SUFFIXES)


def named_as_image(path: str) -> bool:
    """Whether a file's name has a suffix of images."""
    return may_be_image(path) and "." in path.rpartition("/")[2]


LFS_POINTER = "a Git LFS pointer, not the file itself: run `git lfs pull` where it came from"


def is_lfs_pointer(data: bytes) -> bool:
    """Whether the contents of a file are a pointer, which Git LFS leaves in place of a file that was not fetched."""
    return data.startswith(b"version https://git-lfs.github.com/spec/")


def without_pointer(data: bytes) -> bytes:
    """The same bytes, of an annotation file.

    Raises:
        ValueError: they are a pointer of Git LFS.
    """
    if is_lfs_pointer(data):
        raise ValueError(LFS_POINTER)
    return data
