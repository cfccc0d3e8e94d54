"""Every command in the README and docs/ runs, in the order of its page, on a few small images.

Slow: half an hour. Paths that only the reader has are exchanged, and so are weights that have to be downloaded; what is
not run has its reason in NOT_RUN. `pytest -m slow tests/test_documented_commands.py -k quickstart` runs one page.

A block marked `text` shows what the shell block above it prints. Its lines must come in that order; numbers, values of
knobs and names of classes may differ, and "…" stands for anything.
"""

import csv
import json
import re
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pytest
import yaml
from PIL import Image
from pyarrow import parquet

from tests import checkout
from tests.checkout import REPO, Project
from tests.conftest import encode, merged, picture

NOT_RUN = {  # how a command begins, or what it has in it: why
    "make repro": "installs; CI runs it",
    "source .venv": "there is no .venv",
    "First run on this machine": "commits what `make repro` leaves",
    "git clone": "of an address that the reader has",
    "pip install": "would change the environment of the tests",
    "tests.bench.": "a benchmark",
    "extract.cluster": "needs Ray, and GPUs or a cluster: tests/features/test_cluster.py",
    "caltech101": "downloads 132 MB",
    "s3://": "a bucket: tests/test_team.py",
    "dvc push": "a remote: tests/test_team.py",
    "dvc pull": "a remote: tests/test_team.py",
    "git push": "a remote: tests/test_team.py",
    "--allow-missing": "a remote: tests/test_team.py",
}
ENDS_WITH_1 = ("python -m stages.store verify",)  # where something was amiss
BOXES = re.compile(r"head=grid|--out pictures|--format (yolo|coco)|recipe (bccd|logos-grid|detect)")  # needs objects
WEIGHTS = re.compile(r"backbone=(resnet|timm:)|recipe logos-unfreeze|cut=(layer3|input)")  # to be downloaded otherwise
SMALL = {"image_size": 64, "epochs": 3, "lr_sweep": {"steps": 10}}
SHOWN_CLASSES = "cardboard|glass|metal|paper|plastic|trash"  # of the photographs on the pages
SHOWN_HEAD = "lda"  # that `head: auto` took there
PAGES = sorted(path.name for path in [REPO / "README.md", *(REPO / "docs").glob("*.md")])


@dataclass
class Block:
    """A shell block of a page.

    Attributes:
        commands: its lines, without comments.
        shown: the lines that the page shows as printed by them; none where it shows nothing.
    """

    commands: list[str]
    shown: list[str]


def blocks(page: str) -> list[Block]:
    """The shell blocks of a page, in order."""
    path = REPO / page if page == "README.md" else REPO / "docs" / page
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
    found = list[Block]()
    for kind, text in fenced:
        if kind == "sh":
            lines = text.replace("\\\n", " ").splitlines()
            found.append(Block([c for line in lines if (c := re.sub(r"(^|\s)#.*", "", line).strip())], []))
        elif kind == "text":
            found[-1].shown += [line for line in text.splitlines() if line.strip(" …")]
    return found


def commands(page: str) -> list[str]:
    return [line for block in blocks(page) for line in block.commands]


def pattern(line: str) -> re.Pattern[str]:
    """What a printed line must be like to be the one that a page shows."""
    text = re.escape(_plain(line)).replace("…\\ ", ".*").replace("…", ".*")  # no second space where nothing is left out
    text = re.sub(rf"((^|\\ |,\\ )({SHOWN_CLASSES})\\ [\d.\\]+%)+", ".*%", text)  # an image's classes
    text = re.sub(rf"\b{SHOWN_HEAD}\b", r"\\w+", text)
    text = re.sub(r"(?<==)[\w.+-]+(\\[.+-][\w.+-]*)*", r"\\S+", text)  # values of knobs
    text = re.sub(r"\d[\d,]*(\\\.\d+)?(\\ [kMG]?B\b)?", r"\\d[\\d,.]*( [kMG]?B)?", text)
    return re.compile(text)


def _plain(line: str) -> str:
    """A line without the widths of its columns, the mark of the best row and the s of plurals (1 leak, 2 leaks)."""
    text = re.sub(r"\s+", " ", line.strip().removeprefix("* ").strip())
    return re.sub(r"(?<=[a-z]{2}[a-rt-z])s\b", "", text)


def missing(shown: list[str], printed: str) -> str:
    """The first line of those shown that is not printed after the ones before it; empty if all are."""
    lines = iter(map(_plain, re.split(r"[\r\n]+", printed)))
    return next((line for line in shown if not any(map(pattern(line).fullmatch, lines))), "")


def test_lines_that_differ_in_numbers_classes_and_values_are_alike() -> None:
    printed = "\r 10%|█ | 1/9\rsplit: 4 train, 2 test in 0.3 s\nauto takes head=ridge normalize=l2\nx.jpg: ant 9.0%\n"
    split, auto = "split: 1,263 train, … test in 12 s", "auto takes head=mlp normalize=sqrt"
    assert not missing([split, auto, "x.jpg: glass 97.1%, paper 1%"], printed)
    assert missing([auto, split], printed) == split
    assert missing(["split: 4 train in 0.3 s"], printed)
    assert missing(["y.jpg: glass 9.0%"], printed)
    assert not missing(["x.jpg: ant 8%"], printed)


def is_run(line: str) -> bool:
    return not any(words in line for words in NOT_RUN)


def test_every_reason_is_of_a_command() -> None:
    lines = [line for page in PAGES for line in commands(page)]
    assert all(any(words in line for line in lines) for words in NOT_RUN)
    assert sum(map(is_run, lines)) > 60


class Reader:
    """Someone who reads the pages: a checkout, their images, and a home folder."""

    def __init__(self, project: Project, home: Path) -> None:
        self.project, self.home = project, home

    def follow(self, line: str) -> str:
        """Runs a line as it stands on a page, but for paths and weights. Returns what it prints."""
        self.prepare(line)
        line = line.replace("/home/me", str(self.home)).replace("~", str(self.home)).replace("/models", f"{self.home}")
        if WEIGHTS.search(line):
            line += " -S weights=random" if "dvc exp" in line else ""
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            cwd=self.project.home,
            env=checkout.environment() | {"BROWSER": "true", "HOME": str(self.home), "COLUMNS": "120"},
            capture_output=True,
            text=True,
            check=False,
        )
        allowed = {0, 1} if line.startswith(ENDS_WITH_1) else {0}
        assert done.returncode in allowed, f"{line}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        return (done.stdout + done.stderr).replace(str(self.home), "/home/me")

    def prepare(self, line: str) -> None:
        """What the reader has done beside the commands: filled in a table, or labelled images in the browser."""
        if "decided.csv" in line:
            rows = list(csv.DictReader((self.project.home / "reports/review.csv").open()))
            assert rows, "the review suspects nothing"
            write_table(self.project.home / "decided.csv", [rows[0] | {"decision": "keep"}])
        if "labels-1a2b3c4d.csv" in line:
            unlabelled = sorted(path.name for path in (self.home / "photos/new").iterdir())
            labels = [{"path": f"new/{name}", "label": "ant", "decision": ""} for name in unlabelled[:2]]
            write_table(self.home / "Downloads/labels-1a2b3c4d.csv", labels)


def write_table(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def draw(seed: int) -> bytes:
    return encode(picture(seed, (96, 80)), "JPEG")


def write_images(home: Path) -> None:
    """The folders that the pages name: classes, shards, Parquet, and objects in three formats."""
    classes = ("ant", "bee", "cat")
    (home / "photos/new").mkdir(parents=True)
    for seed in range(6):
        (home / f"photos/new/{seed}.jpg").write_bytes(draw(seed))
    for place, label in enumerate(classes):
        (home / "photos" / label).mkdir()
        for number in range(20):
            (home / "photos" / label / f"{number}.jpg").write_bytes(draw(100 + 100 * place + number % 19))
    copy = encode(picture(100, (96, 80)), "JPEG", quality=95)  # of an ant, for the review
    (home / "photos/cat/copy.jpg").write_bytes(copy)
    several = [
        {"path": f"ant/{number}.jpg", "label": ("ant|small", "small", "ant")[number % 3]} for number in range(18)
    ]
    write_table(home / "photos/labels.csv", several)
    (home / "shards").mkdir()
    with tarfile.open(home / "shards/0.tar", "w") as shard:
        for place, label in enumerate(classes):
            for number in range(12):
                for suffix, data in ((".jpg", draw(500 + 20 * place + number)), (".cls", str(place).encode())):
                    file = home / f"{label}{number}{suffix}"
                    file.write_bytes(data)
                    shard.add(file, file.name)
                    file.unlink()
    (home / "parquet").mkdir()
    images = [{"bytes": draw(600 + number), "path": f"{number}.jpg"} for number in range(36)]
    table = pyarrow.table({"image": images, "label": [classes[number % 3] for number in range(36)]})
    parquet.write_table(table, home / "parquet/train.parquet")
    write_objects(home)


def write_objects(home: Path) -> None:
    """A square per image, in VOC's layout, in COCO's format and in YOLO's."""
    names = ("square", "disc")
    for folder in ("cells/JPEGImages", "cells/Annotations", "ants/images", "ants/labels"):
        (home / folder).mkdir(parents=True)
    (home / "ants/classes.txt").write_text("\n".join(names))
    coco, table = {"images": list[object](), "annotations": list[object]()}, ["path,label,x1,y1,x2,y2"]
    for number in range(24):
        left, top, side, name = 5 + number, 3 + number, 30, names[number % 2]
        image = picture(900 + number, (96, 80))
        image.paste(Image.new("RGB", (side, side), ("red", "blue")[number % 2]), (left, top))
        for folder in ("cells/JPEGImages", "ants/images"):
            (home / folder / f"{number}.jpg").write_bytes(encode(image, "JPEG"))
        box = f"<xmin>{left + 1}</xmin><ymin>{top + 1}</ymin><xmax>{left + side}</xmax><ymax>{top + side}</ymax>"
        (home / f"cells/Annotations/{number}.xml").write_text(
            f"<annotation><filename>{number}.jpg</filename><size><width>96</width><height>80</height><depth>3</depth>"
            f"</size><object><name>{name}</name><bndbox>{box}</bndbox></object></annotation>"
        )
        table.append(f"JPEGImages/{number}.jpg,{name},{left},{top},{left + side},{top + side}")
        centre = ((left + side / 2) / 96, (top + side / 2) / 80, side / 96, side / 80)
        (home / f"ants/labels/{number}.txt").write_text(" ".join(map(str, (number % 2, *centre))))
        coco["images"].append({"id": number, "file_name": f"JPEGImages/{number}.jpg", "width": 96, "height": 80})
        described = {"id": number, "image_id": number, "category_id": number % 2 + 1, "bbox": [left, top, side, side]}
        coco["annotations"].append(described | {"area": side * side, "iscrowd": 0})
    categories = [{"id": place, "name": name} for place, name in enumerate(names, 1)]
    (home / "cells/all.json").write_text(json.dumps(coco | {"categories": categories}))
    (home / "cells/boxes.csv").write_text("\n".join(table) + "\n")
    shutil.copytree(home / "cells", home / "voc")


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkouts after a first run on other images, on classes and on objects; and the reader's home."""
    home = tmp_path_factory.mktemp("reader")
    write_images(home)
    top = tmp_path_factory.mktemp("checkout")
    projects = {name: checkout.fresh(top / name) for name in ("start", "photos", "cells")}
    for name, project in projects.items():
        small = SMALL | ({"head": "auto"} if name == "start" else {})  # as its reader has it
        (project.home / "params.yaml").write_text(yaml.safe_dump(merged(project.params(), small), sort_keys=False))
        project.commit("small")
    projects["start"].experiment({"dataset": "webdataset", "root": home / "shards"})
    projects["photos"].experiment({"dataset": "folder", "root": home / "photos"})
    objects = {"head": "grid", "cut": "map", "monitor": "val_map_50"}
    projects["cells"].experiment({"dataset": "voc", "root": home / "cells", **objects})
    for project in projects.values():
        project.commit("first run")
    return {"home": home} | {name: project.home for name, project in projects.items()}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", [page for page in PAGES if any(map(is_run, commands(page)))])
def test_the_commands_of_a_page(page: str, readers: dict[str, Path], tmp_path: Path) -> None:
    """Each in its checkout; values of knobs stay on quickstart, as its reader would keep them."""
    copies = dict[str, Reader]()
    for block in blocks(page):
        lines = list(filter(is_run, block.commands))
        printed = "".join(follow(page, line, copies, readers, tmp_path) for line in lines)
        if lines and block.shown:
            assert not (line := missing(block.shown, printed)), f"not printed: {line}\n{printed[-6000:]}"


def follow(page: str, line: str, copies: dict[str, Reader], readers: dict[str, Path], tmp_path: Path) -> str:
    """Runs a line of a page in the checkout that it is meant for. Returns what it prints."""
    name = "start" if page == "quickstart.md" else "cells" if BOXES.search(line) else "photos"
    if name not in copies:
        shutil.copytree(readers[name], tmp_path / name, symlinks=True)
        copies[name] = Reader(Project(tmp_path / name), readers["home"])
        holiday = [f"holiday/{name}7.jpg" for name in ("glass", "plastic", "trash")]
        for file in ("photo.jpg", "new-photo.jpg", *holiday):
            (tmp_path / name / file).parent.mkdir(exist_ok=True)
            (tmp_path / name / file).write_bytes(draw(7))
        annotations = json.loads((readers["home"] / "cells/all.json").read_text())
        annotations["images"] += [{"id": 700 + place, "file_name": file} for place, file in enumerate(holiday)]
        (tmp_path / name / "instances_val.json").write_text(json.dumps(annotations))
    if page != "quickstart.md" and line.startswith("dvc exp run"):
        copies[name].project.run("git", "checkout", "params.yaml")
    return copies[name].follow(line)
