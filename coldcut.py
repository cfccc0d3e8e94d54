"""The command `coldcut`: runs a command of the checkout that the current folder lies in, with the checkout's packages.

`coldcut predict photo.jpg` is `python -m stages.predict photo.jpg`, from any folder of the checkout and without an
environment on PATH; `coldcut repro` and `coldcut exp run …` are DVC's. It stands outside of `stages`, because it is
installed into the environment and serves any checkout.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

DVC = ("repro", "exp", "queue", "dag", "status", "push", "pull", "fetch", "metrics", "plots")
CALLED = "COLDCUT"  # read by stages.command: help says `coldcut predict` in place of `python -m stages.predict`
CALLED_FROM = "COLDCUT_FROM"  # read by stages.paths: the folder that relative paths of the user are meant in


def main() -> None:
    """Becomes the process that does the work."""
    checkout = find_checkout(Path.cwd())
    if checkout is None:
        sys.exit(f"error: {Path.cwd()} is not in a checkout of coldcut: no dvc.yaml, params.yaml and stages/ above it.")
    name, arguments = (sys.argv[1] if len(sys.argv) > 1 else "--help"), sys.argv[2:]
    if name in ("-h", "--help"):
        command = ["-m", "stages"]
    elif name in DVC:
        command = ["-m", "dvc", name, *arguments]
    elif name in commands(checkout):
        command = ["-m", f"stages.{name}", *arguments]
    else:
        known = ", ".join([*commands(checkout), *DVC])
        sys.exit(f"error: coldcut has no command {name!r}. It has {known}; `coldcut --help` says what they do.")
    python = interpreter(checkout)
    environment = {
        "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}",
        CALLED_FROM: "" if Path.cwd() == checkout else str(Path.cwd()),
        CALLED: "1",
    }
    os.chdir(checkout)
    if name == "exp" and (knobs := overrides(arguments)):  # DVC refuses a misspelt one too, and names no right one
        check = [str(python), "-m", "stages.check", *knobs]
        if code := subprocess.run(check, env=os.environ | environment, check=False).returncode:
            sys.exit(code)
    os.execve(python, [str(python), *command], os.environ | environment)


def overrides(arguments: list[str]) -> list[str]:
    """The knobs among DVC's arguments: `-S lr=0.1`, `-Slr=0.1`, `--set-param lr=0.1`, `--set-param=lr=0.1`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-S", "--set-param", action="append", default=[])
    return [f"-S{knob}" for knob in parser.parse_known_args(arguments)[0].set_param]


def find_checkout(folder: Path) -> Path | None:
    """The nearest folder, this one or above, that is a checkout."""
    marks = ("dvc.yaml", "params.yaml", "stages/__init__.py")
    return next((path for path in (folder, *folder.parents) if all((path / mark).is_file() for mark in marks)), None)


def commands(checkout: Path) -> list[str]:
    """What can be run: the modules of `stages` that end by running themselves."""
    modules = sorted((checkout / "stages").glob("[a-z]*.py"))
    return [path.stem for path in modules if 'if __name__ == "__main__"' in path.read_text(encoding="utf-8")]


def interpreter(checkout: Path) -> Path:
    """The Python of the checkout's .venv where there is one, else the one that runs this."""
    python = checkout / ".venv/bin/python"
    return python if python.exists() else Path(sys.executable)


if __name__ == "__main__":
    main()
