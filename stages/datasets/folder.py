"""`folder`: a user's own images below the flat, absolute parameter `root`. They are only read, never written.

The layout is `class/image`, or the dataset's own lists on top (`train/class/image` beside `val` or `test`, under any of
their usual names: `Training`, `valid`, `test_set`, `seg_train/seg_train`, …), or lists in every class
(`class/train/image`). Images below the folder that the option `unlabelled` names have no label yet. A note tells about
other layouts; layouts that cannot be intended are an error.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from stages.datasets import tree
from stages.datasets.base import DatasetOptions, EmptyClass, Item, Note, Record, UnusedFile
from stages.datasets.layout import IMAGES, MASKS, split_named, splits_of
from stages.datasets.tree import Folder
from stages.errors import UserError, counted, listed
from stages.overrides import argument

LOOSE = "it lies in no class folder"


class Options(DatasetOptions):
    """The block `datasets.folder`; the folder is the flat parameter `root`.

    Attributes:
        unlabelled: a folder below `root` with images that nobody has labelled yet; empty for none.
    """

    unlabelled: str

    has_objects = False


def scan(folder: Path, options: Options) -> Iterator[Item]:
    """Every file below each class folder, in path order; links are followed, hidden folders are skipped.

    Raises:
        UserError: some folders look like lists (train, val, test) and others do not, or there is no folder
            `unlabelled`.
    """
    files = tree.read(folder, options.exclude)
    yield from (UnusedFile(path, "`exclude` names it") for path in files.excluded)
    unlabelled = _unlabelled(files.files, folder, options.unlabelled)
    yield from (Record(path, "") for path in sorted(unlabelled))
    top = tree.nested([path for path in files.files if path not in unlabelled])
    yield from _loose(top, top.files)
    classes = _unwrapped(top)
    if classes is not top:
        outside = sorted(set(top.below()) - set(classes.below()) - set(top.files))
        yield from _loose(top, outside, f"it lies outside of {classes.path}, which holds the classes")
        yield from (UnusedFile(path, LOOSE) for path in classes.files)
        yield Note(f"the classes are the folders below {classes.path}")
    lists = splits_of(classes.folders)
    if lists:
        yield from _lists(classes, lists, folder)
    else:
        yield from _classes(classes, None, folder)
    names = [] if lists else [path.removeprefix(f"{classes.path}/") for path in files.empty]
    yield from (EmptyClass(name) for name in names if "/" not in name)


def _unlabelled(files: list[str], root: Path, name: str) -> set[str]:
    """The files below the folder of images without a label."""
    if not name:
        return set()
    unlabelled = {path for path in files if path.startswith(f"{name.strip('/')}/")}
    if not unlabelled and not (root / name).is_dir():
        raise UserError(f"`datasets.folder.unlabelled`: there is no folder {root / name}.")
    return unlabelled


def _unwrapped(folder: Folder, names: Callable[[str], bool] = lambda name: True) -> Folder:
    """The folder whose subfolders are classes or lists, below all folders that hold images in a single subfolder.

    Args:
        folder: the topmost one.
        names: whether to go down into a subfolder of this name.
    """
    while True:
        inner = [home for name, home in folder.image_folders.items() if name.casefold() not in MASKS]
        if len(inner) != 1 or not inner[0].image_folders or not names(inner[0].path.rpartition("/")[2]):
            return folder
        folder = inner[0]


def _lists(top: Folder, lists: dict[str, str], root: Path) -> Iterator[Item]:
    """The images of folders that are lists, with their splits."""
    split_of: dict[str, list[str]] = {}
    for name, split in lists.items():
        split_of.setdefault(split, []).append(name)
    if any(name.casefold() != split for name, split in lists.items()):
        sentences = (f"{listed(sorted(names))} {split}" for split, names in split_of.items())
        yield Note(f"the folders on top are read as lists: {'; '.join(sentences)}")
    for name in sorted(top.folders):
        inside = top.folders[name]
        if name in lists:
            yield from _list(inside, lists[name], root)
        elif _is_loose(inside):
            yield from _loose(inside, inside.below())
        else:
            raise UserError(
                f"`root`: {root / top.path} has the lists {listed(sorted(lists))}, and beside them {name}, which is "
                f"not a list: move {name} elsewhere, or leave it out: {_exclude(inside)}"
            )


def _list(inside: Folder, split: str, root: Path) -> Iterator[Item]:
    """The images of one list; a folder inside one of the same name (`seg_train/seg_train`) counts once."""
    if _is_loose(inside):
        yield from _loose(inside, inside.below())
        return
    name = inside.path.rpartition("/")[2]
    home = _unwrapped(inside, lambda inner: split_named(inner) == (split, "") or _holder_of(name)(inner))
    yield from _loose(home, sorted(set(inside.files + home.files)))
    yield from _classes(home, split, root)


def _is_loose(folder: Folder) -> bool:
    """Whether all images lie directly in a folder, or in a subfolder of the same name or with a name like `images`."""
    name = folder.path.rpartition("/")[2]
    home = _unwrapped(folder, _holder_of(name))
    return all(_holder_of(name)(inner) and not below.image_folders for inner, below in home.image_folders.items())


def _holder_of(name: str) -> Callable[[str], bool]:
    """A test whether the name of a subfolder is this name again, or one like `images`."""
    return lambda inner: inner == name or inner.casefold() in (*IMAGES, "data")


def _exclude(folder: Folder) -> str:
    """The argument that leaves a folder out."""
    return argument("datasets.folder.exclude", [folder.path])


def _loose(folder: Folder, files: list[str], reason: str = LOOSE) -> Iterator[Item]:
    """Files outside of all class folders, with a note if there are images among them."""
    yield from (UnusedFile(path, reason, in_note=True) for path in files)
    if count := sum(map(tree.named_as_image, files)):
        yield Note(
            f"{folder.path or 'root'} holds {counted(count, 'images')} in no class folder, left out",
            warning=True,
        )


def _classes(top: Folder, split: str | None, root: Path) -> Iterator[Item]:
    """The images of every class folder."""
    second = {name for folder in top.folders.values() for name in folder.image_folders}
    has_depth = bool(top.image_folders) and all(_deep(folder) for folder in top.image_folders.values())
    lists = splits_of(second) if split is None and has_depth else {}
    if lists and lists.keys() == second:
        yield Note(f"every class holds lists ({', '.join(sorted(lists))}): they are read as such")
    else:
        lists = {}
    if split is None and not lists:
        yield from _doubtful(top, second, root) if has_depth else _odd_classes(top, root)
    masks = _masks(top)
    if masks:
        yield Note(f"the folders {', '.join(sorted(masks))} stand beside images in every class: they are left out")
    for name in sorted(top.folders):
        for path in top.folders[name].below():
            below = path.removeprefix(f"{top.path}/").split("/")
            if below[1] in masks:
                yield UnusedFile(path, f"it lies in {below[1]}, beside images of the same class")
            else:
                yield Record(path, name, split=split or lists.get(below[1]))


def _deep(folder: Folder) -> bool:
    """Whether all images of a folder are in its subfolders."""
    return bool(folder.image_folders) and not any(map(tree.named_as_image, folder.files))


def _masks(top: Folder) -> set[str]:
    """Subfolders of masks or annotations, if every class has one beside a subfolder of images."""
    if not top.image_folders or not all(_deep(folder) for folder in top.image_folders.values()):
        return set()
    inside = [{name.casefold() for name in folder.image_folders} for folder in top.image_folders.values()]
    if not all(names & set(IMAGES) and names & MASKS for names in inside):
        return set()
    return {name for folder in top.image_folders.values() for name in folder.folders if name.casefold() in MASKS}


def _doubtful(top: Folder, second: set[str], root: Path) -> Iterator[Note]:
    """A note, or an error, if the folders on top may not be the classes."""
    names = sorted(top.image_folders)
    like_lists = [name for name in names if (named := split_named(name)) and not named[1]]
    if like_lists:
        others = [name for name in names if name not in like_lists]
        lacking = f"{listed(others)} {'does' if len(others) == 1 else 'do'} not" if others else "none is a train list"
        raise UserError(
            f"`root`: {root / top.path} has {listed(like_lists)}, which by the name is a list with images of several "
            f"classes, and {lacking}. Expected class folders, or train beside val or test. Give the folder of the "
            f"classes as root, or leave folders out: {_exclude(top.folders[(others or like_lists)[0]])}"
        )
    same = len(names) > 1 and all(set(folder.image_folders) == second for folder in top.image_folders.values())
    if same and len(second) > 1 and not _masks(top):
        yield Note(
            f"every folder holds the same subfolders ({listed(sorted(second))}); the classes are {listed(names)}. If "
            "the subfolders are the classes, give one of these folders as root, or a table of all images (dataset csv)",
            warning=True,
        )


def _odd_classes(top: Folder, root: Path) -> Iterator[Note]:
    """A note, or an error, if the folders of images do not have names of classes."""
    kinds = {name.casefold() for name in top.folders}
    if kinds & MASKS and kinds & set(IMAGES) and kinds <= {*IMAGES, *MASKS}:
        raise UserError(
            f"`root`: {root / top.path} has {listed(sorted(top.folders))}: images and their annotations, not "
            "classes. Expected class folders; the datasets voc, coco, yolo and csv read boxes from files."
        )
    names = sorted(top.image_folders)
    for name in names:
        if (named := split_named(name)) and not named[1]:
            yield Note(
                f"{name} is read as a class, as it holds images beside {counted(len(names) - 1, 'other classes')}. If "
                f"it is a list, leave it out: {_exclude(top.folders[name])}",
                warning=True,
            )
