"""`python -m stages`: what a person can run."""

TEXT = """\
coldcut: the frozen part of a network runs once, heads train in seconds.

  dvc repro                           run what changed, from download to reports/report.html
  dvc exp run -S lr=0.01              the same with a knob turned (params.yaml names them all)
  dvc exp run --queue -S lr=0.01,0.1  each of these in a copy; dvc queue start -j 2 runs two at a time
  python -m stages.check              check params.yaml alone
  python -m stages.recipe --list      published systems as recipes
  python -m stages.recipe NAME        a recipe as arguments: dvc exp run $(python -m stages.recipe NAME)
  python -m stages.sweep              64 heads at once on the features of the last run: which lr, which weight decay
  python -m stages.compare [REV ...]  experiments and commits side by side, image by image: reports/compare.html
  python -m stages.backbone NAME      where a backbone can be cut: shapes, bytes per image, share of the compute saved
  python -m stages.plan               what the features of so many images would cost here: hours, bytes, alternatives
  python -m stages.predict PATH…      what the head of the last run says of new images
  python -m stages.export --format F  backbone and head in one file, checked: onnx, openvino or torch
  python -m stages.store ls           what cache/store holds; verify [--repair] reads all of it, gc drops what is unused

Each has --help with an example.
"""

if __name__ == "__main__":
    print(TEXT, end="")
