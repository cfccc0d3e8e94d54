"""review: lists labels in doubt, near-duplicates and odd images of the data in `reports/review.csv`.

With --apply FILE: your decisions become corrections, in `data/corrections/<dataset>.csv`. FILE is a copy of
reports/review.csv with keep, relabel:NAME, drop or together in the column `decision`.
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from stages import command, files, paths, results
from stages.datasets import corrections, index_file, source, splits
from stages.errors import UserError, counted
from stages.features import h5
from stages.params import Params, load
from stages.reviewing import suspicions
from stages.reviewing.decisions import decided, merged, without_decided
from stages.reviewing.pixels import Pixels, look
from stages.reviewing.suspect import numbers, suspect
from stages.stage import run as run_stage

EXAMPLES = """  dvc repro review
  cp reports/review.csv decided.csv   # and fill in its column `decision`
  python -m stages.review --apply decided.csv
"""


def main(params: Params) -> dict[str, object]:
    """Looks for labels in doubt, near-duplicates and odd images among all splits."""
    rows, parts = index_file.read(params.dataset), splits.read_parts(params.dataset)
    path = paths.features(params.dataset, params.backbone, params.cut)
    features = h5.read(path)
    if not features.is_of([row.sha256 for row in rows]):
        raise UserError(f"{path} holds the features of other images than {paths.index(params.dataset)}: `dvc repro`.")
    split_of = {sha256: name for name, images in parts.items() for sha256 in images}
    pixels = _pixels(params, rows)
    suspected, checked = suspect(
        rows,
        split_names=[split_of.get(row.sha256, "") for row in rows],
        conflicts=results.read_json(paths.index(params.dataset).with_suffix(".json"))["conflicts"],
        features=features,
        pixels=pixels,
    )
    undecided = list(without_decided(suspected, corrections.read(params.dataset)))
    summary = {"images": len(rows), **numbers(undecided, pixels, checked)}
    suspicions.write(paths.REPORTS / "review.csv", undecided)
    files.write_json(paths.REPORTS / "review.json", summary, indent=2)
    return {name.replace("_", " "): count for name, count in summary.items() if isinstance(count, int)}


def _pixels(params: Params, rows: list[index_file.IndexRow]) -> Pixels | None:
    """What the images look like; None where they are not on this machine, as after `dvc pull` of features alone."""
    try:
        folder = source.folder(params.dataset, params.options, params.root)
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}")
    except (UserError, OSError) as error:
        print(f"the images are not here, so near-duplicates cannot be confirmed: {error}")
        return None
    return look(rows, folder, paths.pixels(params.dataset))


def _what(params: Params) -> str:
    """What is about to be reviewed."""
    return f"{counted(len(index_file.read(params.dataset)), 'images')} of {params.dataset}"


def apply(arguments: argparse.Namespace) -> int:
    """Adds the decisions in a table to the corrections of the dataset."""
    dataset, table = load().dataset, arguments.apply
    described = results.read_json(paths.index(dataset).with_suffix(".json"))
    decisions = decided(suspicions.read(table), index_file.read(dataset), _copies(described), str(table))
    if not decisions:
        raise UserError(f"{table} has no decision: fill in its column `decision`.")
    path = paths.corrections(dataset)
    corrected = merged(corrections.read(dataset), decisions)
    corrections.refuse_contradictions(corrected, table)
    corrections.write(path, corrected)
    print(
        f"{counted(len(decisions), 'decisions')} added: {path} has {len(corrected)} now. Commit it, then `dvc repro`."
    )
    return 0


def _copies(described: Mapping[str, Any]) -> dict[str, list[str]]:
    """Path -> the other files with the same bytes."""
    same = defaultdict[str, set[str]](set)
    for pair in described["duplicates"]:
        same[pair["of"]] |= {pair["path"], pair["of"]}
    return {path: sorted(files - {path}) for files in same.values() for path in files}


def run() -> None:
    """Parses the arguments; reviews, or applies decisions."""
    parser = command.parser("review", description=__doc__, examples=EXAMPLES)
    parser.add_argument("--apply", type=paths.typed_path, metavar="FILE", help="apply the decisions in this table")
    arguments = parser.parse_args()
    if arguments.apply:
        command.run(apply, arguments)
    else:
        run_stage("review", main, announce=_what)


if __name__ == "__main__":
    run()
