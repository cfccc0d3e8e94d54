"""The most frequent reasons why files and annotations are left out, with an example of each, for messages and pages."""

from collections import Counter
from collections.abc import Iterable

from stages.errors import counted

COMMONEST = 3  # reasons in a message


def commonest(reasons: Iterable[tuple[str, str]], show: int = COMMONEST) -> str:
    """`12 x the image is not there (such as a.xml: im00.jpg); 1 x …`, the most frequent first.

    Args:
        reasons: the kind of each fault, and where it is.
        show: how many kinds are named; the others are only counted.
    """
    counts, example = Counter[str](), dict[str, str]()
    for kind, where in reasons:
        counts[kind] += 1
        example.setdefault(kind, where)
    sentences = [
        f"{count} x {kind}" + (f" ({'such as ' if count > 1 else ''}{example[kind]})" if example[kind] else "")
        for kind, count in counts.most_common(show)
    ]
    others = len(counts) - len(sentences)
    return "; ".join([*sentences, *([counted(others, "other reasons")] if others else [])])
