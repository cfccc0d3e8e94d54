"""What commands share: -q and -v, messages on standard error, a user's error without a traceback."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from stages.errors import UserError

LOG = logging.getLogger("coldcut")
INTERRUPTED = 130  # the exit code of what Ctrl-C has ended


def parser(name: str, description: str | None, example: str) -> argparse.ArgumentParser:
    """The parser of a command, with its example and how much it says."""
    made = argparse.ArgumentParser(
        prog=f"python -m stages.{name}",
        description=description,
        epilog=f"examples:\n{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    loud = made.add_mutually_exclusive_group()
    loud.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors and results")
    loud.add_argument("-v", "--verbose", action="store_true", help="say more")
    return made


def run(main: Callable[[argparse.Namespace], int], given: argparse.Namespace) -> None:
    """Runs a command and exits with its code."""
    level = logging.WARNING if given.quiet else logging.DEBUG if given.verbose else logging.INFO
    LOG.handlers, LOG.propagate = [logging.StreamHandler(sys.stderr)], False
    LOG.setLevel(level)
    with no_traceback():
        sys.exit(main(given))


@contextmanager
def no_traceback() -> Iterator[None]:
    """Exits with 1 and a message after a user's error; quietly after Ctrl-C, and where nobody reads the output."""
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


def shown(text: str) -> str:
    """Text for a terminal: a character that cannot be printed, or steers the terminal, as its escape."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
