"""Why things are left out, counted: the commonest reasons with an example each, for console, page and errors."""

from collections import Counter
from collections.abc import Iterable

COMMONEST = 3  # reasons that a message tells


def commonest(reasons: Iterable[tuple[str, str]], show: int = COMMONEST) -> str:
    """`12 x the image is not there (a.xml: im00.jpg); 1 x …`, the commonest first.

    Args:
        reasons: the kind of each fault, and where it was.
        show: how many kinds are told; of the others only the number.
    """
    counts, example = Counter[str](), dict[str, str]()
    for kind, where in reasons:
        counts[kind] += 1
        example.setdefault(kind, where)
    sentences = [f"{count} x {kind}" + (f" (such as {example[kind]})" if example[kind] else "")
            for kind, count in counts.most_common(show)]  # fmt: skip
    others = len(counts) - len(sentences)
    return "; ".join([*sentences, *([f"{others} other reason(s)"] if others else [])])
