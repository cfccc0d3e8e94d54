"""The exception whose message is for the user: it ends a command with exit code 1 and without a traceback."""

from collections.abc import Sequence


class UserError(Exception):
    """The message says in one or two sentences what was expected, what was found and what to do."""


def nearest(name: str, names: list[str], *, show: int = 3) -> str:
    """`did you mean a or b?` with the names closest to `name`; if none is close, the first dozen names."""
    from difflib import get_close_matches

    close = get_close_matches(name.lower(), names, n=show, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(close) + "?"
    return "known: " + ", ".join(names[:12]) + (", …" if len(names) > 12 else "")


def listed(names: Sequence[str], show: int = 8) -> str:
    """`a, b and c`; if there are more than `show` names, the first ones and the number of the others."""
    if len(names) > show:
        return f"{', '.join(names[:show])} and {len(names) - show} others"
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
