"""review: what the features tell about the data itself, in `reports/review.csv`."""

from stages import files, paths, results
from stages.datasets import index_file, source, splits
from stages.errors import UserError
from stages.features import h5
from stages.params import Params
from stages.reviewing import suspicions
from stages.reviewing.pixels import Pixels, look
from stages.reviewing.suspect import suspect
from stages.stage import run


def main(params: Params) -> dict[str, object]:
    """Looks for wrong labels, near-duplicates and odd images among all splits."""
    rows, split = index_file.read(params.dataset), splits.read(params.dataset)
    path = paths.features(params.dataset, params.backbone, params.cut)
    features = h5.read(path)
    if features.sha256 != [row.sha256 for row in rows]:
        raise UserError(f"{path} holds the features of other images than {paths.index(params.dataset)}: `dvc repro`.")
    split_of = {sha256: name for name, images in split.items() for sha256 in images}
    found, summary = suspect(
        rows,
        split_names=[split_of.get(row.sha256, "") for row in rows],
        conflicts=results.read_json(paths.index(params.dataset).with_suffix(".json"))["conflicts"],
        features=features,
        pixels=_pixels(params, rows),
    )
    suspicions.write(paths.REPORTS / "review.csv", found)
    files.write_json(paths.REPORTS / "review.json", summary, indent=2)
    return {name.replace("_", " "): count for name, count in summary.items() if isinstance(count, int)}


def _pixels(params: Params, rows: list[index_file.IndexRow]) -> Pixels | None:
    """What the images look like; None where they are not on this machine, as after `dvc pull` of features alone."""
    try:
        folder = source.folder(params.dataset, params.options, params.root)
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}")
    except (UserError, OSError) as error:
        print(f"the images cannot be had, so that near-duplicates cannot be confirmed: {error}")
        return None
    return look(rows, folder, paths.pixels(params.dataset))


def _what(params: Params) -> str:
    """What is about to be reviewed."""
    return f"{sum(map(len, splits.read(params.dataset).values())):,} images of {params.dataset}"


if __name__ == "__main__":
    run("review", main, _what)
