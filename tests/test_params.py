"""params.yaml: what is right is accepted as written, and every slip is refused with its key named."""

import difflib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.errors import UserError
from stages.params import ALIASES, MAX_BYTES, Params, load, with_overrides
from stages.recipe import flat_knobs
from tests import defaults

Make = Callable[..., Any]
KNOBS = [*flat_knobs(), "device"]


@pytest.fixture
def text(workplace: Path) -> str:
    """A params.yaml; an empty data/none lies in the current folder."""
    (workplace / "data/none").mkdir(parents=True)
    return defaults.text()


def loaded(text: str | bytes) -> Params:
    path = Path("params.yaml")
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load(path)


def turned(text: str, line: str) -> str:
    """The text with the line of one flat knob replaced."""
    knob = line.partition(":")[0]
    lines = text.splitlines()
    (place,) = [number for number, old in enumerate(lines) if old.startswith(f"{knob}:")]
    lines[place] = line
    return "\n".join(lines) + "\n"


def refused(text: str | bytes) -> str:
    with pytest.raises(UserError) as caught:
        loaded(text)
    return str(caught.value)


def test_what_is_right_is_accepted_as_it_is_written(text: str) -> None:
    params = loaded(text)
    tree = yaml.safe_load(text)
    assert set(tree) == set(Params.model_fields)
    for knob in KNOBS:
        assert getattr(params, knob) == tree[knob], knob
    assert params.split.model_dump() == tree["split"]
    assert params.options == getattr(params.datasets, tree["dataset"])


def misspelt(word: str) -> str:
    """One letter doubled: edit distance 1."""
    return word[:1] + word


@pytest.mark.parametrize("knob", KNOBS)
def test_a_misspelt_knob_is_named_and_so_is_the_right_one(text: str, knob: str) -> None:
    wrong = misspelt(knob)
    message = refused(turned(text, f"{knob}: 1").replace(f"\n{knob}: 1", f"\n{wrong}: 1"))
    assert f"`{wrong}` is not a knob" in message
    suggested = message.partition("did you mean ")[2].partition("?")[0].split(" or ")
    assert knob in suggested
    assert difflib.SequenceMatcher(None, wrong, knob).ratio() > 0.5


@pytest.mark.parametrize(
    ("block", "wrong", "right"),
    [("split", "train", "trian"), ("extract", "dtype", "dtipe"), ("decide", "confidence", "confidenc"),
     ("bad_images", "max_fraction", "max_fractoin"), ("datasets.logos", "scenes", "scene")],
)  # fmt: skip
def test_a_slip_in_a_block(text: str, block: str, wrong: str, right: str) -> None:
    tree = yaml.safe_load(text)
    values = tree
    for part in block.split("."):
        values = values[part]
    values[right] = values.pop(wrong)
    message = refused(yaml.safe_dump(tree))
    assert f"`{block}.{right}` is not a knob" in message and wrong in message


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ({"anchor_count": 0}, "`boxes.anchor_count` must be greater than or equal to 1"),
        ({"anchor_ignore": 0.6}, "anchor_ignore must not be above anchor_match"),
    ],
)
def test_anchors_that_cannot_be_are_refused(text: str, boxes: dict[str, Any], message: str) -> None:
    tree = yaml.safe_load(text)
    tree["boxes"] |= boxes
    assert message in refused(yaml.safe_dump(tree))


def test_a_warm_up_must_end_within_every_phase(text: str) -> None:
    tree = yaml.safe_load(text) | {"cut": "map", "tap": "pooled", "warmup": 3}
    tree["phases"] = [{"epochs": 9}, {"epochs": 3}]
    message = refused(yaml.safe_dump(tree))
    assert "`warmup` (3 epochs) must end before the shortest of `phases` (3)" in message


@pytest.mark.parametrize("cluster", ["none", "local", "auto", "10.0.0.1:6379", "head.example:6379"])
def test_who_extracts(text: str, cluster: str) -> None:
    tree = yaml.safe_load(text.replace("  cluster: none", f"  cluster: {cluster}"))
    assert loaded(yaml.safe_dump(tree)).extract.cluster == cluster
    tree["extract"]["cluster"] = f"ray://{cluster}"
    expected = f"`extract.cluster` must be none, local, auto or host:port, found 'ray://{cluster}'"
    assert expected in refused(yaml.safe_dump(tree))


@pytest.mark.parametrize("knob", KNOBS)
def test_a_missing_knob_is_named(text: str, knob: str) -> None:
    tree = yaml.safe_load(text)
    del tree[knob]
    assert f"`{knob}` is missing" in refused(yaml.safe_dump(tree))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("lr: fast", "`lr` must be auto or a valid number, found 'fast'"),
        ("lr: true", "`lr` must be auto or a valid number, found True"),
        ("lr: '0.1'", "`lr` must be auto or a valid number, found '0.1'"),
        ("lr:", "`lr` must be auto or a valid number, found None"),
        ("lr: 0.0", "`lr` must be auto or greater than 0, found 0.0"),
        ("lr: 0", "`lr` must be auto or greater than 0, found 0"),
        ("lr: -1e-3", "`lr` must be auto or greater than 0, found -0.001"),
        ("lr: .nan", "`lr` must be auto or a finite number, found nan"),
        ("lr: .inf", "`lr` must be auto or a finite number, found inf"),
        ("lr: 1e999", "`lr` must be auto or a finite number, found inf"),
        ("lr: [0.1]", "`lr` must be auto or a valid number, found [0.1]"),
        ("epochs: true", "`epochs` must be auto or a valid integer, found True"),
        ("epochs: 1.5", "`epochs` must be auto or a valid integer"),
        ("epochs: 2.0", "`epochs` must be auto or a valid integer"),
        ("epochs: '3'", "`epochs` must be auto or a valid integer, found '3'"),
        ("epochs: 0", "`epochs` must be auto or greater than or equal to 1, found 0"),
        ("batch_size: -4", "`batch_size` must be greater than or equal to 1, found -4"),
        ("dropout: 1", "`dropout` must be less than 1, found 1"),
        ("dropout: -0.1", "`dropout` must be greater than or equal to 0"),
        ("momentum: 1.0", "`momentum` must be less than 1"),
        ("weight_decay: -1", "`weight_decay` must be greater than or equal to 0"),
        ("label_smoothing: 1.0", "`label_smoothing` must be less than 1"),
        ("plateau_factor: 1", "`plateau_factor` must be less than 1"),
        ("freeze_batchnorm: no", "`freeze_batchnorm` must be a valid boolean, found 'no'"),
        ("freeze_batchnorm: 1", "`freeze_batchnorm` must be a valid boolean, found 1"),
        ("freeze_batchnorm: maybe", "`freeze_batchnorm` must be a valid boolean, found 'maybe'"),
        ("seed: zero", "`seed` must be a valid integer, found 'zero'"),
        ("optimizer: adamm", "`optimizer` must be one of adamw, adam, sgd, found 'adamm'; did you mean adam"),
        (
            "head: squeezenet",
            "takes a map (C, H, W), and `cut` pooled is a vector: take cut=map, or a head for that (linear",
        ),
        (
            "phases: [{epochs: 3, trian_from: head}]",
            "`phases.0.trian_from` is not a knob; did you mean train_from",
        ),
        ("phases: [{train_from: head}]", "`phases.0.epochs` is missing"),
        ("phases: [{epochs: 3}, {epochs: 0}]", "`phases.1.epochs` must be greater than or equal to 1, found 0"),
        ("phases: [{epochs: 3, groups: {layer4: -1.0}}]", "`phases.0.groups.layer4` must be greater than 0"),
        ("phases: [{epochs: 3}]", "`phases` unfreeze what lies between cut and tap, and tap=same leaves nothing"),
        ("head: mpl", "`head` 'mpl' is unknown; did you mean mlp? Heads are linear, mlp, ridge"),
        (
            "head: resnet",
            "it is the name of a network: backbone=resnet18? Heads are linear",
        ),
        ("head: xyzzy", "`head` 'xyzzy' is unknown; heads are linear, mlp"),
        (
            "cut: map@4",
            "`cut` must be pooled, cls, avg, cls+avg, map, map@16, map@8, pyramid, input or a module's name such as",
        ),
        ("cut: layer3.", "found 'layer3.'"),
        ("tap: 3", '`tap` must be text: write "3", in double quotes, found 3'),
        ("views: 0", "`views` must be greater than or equal to 1, found 0"),
        ("views: 65", "`views` must be less than or equal to 64, found 65"),
        ("views: 2.0", "`views` must be a valid integer"),
        ("monitor: loss", "found 'loss'; did you mean val_loss"),
        ("device: gpu", "`device`"),
        ("device: cuda:x", "`device`"),
        ("image_size: 8", "`image_size"),
        ("image_size: large", "`image_size"),
        ("image_size: true", "`image_size"),
        ("dataset: logo", "`dataset` 'logo' is unknown; did you mean logos"),
        ("backbone: resnet81", "`backbone`: 'resnet81' is unknown; did you mean"),
        ("weights: IMAGENET", "`weights`: efficientnet_lite0 has no weights 'IMAGENET'"),
        ("weights: no/such/file.pth", "`weights`: there is no file /"),
    ],
)
def test_a_wrong_value_is_named(text: str, line: str, message: str) -> None:
    assert message in refused(turned(text, line))


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("lr: 1e-05", 1e-05),
        ("lr: 1E-5", 1e-05),
        ("lr: 1.e-5", 1e-05),
        ("lr: .5", 0.5),
        ("lr: 1", 1.0),
        ("dropout: 0", 0.0),
        ("lr: 0.001", 0.001),
        ("image_size: 64", 64),
        ("image_size: auto", "auto"),
        ("seed: 010", 10),
        ("device: cuda:1", "cuda:1"),
        ("seed: -3", -3),
        ("head: ridge", "ridge"),
        ("views: 64", 64),
    ],
)
def test_a_value_is_read_as_it_is_meant(text: str, line: str, value: object) -> None:
    found = getattr(loaded(turned(text, line)), line.partition(":")[0])
    assert found == value and type(found) is type(value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.floats(1e-12, 1e6))
def test_every_float_comes_back(text: str, value: float) -> None:
    assert loaded(turned(text, f"lr: {value!r}")).lr == value


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("learning_rate: 0.1", "`learning_rate` is not a knob; here it is called `lr`: remove `learning_rate`."),
        ("Batch-Size: 8", "`Batch-Size` is not a knob; did you mean batch_size"),
        ("model: resnet18", "`model` is not a knob; here it is called `backbone`: remove `model`."),
        ("confidence: 0.3", "`confidence` is not a knob; it stands in a block: `decide.confidence`."),
        ("dtype: float32", "`dtype` is not a knob; it stands in a block: `extract.dtype`."),
    ],
)
def test_what_other_programs_call_a_knob_and_what_stands_in_a_block(text: str, line: str, message: str) -> None:
    assert message in refused(f"{text}{line}\n")


def test_every_alias_is_of_a_knob() -> None:
    assert not set(ALIASES) & set(Params.model_fields)
    assert {knob.partition(".")[0] for knob in ALIASES.values()} <= set(Params.model_fields)


def test_several_slips_are_told_at_once(text: str) -> None:
    message = refused(turned(turned(text, "lr: fast"), "epochs: many"))
    assert "`lr`" in message and "`epochs`" in message
    assert len(message.splitlines()) == 2


@pytest.mark.parametrize(("train", "val", "test"), [(0.5, 0.25, 0.3), (1.0, 0.0, 0.0), (0.9, 0.1, 0.0)])
def test_shares_that_do_not_add_up(text: str, train: float, val: float, test: float) -> None:
    tree = yaml.safe_load(text)
    tree["split"] |= {"train": train, "val": val, "test": test}
    assert "train, val and test must each be above 0 and add up to 1" in refused(yaml.safe_dump(tree))


def test_a_key_that_stands_twice_is_told_with_both_lines(text: str) -> None:
    first = next(number for number, line in enumerate(text.splitlines(), 1) if line.startswith("lr:"))
    last = len(text.splitlines()) + 1
    assert refused(text + "lr: 0.5\n") == f"params.yaml, line {last}: `lr` is already on line {first}."
    twice = text.replace("  protocol: auto\n", "  protocol: auto\n  protocol: auto\n")
    assert "`protocol` is already on line" in refused(twice)


@pytest.mark.parametrize(
    "tag", ["!!python/object:os.system", "!!python/object/apply:os.system ['touch canary']", "!!python/name:os.system"]
)
def test_tags_of_python_are_refused(text: str, tag: str) -> None:
    assert "is not valid YAML" in refused(turned(text, f"lr: {tag}"))
    assert not Path("canary").exists()


@pytest.mark.parametrize("content", ["", "# nothing\n", "text", "- a\n- b\n", "3"])
def test_what_is_no_mapping(text: str, content: str) -> None:
    assert "must hold keys and values" in refused(content)


@pytest.mark.parametrize("content", ["lr: [", "a: b: c", "\tlr: 1", b"\xff\xfe\x00", "lr: &a\nb: *c"])
def test_what_is_no_yaml(text: str, content: str | bytes) -> None:
    assert "params.yaml is not valid YAML" in refused(content)


def test_a_deep_file_is_refused(text: str) -> None:
    assert "params.yaml" in refused("a: " + "[" * 900 + "]" * 900)


def test_a_huge_file_is_refused(text: str) -> None:
    assert loaded(text + "#" * (MAX_BYTES - len(text.encode())))
    assert f"larger than {MAX_BYTES} bytes" in refused(text + "#" * (MAX_BYTES - len(text.encode()) + 1))


def test_no_file(workplace: Path) -> None:
    with pytest.raises(UserError, match=r"params.yaml cannot be read \(.*\): run from the top folder of the checkout"):
        load()


# --- params with other values


def test_overrides_reach_into_blocks(text: str) -> None:
    params = loaded(text)
    other = with_overrides(params, {"lr": 1, "extract.dtype": "float32", "boxes.anchor_count": 7})
    assert (other.lr, type(other.lr), other.extract.dtype) == (1.0, float, "float32")
    assert other.boxes.anchor_count == 7
    assert with_overrides(other, {"lr": params.lr, "extract": params.extract, "boxes": params.boxes}) == params


@pytest.mark.parametrize(
    ("knob", "value", "message"),
    [
        ("lr", 0.0, "`lr` must be auto or greater than 0, found 0.0"),
        ("lrr", 0.1, "`lrr` is not a knob; did you mean lr"),
        ("extract.dtipe", "float32", "`extract.dtipe` is not a knob; did you mean dtype"),
        ("extrakt.dtype", "float32", "`extrakt` is not a knob; did you mean extract"),
        ("extract.dtype", "float64", "`extract.dtype` must be one of float16, float32, found 'float64'"),
        ("backbone", "resnet81", "`backbone`: 'resnet81' is unknown; did you mean"),
        ("warmup", 60, "`warmup` (60 epochs) must end before `epochs` (60)"),
    ],
)
def test_overrides_are_checked_as_the_file_is(text: str, knob: str, value: object, message: str) -> None:
    with pytest.raises(UserError) as caught:
        with_overrides(loaded(text), {knob: value})
    assert message in str(caught.value)


# --- what must agree


def test_a_relative_root_is_refused_for_a_folder(text: str) -> None:
    Path("photos").mkdir()
    message = refused(turned(turned(text, "dataset: folder"), "root: photos"))
    assert "`root` must be an absolute path for dataset folder, found 'photos'" in message


def test_a_root_that_is_not_there(text: str, workplace: Path) -> None:
    message = refused(turned(turned(text, "dataset: folder"), f"root: {workplace}/none"))
    assert f"`root`: there is no folder '{workplace}/none'" in message
    (workplace / "file").touch()
    assert "there is no folder" in refused(turned(turned(text, "dataset: folder"), f"root: {workplace}/file"))


def test_a_root_that_a_colleague_has(text: str, workplace: Path) -> None:
    """Heads train on features: the images are needed where the index is not of them."""
    Path("data/index").mkdir()
    index = Path("data/index/folder.json")
    asked = turned(turned(text, "dataset: folder"), "root: /home/colleague/photos")
    options = loaded(text).datasets.folder.model_dump(mode="json")
    for root, other in [("/other", options), ("/home/colleague/photos", options | {"strict": True})]:
        index.write_text(json.dumps({"root": root, "options": other}))
        assert "there is no folder '/home/colleague/photos'" in refused(asked)
    index.write_text(json.dumps({"root": "/home/colleague/photos", "options": options}))
    assert loaded(asked).root == "/home/colleague/photos"
    assert "there is no folder" in refused(turned(asked, "root: /home/colleague/others"))


def test_an_archive_that_a_colleague_has(text: str, workplace: Path) -> None:
    Path("data/index").mkdir()
    params = loaded(text)
    url = turned(text, "dataset: flickrlogos32")
    assert "there is no file" in refused(url)
    options = params.datasets.flickrlogos32.model_dump(mode="json")
    Path("data/index/flickrlogos32.json").write_text(json.dumps({"root": "data/none", "options": options}))
    assert loaded(url).dataset == "flickrlogos32"


def test_a_root_that_is_there(text: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = loaded(turned(turned(text, "dataset: folder"), f"root: {workplace}"))
    assert params.root == str(workplace)
    monkeypatch.setenv("HOME", str(workplace))
    assert loaded(turned(turned(text, "dataset: folder"), "root: '~'")).root == "~"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("no/such.zip", "`datasets.caltech101.source.images.url`: there is no file 'no/such.zip'"),
        ("ftp://x.org/a.zip", "there is no file 'ftp://x.org/a.zip'"),
        ("pypi:name", "must be pypi:NAME==VERSION, found 'pypi:name'"),
        ("pypi:name>=1.0", "must be pypi:NAME==VERSION"),
        ("pypi:name==1.0 --index-url=http://evil", "must be pypi:NAME==VERSION"),
    ],
)
def test_sources(text: str, url: str, message: str) -> None:
    tree = yaml.safe_load(text)
    tree["dataset"] = "caltech101"
    tree["datasets"]["caltech101"]["source"]["images"]["url"] = url
    assert message in refused(yaml.safe_dump(tree))


@pytest.mark.parametrize("checksum", ["sha256:abc", "0" * 64, "sha1:" + "0" * 40, "sha256:" + "G" * 64])
def test_checksums(text: str, checksum: str) -> None:
    tree = yaml.safe_load(text)
    tree["datasets"]["caltech101"]["source"]["images"]["checksum"] = checksum
    assert "`datasets.caltech101.source.images.checksum` must match pattern" in refused(yaml.safe_dump(tree))


def test_params_cannot_be_changed(text: str) -> None:
    params = loaded(text)
    with pytest.raises(ValueError, match="frozen"):
        params.lr = 3.0  # type: ignore[misc]


def test_checking_imports_no_torch(text: str, workplace: Path, repository: Path) -> None:
    (workplace / "params.yaml").write_text(text)
    script = "import sys; from stages.params import load; load(); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(repository)!r}); {script}"],
        cwd=workplace,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"


@pytest.mark.parametrize("head", ["largest", "grid"])
@pytest.mark.parametrize("line", ["class_weights: balanced", "label_smoothing: 0.1", "seeds: 3"])
def test_what_heads_for_boxes_would_pass_over_is_refused(text: str, head: str, line: str) -> None:
    plain = turned(turned(text, "cut: map"), f"head: {head}")
    assert loaded(plain).head == head
    message = refused(turned(plain, line))
    knob, _, value = line.partition(": ")
    assert f"`{knob}` is for heads that name the class of an image (linear" in message
    assert f"found {value} with head {head}: set {knob}=" in message


def test_params_change_in_one_way(repository: Path) -> None:
    copies = [path.name for path in (repository / "stages").rglob("*.py") if "model_copy(" in path.read_text()]
    assert copies == ["params.py"]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"seeds": 2}, r"`split.protocol` kfold trains one head per fold, .* found seeds=2: set seeds=1"),
        ({"head": "grid", "cut": "map"}, r"`split.protocol` kfold judges heads that name the class .* found head grid"),
        ({"split": {"folds": 2}}, r"`split.folds` must be greater than or equal to 3, found 2"),
    ],
)
def test_folds_refuse_what_they_do_not_go_with(params: Callable[..., Any], knobs: dict[str, Any], message: str) -> None:
    split = {"protocol": "kfold"} | knobs.pop("split", {})
    with pytest.raises(UserError, match=message):
        params(**knobs, split=split)
