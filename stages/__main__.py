"""`python -m stages`: what a person can run."""

import os

COMMANDS = {
    "dvc repro": "run what changed, from download to reports/report.html",
    "dvc exp run -S lr=0.01": "the same with another value of a knob (params.yaml lists all knobs)",
    "dvc exp run --queue -S lr=0.01,0.1": "queue one experiment per value; dvc queue start -j 2 runs two at a time",
    "check": "check params.yaml, and say what differs from the commit",
    "report --open": "show the page of the last run in the browser, or say that it belongs to other results",
    "recipe --list": "settings with their sources, published ones among them",
    "recipe NAME": "a recipe as arguments: dvc exp run $({} NAME)",
    "review --apply FILE": "apply your decisions on doubtful labels and duplicates, see docs/review.md",
    "label": "pick the images to label next and label them in the browser, see docs/labelling.md",
    "sweep": "64 heads at once on the features of the last run: which lr, which weight decay",
    "experiments": "the experiments on top of HEAD: main numbers, and the knobs that differ",
    "compare [REV ...]": "experiments and commits side by side, image by image: reports/compare.html",
    "backbone --list": "encoders worth trying: parameters, multiply-adds, published accuracy, licence",
    "backbone NAME": "where a backbone can be cut: shapes, bytes per image, share of the compute saved",
    "plan": "what the features of your images would cost here: hours, bytes, alternatives",
    "predict PATH…": "predict new images with the head of the last run",
    "export --format F": "backbone and head in one file, checked: onnx, openvino or torch",
    "store ls": "what is in cache/store; verify [--repair] checks all of it, gc removes what is unused",
}


def text(module: str) -> str:
    """The list of commands.

    Args:
        module: what stands before the name of a command: `coldcut ` or `python -m stages.`.
    """
    purposes = {name if name.startswith("dvc ") else f"{module}{name}": purpose for name, purpose in COMMANDS.items()}
    width = max(map(len, purposes)) + 2
    lines = [f"  {name:{width}}{purpose.format(f'{module}recipe')}" for name, purpose in purposes.items()]
    head = "coldcut: the frozen part of a network runs once, heads train in seconds."
    return "\n".join([head, "", *lines, "", "Each has --help with an example."])


if __name__ == "__main__":
    print(text("coldcut " if "COLDCUT" in os.environ else "python -m stages."))
