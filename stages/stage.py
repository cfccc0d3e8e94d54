"""Running one stage: check params, do the work, keep the time it took, show a user's error without a traceback."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping

from stages import paths
from stages.errors import UserError
from stages.params import Params, load

Stage = Callable[[Params], Mapping[str, object]]


def run(name: str, stage: Stage) -> None:
    """Runs `stage` with the params of the current folder; exits with 1 and a message on a user's error.

    What the stage returns (counts, speeds) and its seconds go to `cache/timings/<name>.json`, which nothing depends on.
    """
    argparse.ArgumentParser(
        prog=f"python -m stages.{name}",
        description=f"{sys.modules['__main__'].__doc__} No arguments: params.yaml says what to do, and `dvc repro` "
        "runs a stage when something that it depends on has changed.",
    ).parse_args()
    started = time.perf_counter()
    try:
        params = load()
        found = stage(params)
    except UserError as error:
        sys.exit(f"error: {error}")
    seconds = time.perf_counter() - started
    paths.TIMINGS.mkdir(parents=True, exist_ok=True)
    of = {"dataset": params.dataset, "root": params.root, "backbone": params.backbone, "cut": params.cut}
    (paths.TIMINGS / f"{name}.json").write_text(json.dumps({"of": of, "seconds": round(seconds, 2), **found}) + "\n")
    print(f"{name}: {', '.join(f'{value} {key}' for key, value in found.items())} in {seconds:.1f} s")
