"""What commands and stages share: -q and -v, messages on standard error, a user's error without a traceback."""

import argparse
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from stages.errors import UserError

LOG = logging.getLogger("stages")
INTERRUPTED = 130  # the exit code after Ctrl-C
EPILOG = "examples:\n"
MODULE = "python -m stages."


def parser(name: str, *, description: str | None, examples: str) -> argparse.ArgumentParser:
    """The parser of a command, with -q and -v.

    Args:
        name: of the module.
        description: the first thing that --help prints.
        examples: command lines, one per line, indented by two blanks.
    """
    prefix = "coldcut " if "COLDCUT" in os.environ else MODULE  # as it was called
    command_parser = argparse.ArgumentParser(
        prog=f"{prefix}{name}",
        description=description and description.replace(MODULE, prefix),
        epilog=f"{EPILOG}{examples}".replace(MODULE, prefix),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbosity = command_parser.add_mutually_exclusive_group()
    verbosity.add_argument("-q", "--quiet", action="store_true", help="print only errors and results")
    verbosity.add_argument("-v", "--verbose", action="store_true", help="name every file that is read or written")
    return command_parser


def run(main: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> None:
    """Runs a command and exits with its code."""
    log_to_stderr(quiet=arguments.quiet, verbose=arguments.verbose)
    with no_traceback():
        sys.exit(main(arguments))


def log_to_stderr(*, quiet: bool, verbose: bool) -> None:
    """Sends the messages of this project to standard error: warnings, news unless `quiet`, files where `verbose`."""
    LOG.handlers = [logging.StreamHandler(sys.stderr)]
    LOG.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)


@contextmanager
def no_traceback() -> Iterator[None]:
    """Exits with 1 and a message after a user's error; quietly after Ctrl-C, and where nobody reads the output.

    On a console that lacks a character its escape is printed.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not the buffer of a test or a notebook
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except UserError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:  # `| head`; the interpreter would complain when it flushes at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def stop(name: str, saved_work: str) -> NoReturn:
    """Ends a stage after Ctrl-C.

    Args:
        name: of the stage.
        saved_work: the work that the next run does not repeat, as a short sentence.
    """
    print(f"\n{name} was stopped: {saved_work}, and `dvc repro` goes on from there.", file=sys.stderr, flush=True)
    sys.exit(INTERRUPTED)


def shown(text: str) -> str:
    """Text for a terminal: a character that cannot be printed, or steers the terminal, as its escape."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
