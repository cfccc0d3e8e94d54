"""Lists what is in `cache/store` of the main checkout, checks it, exports it, and removes what is no longer needed.

`ls` lists the entries: features by provenance, downloads, interrupted training runs, leftovers of killed runs.

`verify` reads every byte of the entries, of `cache/features` and of the feature files in DVC's cache, and names what is
damaged. `--repair` removes damaged files and all links to them, and restores parts from an intact copy if there is one;
`dvc repro` makes the rest again and computes only the rows that are lost.

`gc` removes what nothing refers to: features whose provenance is in no file of `cache/features` or DVC's cache (the
features of experiments stay until `dvc gc`), downloads that neither params.yaml nor a provenance names, and training
runs. Whatever has changed within `--days` stays, because an interrupted run may go on from it.

`export` writes the features that params.yaml names to a Parquet file: path, sha256, label, split and vector of each
image, of its evaluation view.
"""

import argparse
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from stages import command, files, paths
from stages.datasets import index_file, splits
from stages.datasets.base import has_source
from stages.datasets.unpack import UNPACKING
from stages.errors import REPAIR, UserError, counted
from stages.features import audit, h5, parquet_export
from stages.features.forecast import in_bytes
from stages.features.store import common, fingerprint
from stages.fetching.fetch import download_folder
from stages.params import load

EXAMPLES = """\
  python -m stages.store ls
  python -m stages.store verify --repair
  python -m stages.store gc --dry-run
  python -m stages.store export --parquet features.parquet"""
DAY = 24 * 3600.0
DAYS = 7.0


@dataclass(frozen=True)
class Entry:
    """A file or folder of the store.

    Attributes:
        kind: features, download, training or leftover.
        path: of the file or folder.
        description: what it is, in words.
        keys: the names by which others refer to it: the fingerprint of features, the folder or the name of a download.
    """

    kind: str
    path: Path
    description: str
    keys: frozenset[str] = frozenset()

    @property
    def files(self) -> list[Path]:
        """The file itself, or all files below the folder."""
        return [self.path] if self.path.is_file() else [path for path in self.path.rglob("*") if path.is_file()]

    @property
    def size(self) -> int:
        """Of all its files, in bytes."""
        return sum(path.stat().st_size for path in self.files)

    @property
    def age(self) -> float:
        """Seconds since it last changed."""
        return time.time() - max(path.stat().st_mtime for path in (self.path, *self.files))


def entries() -> list[Entry]:
    """Everything in the store, and the leftovers of killed runs there, in `cache/features` and in `cache/images`."""
    home, images = paths.store(), paths.unpacked("")
    features = [path for path in sorted((home / "features").glob("*")) if path.is_dir()]
    leftovers = [
        *home.rglob(f"*{files.TEMPORARY}"),
        *(paths.main_checkout() / "cache/features").rglob(f"*{files.TEMPORARY}"),
    ]
    leftovers += images.glob(f"*/*/*{UNPACKING}")  # beside what archives and shards become
    return [
        *(Entry("features", path, _described(path), frozenset([path.name])) for path in features),
        *(
            Entry("download", path, path.name, frozenset([path.parent.name, path.stem]))
            for path in audit.files_below(home / "downloads")
        ),
        *(Entry("training", path, "an interrupted run") for path in audit.files_below(home / "train")),
        *(Entry("leftover", path, "of a killed run") for path in sorted(leftovers)),
    ]


def _described(home: Path) -> str:
    """The features of a provenance, in words."""
    parts = sorted(home.glob("*.h5"))
    provenances = [provenance for part in parts if (provenance := h5.provenance(part))]
    words = [str(provenances[0].get(name)) for name in ("backbone", "cut", "dtype")] if provenances else ["unreadable"]
    return f"{' '.join(words)}, {counted(len(parts), 'parts')}"


def unreferenced(days: float) -> list[Entry]:
    """The entries that nothing refers to and that have not changed for `days` days; leftovers after one day at most."""
    keys = _referenced()
    limits = {"leftover": min(days * DAY, DAY)}
    return [entry for entry in entries() if not keys & entry.keys and entry.age > limits.get(entry.kind, days * DAY)]


def _referenced() -> set[str]:
    """Fingerprints, and folders and names of downloads, that params.yaml, an out or DVC's cache refers to."""
    joined = [provenance for path in (*audit.outs(), *audit.cached()) if (provenance := h5.provenance(path))]
    single = [part for provenance in joined for part in provenance.get("joined", [provenance])]
    keys = {fingerprint(common(provenance)) for provenance in single}
    keys |= {str(provenance.get("weights")) for provenance in single}
    sources = [source for _, block in load().datasets if has_source(block) for _, source in block.source]
    return keys | {download_folder(source) for source in sources}


def drop(entry: Entry) -> bool:
    """Removes an entry, except features that a run is using.

    Returns:
        Whether it was removed.
    """
    if entry.path.is_file():
        files.discard(entry.path)
        return not entry.path.exists()
    try:
        with files.locked(entry.path, waiting=None):
            shutil.rmtree(entry.path, ignore_errors=True)
    except BlockingIOError:
        return False
    return True


def ls() -> None:
    """Prints the entries."""
    listed = entries()
    for entry in listed:
        columns = f"{entry.kind:10}{in_bytes(entry.size):>10}  {_ago(entry.age):>12}"
        print(f"{columns}  {entry.description}  ({_shown(entry.path)})")
    shared = sum(path.stat().st_size for entry in listed for path in entry.files if path.stat().st_nlink > 1)
    total = sum(entry.size for entry in listed)
    print(f"{in_bytes(total)}, of which {in_bytes(shared)} are hard links to outputs or DVC's cache: no more space")


def verify(*, repair: bool) -> bool:
    """Prints what is damaged, and with `repair` removes or restores it.

    Returns:
        True if nothing damaged is left.
    """
    damaged = audit.damaged()
    for reason in damaged.values():
        print(reason)
    if not damaged:
        print("Nothing is damaged.")
    elif repair:
        restored = audit.repair(damaged)
        print(f"{len(damaged)} removed, {len(restored)} of them restored from a copy. `dvc repro` makes the rest.")
    else:
        print(f"{len(damaged)} damaged: {REPAIR}.")
    return repair or not damaged


def gc(*, days: float, dry: bool) -> None:
    """Removes the entries that nothing refers to, and prints each; with `dry` it only prints them."""
    freed = 0
    for entry in unreferenced(days):
        size = sum(path.stat().st_size for path in entry.files if path.stat().st_nlink == 1)
        if dry or drop(entry):
            freed += size
            print(f"{'would remove' if dry else 'removed'} {entry.kind} {_shown(entry.path)}, {in_bytes(size)}")
    print(f"{in_bytes(freed)} {'would be ' if dry else ''}freed")


def export(file: Path) -> None:
    """Writes the features of the run that params.yaml describes to a Parquet file.

    Raises:
        UserError: there are no such features, they are not vectors, or they are of another index.
    """
    params = load()
    path = paths.features(params.dataset, params.backbone, params.cut)
    rows, features = index_file.read(params.dataset), h5.read(path)
    if not features.is_of([row.sha256 for row in rows]):
        raise UserError(f"{path} holds the features of other images than {paths.index(params.dataset)}: `dvc repro`.")
    parts = splits.read_parts(params.dataset) if paths.split(params.dataset).exists() else {}
    split_of = {sha256: name for name, images in parts.items() for sha256 in images}
    written = parquet_export.write(file, features, rows, split_of)
    print(f"{counted(written, 'vectors')} of {path} are in {file}, {in_bytes(file.stat().st_size)}")


def _shown(path: Path) -> str:
    return os.path.relpath(path, paths.main_checkout())


def _ago(seconds: float) -> str:
    return f"{seconds / DAY:.0f} d ago" if seconds > 2 * DAY else f"{seconds / 3600:.0f} h ago"


def main(arguments: argparse.Namespace) -> int:
    """Lists, verifies, exports or cleans up; returns 1 if something is damaged."""
    if arguments.command == "verify":
        return 0 if verify(repair=arguments.repair) else 1
    if arguments.command == "gc":
        gc(days=arguments.days, dry=arguments.dry_run)
    elif arguments.command == "export":
        export(paths.typed_path(arguments.parquet))
    else:
        ls()
    return 0


def run() -> None:
    """Parses the arguments and runs the command that they name."""
    parser = command.parser("store", description=__doc__, examples=EXAMPLES)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("ls", help="the entries, with their sizes")
    verifying = commands.add_parser("verify", help="read every byte and name what is damaged")
    verifying.add_argument(
        "--repair", action="store_true", help="remove what is damaged, and restore parts from intact copies"
    )
    dropping = commands.add_parser("gc", help="remove what nothing refers to")
    dropping.add_argument("--dry-run", action="store_true", help="only print what would be removed")
    dropping.add_argument(
        "--days", type=float, default=DAYS, help=f"keep what has changed within this many days (default: {DAYS:g})"
    )
    exporting = commands.add_parser("export", help="write the features that params.yaml names, for other tools")
    exporting.add_argument("--parquet", required=True, metavar="FILE", help="the file to write; an old one is replaced")
    command.run(main, parser.parse_args())


if __name__ == "__main__":
    run()
