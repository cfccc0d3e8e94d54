"""The stage `check`: refuses a params.yaml that no stage could use, before any of them has touched its results."""

import argparse
from pathlib import Path

from stages import command
from stages.datasets.base import has_source
from stages.params import load


def main(arguments: argparse.Namespace) -> int:
    """Checks params.yaml; with `--mark FILE` writes a file that is always the same."""
    params = load()
    print(f"params.yaml is well-formed: {params.dataset}, {params.backbone}, {params.head} on {params.cut}")
    if has_source(params.options) and params.root != "data/none":
        print(f"note: dataset {params.dataset} does not read `root`, which is for folder, csv, voc and coco.")
    if arguments.mark:
        arguments.mark.parent.mkdir(parents=True, exist_ok=True)
        arguments.mark.write_text("params.yaml was checked\n")
    return 0


def run() -> None:
    """Reads the arguments and checks."""
    parser = command.parser("check", description=__doc__, examples="  python -m stages.check")
    parser.add_argument("--mark", type=Path, metavar="FILE", help="a file to write once all is well")
    command.run(main, parser.parse_args())


if __name__ == "__main__":
    run()
