"""The stage `check`: refuses a params.yaml that no stage could use, before any of them has touched its results."""

import argparse
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages import command, live_run, paths, yaml12
from stages.backbones import names
from stages.datasets.base import has_source
from stages.errors import UserError
from stages.overrides import argument, flatten, hydra
from stages.params import Params, check_name, load, read

SHOWN = 30  # knobs that a line names


def main(arguments: argparse.Namespace) -> int:
    """Checks params.yaml; with `--mark FILE`, as DVC calls it, refuses a second run too, and writes a constant file."""
    for override in arguments.overrides:
        check_name(override.lstrip("+~").partition("=")[0])
        _check_quotes(override)
    if arguments.overrides:
        return 0
    if arguments.mark:
        live_run.claim()
        # DVC writes the values of -S into the file, then git's index. If the file is as long as before, git may take it
        # for unchanged, and `git checkout` or `git commit -a` would pass over it.
        paths.PARAMS.touch()
    if knobs := differing(read(), committed()):  # before what may be refused: -S leaves its values after an error too
        more = f" and {len(knobs) - SHOWN} more" if len(knobs) > SHOWN else ""
        print(
            f"differs from the commit: {', '.join(knobs[:SHOWN])}{more} (`git checkout params.yaml` undoes that)",
            flush=True,
        )
    params = load()
    _check_device(params)
    _check_modules(params)
    print(f"params.yaml is well-formed: {params.dataset}, {params.backbone}, {params.head} on {params.cut}")
    if has_source(params.options) and params.root != "data/none":
        print(f"note: dataset {params.dataset} does not read `root`, the folder of your own data.")
    if not has_source(params.options) and not Path(params.root).expanduser().is_dir():
        print(
            f"note: there is no folder {params.root} (`root`); DVC only says [Errno 2]. If it was moved, "
            "set `root` to where it is now; `dvc exp run --allow-missing` trains on the features that are here."
        )
    if params.decide.tta and params.views == 1:
        print("note: `decide.tta` averages over views, and there is one: it needs `views`, such as -S views=4.")
    for backbone, weights in names.joined(params.backbone, params.weights):
        if not _has_features(params) and (absent := names.to_be_fetched(backbone, weights)):
            host, folder = absent
            print(
                f"note: {folder} has no weights of {backbone}: they come from {host}. If that cannot be reached, "
                "fetch the file on another machine and pass it: -S weights=/path/to/FILE."
            )
    if "DVC_EXP_NAME" in os.environ and not paths.index(params.dataset).exists():
        print('DVC\'s warnings "No file hash info found" name what this run will make: they are harmless.')
    if arguments.mark:
        arguments.mark.parent.mkdir(parents=True, exist_ok=True)
        arguments.mark.write_text("params.yaml was checked\n")
    return 0


def _check_quotes(override: str) -> None:
    """Raises an error if Hydra, which reads `-S` for DVC, cannot parse a value; its own message names no remedy."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    knob, equals, value = override.partition("=")
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        if not equals:  # nothing to quote: DVC says what it expects
            return
        raise UserError(
            f"`{knob}`: DVC cannot read {value!r} as it stands. Text needs a second pair of quotes: "
            f"{argument(knob, value)}"
        ) from None


def _check_device(params: Params) -> None:
    """Checks that this machine has the device, and that what is to be extracted here can be computed on it.

    Torch is needed for that, some seconds, so that it is not asked about what every machine can do.
    """
    extract = params.extract
    extracts_here = extract.cluster == "none" and not _has_features(params)
    float16 = extracts_here and extract.precision == "float16"
    if params.device in ("auto", "cpu") and not float16:
        return
    from stages.backbones.device import pick_device
    from stages.backbones.engine import pick_engine, pick_precision

    device = pick_device(params.device)
    if extracts_here:
        pick_engine(extract.engine, device, compiled=extract.compile)
        pick_precision(extract.precision, device)


def _check_modules(params: Params) -> None:
    """Checks that the network has the modules that `cut` and `tap` name, where no features show that it has.

    Torch is needed for that, some seconds; extract would say the same, but after it has removed its outputs.
    """
    modules = {key: value for key in ("cut", "tap") if names.is_module(value := getattr(params, key))}
    if not modules or _has_features(params):
        return
    from stages.backbones import cuts, zoo

    image_size = "auto" if params.image_size == "objects" else params.image_size  # modules are those of any size
    backbone = zoo.load(params.backbone, "random", image_size)
    size = backbone.preprocessing.at(image_size, params.resize).crop
    network = cuts.load_network(backbone.model, size, params.backbone)
    for key, name in modules.items():
        network.layers(name, key=key)


def _has_features(params: Params) -> bool:
    """Whether features of this dataset, backbone and cut are there, so that the network was at hand once."""
    return paths.features(params.dataset, params.backbone, params.cut).exists()


def committed() -> dict[str, Any]:
    """The params.yaml of the last commit; empty where there is none."""
    try:
        text = subprocess.run(["git", "show", f"HEAD:./{paths.PARAMS}"], capture_output=True, check=True).stdout
        tree = yaml12.parse(text, "the committed params.yaml")
    except (OSError, subprocess.CalledProcessError, UserError):
        return {}
    return tree if isinstance(tree, dict) else {}


def differing(tree: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """`knob=value` for every knob of `tree` that has another value in `other`; what `other` lacks is left out."""
    values = dict(flatten("", other))
    return [f"{knob}={hydra(value)}" for knob, value in flatten("", tree) if values.get(knob, value) != value]


def run() -> None:
    """Reads the arguments and checks."""
    parser = command.parser("check", description=__doc__, examples="  python -m stages.check")
    parser.add_argument(
        "-S",
        "--set-param",
        action="append",
        default=[],
        dest="overrides",
        metavar="KNOB=VALUE",
        help="check only that there is such a knob, as `coldcut exp run` does before DVC starts",
    )
    parser.add_argument("--mark", type=Path, metavar="FILE", help="a file to write once all is well")
    command.run(main, parser.parse_args())


if __name__ == "__main__":
    run()
