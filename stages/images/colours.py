"""The colours of boxes by class, on pictures and pages. They are light: on a page each box has a dark rim."""

COLOURS = ("#f0e442", "#56b4e9", "#e69f00", "#2fc39b", "#ff8ac4", "#ffffff")


def colour_of(label: int) -> str:
    """The colour of a class by its position in the list of classes."""
    return COLOURS[label % len(COLOURS)]
