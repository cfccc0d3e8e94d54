"""Whether feature files, downloads and training runs are whole, wherever copies of them lie, and how to mend them.

DVC never reads its own copies again: it would put a damaged one back in place of an out that was made anew. So what is
damaged goes under all of its names.
"""

import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from stages import files, paths
from stages.errors import UserError
from stages.features import h5
from stages.features.store import check, place
from stages.fetching.web import digest


def damaged() -> dict[Path, str]:
    """What is not whole, and why: parts, outs, DVC's copies of them, downloads, training runs.

    Every byte is read.
    """
    found = _wrong(parts(), check)
    found |= _wrong([*outs(), *cached()], h5.read)
    found |= _wrong(files_below(paths.store() / "downloads"), _check_download)
    found |= _wrong(files_below(paths.store() / "train", ".pt"), _check_training)
    inodes = {_inode(path) for path in found}
    return {path: f"{path} is damaged." for path in _dvc_files() if _inode(path) in inodes} | found


def repair(found: Iterable[Path]) -> list[Path]:
    """Removes damaged files and takes whole copies of parts from the outs and from DVC's cache.

    A part that is whole but lies elsewhere than its content belongs goes there. Nothing is written into: files are
    replaced, so that what was linked to them stays as it was.

    Returns:
        What is whole in its place again.
    """
    wrong = set(found)
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
        if (target := place(h5.read(copy))) in wrong and not target.exists():
            files.link(copy, target)
    return sorted(path for path in wrong if path.exists())


def parts() -> list[Path]:
    """The parts of every provenance in the row store."""
    return sorted((paths.store() / "features").glob("*/*.h5"))


def outs() -> list[Path]:
    """The feature files in `cache/features`."""
    return files_below(paths.main_checkout() / "cache" / "features", ".h5")


def cached() -> list[Path]:
    """The feature files in DVC's cache, those of every experiment among them."""
    return [path for path in _dvc_files() if _starts_as_ours(path)]


def files_below(folder: Path, suffix: str = "") -> list[Path]:
    """The files below a folder, without locks and what is not whole yet."""
    found = (path for path in folder.rglob(f"*{suffix}") if path.name != files.LOCK and path.suffix != files.TEMPORARY)
    return sorted(path for path in found if path.is_file())


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
        return place(h5.read(path))
    except h5.Damaged:
        return None


def _wrong(some: Iterable[Path], reads: Callable[[Path], Any]) -> dict[Path, str]:
    """Those of some files that cannot be read as they should be, and why."""
    found = {}
    for path in some:
        try:
            reads(path)
        except UserError as error:
            found[path] = str(error)
    return found


def _check_download(path: Path) -> None:
    algorithm, _, expected = path.parent.name.partition("-")
    if algorithm in ("sha256", "md5") and digest(path, algorithm) != f"{algorithm}:{expected}":
        raise UserError(f"{path} is damaged: its {algorithm} is another than its folder's name says.")


def _check_training(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (OSError, zipfile.BadZipFile, ValueError, EOFError, RuntimeError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if broken:
        raise UserError(f"{path} is damaged: {broken} in it has another checksum.")


def _inode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
