"""The one exception that a user is meant to read: no traceback, exit code 1."""

from collections.abc import Sequence


class UserError(Exception):
    """What was expected, what was found and what to do, in one or two sentences."""


def nearest(name: str, known: list[str], *, show: int = 3) -> str:
    """'did you mean a, b?' for the known names closest to `name`, else the first few of them."""
    from difflib import get_close_matches

    close = get_close_matches(name.lower(), known, n=show, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(close) + "?"
    return "known: " + ", ".join(known[:12]) + (", …" if len(known) > 12 else "")


def listed(names: Sequence[str], show: int = 8) -> str:
    """`a, b and c`; of many names the first, and how many others there are."""
    if len(names) > show:
        return f"{', '.join(names[:show])} and {len(names) - show} others"
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
