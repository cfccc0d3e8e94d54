"""Whether feature files, downloads and training runs are whole, wherever copies of them lie, and how to repair them.

DVC never reads its own copies again: it would put a damaged one back in place of an out that was made again. So a
damaged file is removed under all of its names.
"""

import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from stages import files, paths
from stages.errors import UserError
from stages.features import h5
from stages.features.store import check, part_path
from stages.fetching.web import digest


def damaged() -> dict[Path, str]:
    """The files that are not whole, and why: parts, outs, DVC's copies of them, downloads, training runs.

    Every byte is read.
    """
    problems = _problems(parts(), check)
    problems |= _problems([*outs(), *cached()], h5.read)
    problems |= _problems((path for path in _dvc_files() if not _starts_as_ours(path)), _check_cached)
    problems |= _problems(files_below(paths.store() / "downloads"), _check_download)
    problems |= _problems(files_below(paths.store() / "train", ".pt"), _check_training)
    inodes = {_inode(path) for path in problems}
    return {path: f"{path} is damaged." for path in (*_dvc_files(), *results()) if _inode(path) in inodes} | problems


def repair(damaged_files: Iterable[Path]) -> list[Path]:
    """Removes damaged files and takes whole copies of parts from the outs and from DVC's cache.

    A part that is whole but in the wrong folder or of the wrong name is moved. No file is written into: files are
    replaced, and other links to them stay as they were.

    Returns:
        The files that are whole again.
    """
    wrong = set(damaged_files)
    moved = {target: path for path in wrong & set(parts()) if (target := _belongs(path)) and target != path}
    aside = {target: files.temp_path(target) for target in moved}
    for target, path in moved.items():
        files.link(path, aside[target])
    for path in wrong:
        files.discard(path)
    for target, copy in aside.items():
        files.link(copy, target)
        files.discard(copy)
    for copy in (*outs(), *cached()):
        if (target := part_path(h5.read(copy))) in wrong and not target.exists():
            files.link(copy, target)
    return sorted(path for path in wrong if path.exists())


def parts() -> list[Path]:
    """The parts of every provenance in the row store."""
    return sorted((paths.store() / "features").glob("*/*.h5"))


def outs() -> list[Path]:
    """The feature files in `cache/features`."""
    return files_below(paths.main_checkout() / "cache" / "features", ".h5")


def results() -> list[Path]:
    """The files of all other outs, which are links to DVC's copies of them."""
    folders = [paths.main_checkout() / name for name in ("data", "cache/head", "cache/predictions", "reports")]
    return [path for folder in folders for path in files_below(folder)]


def cached() -> list[Path]:
    """The feature files in DVC's cache, those of every experiment among them."""
    return [path for path in _dvc_files() if _starts_as_ours(path)]


def files_below(folder: Path, suffix: str = "") -> list[Path]:
    """The files below a folder, without locks and files that are still being written."""
    listed = (path for path in folder.rglob(f"*{suffix}") if path.name != files.LOCK and path.suffix != files.TEMPORARY)
    return sorted(path for path in listed if path.is_file())


def _dvc_files() -> Iterator[Path]:
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    try:
        yield from files_below(Path(Repo(str(paths.main_checkout())).cache.local.path))
    except NotDvcRepoError:
        return


def _starts_as_ours(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(h5.MAGIC)) == h5.MAGIC


def _belongs(path: Path) -> Path | None:
    """Where the content of a part belongs; None where it is damaged."""
    try:
        return part_path(h5.read(path))
    except h5.Damaged:
        return None


def _problems(candidates: Iterable[Path], reads: Callable[[Path], Any]) -> dict[Path, str]:
    """The files that cannot be read as they should be, and why."""
    problems = {}
    for path in candidates:
        try:
            reads(path)
        except UserError as error:
            problems[path] = str(error)
    return problems


def _check_download(path: Path) -> None:
    algorithm, _, expected = path.parent.name.partition("-")
    if algorithm in ("sha256", "md5") and digest(path, algorithm) != f"{algorithm}:{expected}":
        raise UserError(f"{path} is damaged: its {algorithm} is not the one in the name of its folder.")


def _check_cached(path: Path) -> None:
    """DVC's copy of a file is named after its MD5, `ab/cdef…`, and so is its list of the files of a folder."""
    expected = f"{path.parent.name}{path.stem}"
    if path.parent.parent.name == "md5" and digest(path, "md5") != f"md5:{expected}":
        raise UserError(f"{path} is damaged: its MD5 is not the one in its name.")


def _check_training(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (OSError, zipfile.BadZipFile, ValueError, EOFError, RuntimeError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if broken:
        raise UserError(f"{path} is damaged: the checksum of {broken} in it is wrong.")


def _inode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
