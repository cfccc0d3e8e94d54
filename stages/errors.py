"""The exception whose message is for the user: it ends a command with exit code 1 and without a traceback."""

import re
from collections.abc import Sequence

SINGULAR = re.compile(r"(?<=ss|ch|sh|ox)es$|(?<![s])s$")  # what the plural of a noun has more
VERBS = {"are": "is", "were": "was", "have": "has", "do": "does"}
VERBS |= {verb: f"{verb}s" for verb in ("lie", "stand", "take", "show", "count")}


REPAIR = "`python -m stages.store verify --repair`, then `dvc repro`"  # what helps where a file of results is damaged
AS_GOOD = 0.1  # a name is proposed beside the nearest one if it is less like by this at most


class UserError(Exception):
    """The message says in one or two sentences what was expected, what was found and what to do."""


def nearest(name: str, names: list[str], *, show: int = 3) -> str:
    """`did you mean a or b?` with the names closest to `name`; if none is close, the first dozen names."""
    from difflib import SequenceMatcher, get_close_matches

    close = get_close_matches(name.lower(), names, n=show, cutoff=0.6)
    if close:
        likeness = [SequenceMatcher(None, name.lower(), other).ratio() for other in close]
        close = [other for other, ratio in zip(close, likeness, strict=True) if ratio >= likeness[0] - AS_GOOD]
        return "did you mean " + " or ".join(close) + "?"
    return "known: " + ", ".join(names[:12]) + (", …" if len(names) > 12 else "")


def counted(count: int, plural: str) -> str:
    """`1 image is`, `1,200 images are`: a number with what is counted, and a verb that agrees with it.

    Args:
        count: how many.
        plural: a noun, which may have an adjective before it and one of VERBS behind it.
    """
    if count != 1:
        return f"{count:,} {plural}"
    noun, _, verb = plural.rpartition(" ")
    if verb not in VERBS:
        return f"1 {_singular(plural)}"
    return f"1 {_singular(noun)} {VERBS[verb]}"


def told(key: str, value: object) -> str:
    """A count with its name: `3 images`, `1 label in doubt`, `0.91 val accuracy`."""
    what, place, where = key.partition(" in ")
    return f"{counted(value, what)}{place}{where}" if isinstance(value, int) else f"{value} {key}"


def _singular(plural: str) -> str:
    return f"{plural[:-3]}y" if plural.endswith("ies") else SINGULAR.sub("", plural)


def listed(names: Sequence[str], show: int = 8) -> str:
    """`a, b and c`; if there are more than `show` names, the first ones and the number of the others."""
    if len(names) > show:
        return f"{', '.join(names[:show])} and {len(names) - show} others"
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
