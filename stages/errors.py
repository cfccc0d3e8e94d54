"""The one exception that a user is meant to read: no traceback, exit code 1."""


class UserError(Exception):
    """What was expected, what was found and what to do, in one or two sentences."""


def nearest(name: str, known: list[str], *, show: int = 3) -> str:
    """'did you mean a, b?' for the known names closest to `name`, else the first few of them."""
    from difflib import get_close_matches

    close = get_close_matches(name.lower(), known, n=show, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(close) + "?"
    return "known: " + ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
