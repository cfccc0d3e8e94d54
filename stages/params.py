"""Typed params.yaml: every stage loads it here, and `python -m stages.check` checks it alone.

Types are strict (`epochs: true` is not an integer), unknown and duplicate keys are refused, and the file is read as DVC
reads it. No torch is imported: a check takes a fraction of a second.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

from pydantic import AfterValidator, Field, ValidationError

from stages import paths, yaml12
from stages.backbones import names
from stages.blocks import Block, Source
from stages.datasets.base import has_source
from stages.datasets.multilabel import Task
from stages.datasets.registry import BadImages, Datasets
from stages.datasets.splits import Split
from stages.errors import UserError, counted, nearest
from stages.evaluation.options import Decide
from stages.features.options import Extract
from stages.heads.options import Boxes
from stages.heads.registry import HEADS, INPUTS, Input, head_with_rate, heads_for, heads_for_labels, heads_taking
from stages.images.options import Augment
from stages.overrides import hydra
from stages.training.options import LrSweep, Phase

MAX_BYTES = 1 << 20
FEWEST_EPOCHS = 12  # that `epochs: auto` takes; training/epochs.py says how many it takes at all
AUTOS = {"literal['auto']": "auto", "literal['auto','objects']": "auto, objects"}  # pydantic's name of such a value
KINDS = ("constrained-float", "constrained-int", "float", "int")  # and the other
ALIASES = {  # what other programs call a knob
    **dict.fromkeys(("learning_rate", "learningrate", "rate", "base_lr"), "lr"),
    **dict.fromkeys(("model", "network", "arch", "architecture", "encoder"), "backbone"),
    **dict.fromkeys(("batch", "bs"), "batch_size"),
    **dict.fromkeys(("n_epochs", "num_epochs", "max_epochs"), "epochs"),
    **dict.fromkeys(("data", "data_dir", "data_root", "path", "folder"), "root"),
    **dict.fromkeys(("img_size", "imgsz", "input_size", "resolution"), "image_size"),
    **dict.fromkeys(("optim", "solver"), "optimizer"),
    **dict.fromkeys(("scheduler", "lr_schedule", "lr_scheduler"), "schedule"),
    **dict.fromkeys(("warmup_epochs", "warm_up"), "warmup"),
    **dict.fromkeys(("wd", "l2", "decay"), "weight_decay"),
    **dict.fromkeys(("hidden_size", "hidden_dim", "units"), "hidden"),
    **dict.fromkeys(("patience", "early_stopping"), "early_stopping_patience"),
    **dict.fromkeys(("threshold", "conf"), "decide.confidence"),
}
LayerName = Annotated[str, AfterValidator(names.valid_cut)]  # a cut or a tap; only torch can tell if a network has it


class Params(Block):
    """All of params.yaml; the comments there say what each knob does."""

    dataset: str
    root: str
    task: Task
    backbone: str
    weights: str
    cut: LayerName
    tap: LayerName
    image_size: Literal["auto", "objects"] | Annotated[int, Field(ge=16, le=4096)]
    resize: Literal["crop", "squash"]
    views: Annotated[int, Field(ge=1, le=64)]
    head: str
    hidden: Annotated[int, Field(ge=1)]
    queries: Annotated[int, Field(ge=1)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    lr: Literal["auto"] | Annotated[float, Field(gt=0)]
    lr_backbone: Annotated[float, Field(gt=0)]
    layer_decay: Annotated[float, Field(gt=0, le=1)]
    freeze_batchnorm: bool
    phases: list[Phase]
    optimizer: Literal["adamw", "adam", "sgd"]
    weight_decay: Annotated[float, Field(ge=0)]
    momentum: Annotated[float, Field(ge=0, lt=1)]
    clip_grad: Annotated[float, Field(ge=0)]
    loss: Literal["cross_entropy", "focal"]
    focal_gamma: Annotated[float, Field(ge=0)]
    class_weights: Literal["none", "balanced"]
    schedule: Literal["constant", "step", "cosine", "restarts", "one_cycle", "plateau"]
    warmup: Annotated[int, Field(ge=0)]
    step_size: Annotated[int, Field(ge=1)]
    step_factor: Annotated[float, Field(gt=0, le=1)]
    cycle_len: Annotated[int, Field(ge=1)]
    cycle_mult: Annotated[int, Field(ge=1)]
    plateau_factor: Annotated[float, Field(gt=0, lt=1)]
    plateau_patience: Annotated[int, Field(ge=0)]
    epochs: Literal["auto"] | Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    monitor: Literal["val_loss", "val_accuracy", "val_map", "val_map_50"]
    refit: Literal["auto", "none", "trainval"]
    early_stopping_patience: Annotated[int, Field(ge=1)]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    normalize: Literal["standardize", "l2", "sqrt", "none"]
    precision: Literal["auto", "float32", "bfloat16"]
    seed: int
    seeds: Annotated[int, Field(ge=1, le=100)]
    device: str = Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    split: Split
    augment: Augment
    extract: Extract
    boxes: Boxes
    lr_sweep: LrSweep
    decide: Decide
    bad_images: BadImages
    datasets: Datasets

    @property
    def learning_rate(self) -> float:
        """`lr` as a number: whoever trains has replaced `auto` before (training/learning_rate.py)."""
        if self.lr == "auto":
            raise ValueError("`lr: auto` is to be replaced by a rate before training.")
        return self.lr

    @property
    def epoch_count(self) -> int:
        """`epochs` as a number: whoever trains has replaced `auto` before (training/epochs.py)."""
        if self.epochs == "auto":
            raise ValueError("`epochs: auto` is to be replaced by a number before training.")
        return self.epochs

    @property
    def input_size(self) -> int | Literal["auto"]:
        """`image_size` as backbones take it: the stage extract has replaced `objects` before."""
        if self.image_size == "objects":
            raise ValueError("`image_size: objects` is to be replaced by a number before extraction.")
        return self.image_size

    @property
    def options(self) -> Any:
        """The block of the chosen dataset."""
        return getattr(self.datasets, self.dataset)


def load(path: Path = paths.PARAMS) -> Params:
    """Params from a YAML file, checked.

    Raises:
        UserError: naming the key, what was found, what was expected and the nearest valid one.
    """
    return from_tree(read(path), str(path))


def read(path: Path = paths.PARAMS) -> dict[str, Any]:
    """The keys and values of a params file, not checked yet.

    Raises:
        UserError: there is no such file, or it is not a mapping in YAML.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): run from the top folder of the checkout.") from None
    if len(content) > MAX_BYTES:
        raise UserError(f"{path} is larger than {MAX_BYTES} bytes: that is not a params file.")
    tree = yaml12.parse(content, str(path))
    if not isinstance(tree, dict):
        raise UserError(f"{path} must hold keys and values, found {type(tree).__name__}.")
    return tree


def from_tree(tree: Mapping[str, Any], path: str = str(paths.PARAMS)) -> Params:
    """Params from the keys and values of a params file, checked.

    Args:
        tree: the keys and values.
        path: of the file, for messages.

    Raises:
        UserError: naming the key, what was found, what was expected and the nearest valid one.
    """
    try:
        params = Params.model_validate(tree)
    except ValidationError as error:
        errors = sorted(error.errors(), key=lambda item: item["type"] == "missing")
        unknown = any(item["type"] == "extra_forbidden" for item in errors)  # `lr` misspelt is one slip, not two
        shown = [item for item in errors if not (unknown and item["type"] == "missing")]
        words = {item["loc"][:-1]: AUTOS[item["loc"][-1]] for item in shown if item["loc"][-1] in AUTOS}  # or a number
        shown = [item for item in shown if item["loc"][-1] not in AUTOS]
        sentences = [_explain(item, path, or_words=words.get(item["loc"][:-1])) for item in shown]
        raise UserError("\n".join(sentences)) from None
    _check_across(params, path)
    return params


def with_overrides(params: Params, overrides: Mapping[str, object]) -> Params:
    """Params with other values of some knobs, checked as those of a file are.

    Args:
        params: what stays.
        overrides: knob -> value; a knob in a block has a dot in its name, such as `extract.dtype`.

    Raises:
        UserError: there is no such knob, it cannot have that value, or the knobs do not agree.
    """
    tree = params.model_dump()
    for knob, value in overrides.items():
        *blocks, name = knob.split(".")
        values = tree
        for block in blocks:
            values = values.setdefault(block, {})
        values[name] = value
    checked = from_tree(tree)
    changed = {knob.partition(".")[0] for knob in overrides}
    return params.model_copy(update={name: getattr(checked, name) for name in changed})


def _explain(error: Any, path: str, *, or_words: str | None) -> str:
    """One line for one pydantic error of a knob, which may take `or_words` in place of a number."""
    where = [str(part) for part in error["loc"] if part not in KINDS]
    key = ".".join(where)
    if error["type"] == "extra_forbidden":
        return f"{path}: `{key}` is not a knob; {_right_name(where)}"
    if error["type"] == "missing":
        return f"{path}: `{key}` is missing; `git diff {path}` shows what it was."
    value = error["input"]
    if error["type"] == "literal_error":
        choices = [choice.strip().strip("'") for choice in re.split(r",| or ", error["ctx"]["expected"])]
        found = f"{path}: `{key}` must be one of {', '.join(choices)}, found {value!r}"
        guess = nearest(str(value), choices)
        return f"{found}." if guess.startswith("known") else f"{found}; {guess}"
    message = error["msg"].removeprefix("Value error, ")
    message = message.replace("Input should be", f"must be {or_words} or" if or_words else "must be")
    message = message.replace("String should match", "must match")
    if error["type"] == "list_type":
        message = f"must be a list, such as [{hydra(value)}]"
    if error["type"] == "string_type" and isinstance(value, int | float):
        message = f'must be text: write "{value}", in double quotes'
    if isinstance(value, dict):  # a rule for a whole block
        return f"{path}: `{key}`: {message}."
    return f"{path}: `{key}` {message}, found {value!r}."


def check_name(knob: str) -> None:
    """Checks that there is such a knob; one in a block has a dot in its name.

    Raises:
        UserError: there is none; the message has the nearest one.
    """
    where, model = list[str](), cast("Any", Params)
    for part in knob.split("."):
        where.append(part)
        if part.isdigit():  # the number of an item of a list, such as phases.0.epochs
            (model,) = get_args(model) or (None,)
            continue
        if (fields := getattr(model, "model_fields", None)) is None:
            return
        if part not in fields:
            raise UserError(f"`{knob}` is not a knob; {_right_name(where)}")
        model = fields[part].annotation


def _right_name(where: list[str]) -> str:
    """What to write in place of a key that does not exist."""
    siblings, name = _siblings(where), where[-1]
    if (knob := ALIASES.get(name.lower().replace("-", "_"))) and len(where) == 1:
        return f"here it is called `{knob}`: remove `{name}`."
    blocks = {block: field.annotation for block, field in Params.model_fields.items()}
    inside = [
        f"`{block}.{name}`"
        for block, kind in blocks.items()
        if isinstance(kind, type) and issubclass(kind, Block) and name in kind.model_fields and len(where) == 1
    ]
    return f"it stands in a block: {' or '.join(inside)}." if inside else nearest(name, siblings)


def _siblings(where: list[str]) -> list[str]:
    """The keys that are valid beside the one at `where`."""
    model: Any = Params
    for part in where[:-1]:
        model = get_args(model)[0] if part.isdigit() else model.model_fields[part].annotation  # list[Phase] has numbers
    return list(model.model_fields)


def _check_across(params: Params, path: str) -> None:
    """What no single field can tell: names that must exist, keys that must agree."""
    datasets = list(Datasets.model_fields)
    if params.dataset not in datasets:
        raise UserError(f"{path}: `dataset` {params.dataset!r} is unknown; {nearest(params.dataset, datasets)}")
    _check_backbone(params, path)
    _check_head(params, path)
    _check_task(params, path)
    _check_schedule(params, path)
    _check_root(params)
    if has_source(params.options):
        for name, source in params.options.source:
            _check_source(f"datasets.{params.dataset}.source.{name}", source, needed=not _indexed(params))


def _check_backbone(params: Params, path: str) -> None:
    networks = names.joined(params.backbone, params.weights)
    for name, weights in networks:
        names.check(name, weights)
    if len(networks) > 1 and not names.is_vector(params.cut):
        raise UserError(
            f"{path}: `backbone` {params.backbone} joins the vectors of {len(networks)} networks, which needs a cut "
            f"that gives vectors (pooled, {', '.join(names.TOKEN_CUTS)}), found cut={params.cut}: take cut=pooled."
        )


def _check_head(params: Params, path: str) -> None:
    if params.head not in HEADS:
        raise UserError(f"{path}: `head` {params.head!r} is unknown; {_right_head(params.head)}")
    spec = HEADS[params.head]
    if spec.finds_objects and not _may_have_objects(params):
        raise UserError(
            f"{path}: `head` {params.head} finds objects, and dataset {params.dataset} has no boxes: take a head that "
            f"names the class of an image ({', '.join(heads_for('classification'))}), or a dataset with boxes (csv, "
            "voc, coco and yolo read your own)."
        )
    key = "cut" if params.tap == "same" else "tap"
    takes, layer = spec.input, getattr(params, key)
    inputs: dict[str, Input] = {layer: "vector"} if names.is_vector(layer) else {"pyramid": "pyramid"}
    has = inputs.get(layer)  # of other layers only torch can tell
    if (takes == "map" and has) or (has == "pyramid") != (takes == "pyramid"):
        fitting = ", ".join(heads_taking(has or "map"))
        raise UserError(
            f"{path}: `head` {params.head} takes {INPUTS[takes]}, and `{key}` {layer} is {INPUTS[has or 'map']}: take "
            f"{key}={'pooled' if takes == 'vector' else takes}, or a head for that ({fitting})."
        )
    if params.monitor == "val_map_50" and not spec.finds_objects:
        raise UserError(f"{path}: `monitor` val_map_50 needs a head that finds objects, found {params.head}.")
    if params.monitor == "val_accuracy" and spec.task == "detection":
        raise UserError(
            f"{path}: `monitor` val_accuracy needs a head that names one class per image, found {params.head}."
        )
    if params.refit == "trainval" and params.phases:
        raise UserError(f"{path}: `refit` trainval does not go with `phases`: set refit=none.")
    if spec.candidates:
        _check_candidates(params, path)
    if spec.finds_objects:
        _check_classification_knobs(params, path)
    if params.split.protocol == "kfold":
        _check_folds(params, path)


def _check_task(params: Params, path: str) -> None:
    """Refuses what several labels per image do not go with; `task: auto` goes by the index, once there is one."""
    several = params.task == "multi" or (params.task == "auto" and "task" in _index(params))
    if not several:
        if params.monitor == "val_map" and (params.task == "single" or _index(params)):
            raise UserError(
                f"{path}: `monitor` val_map needs images with several labels, and dataset {params.dataset} is read "
                f"with one (task={params.task}): set task=multi, or monitor=val_accuracy."
            )
        return
    if not HEADS[params.head].multilabel:
        raise UserError(
            f"{path}: `head` {params.head} {_not_multilabel(params.head)}, and images have several labels "
            f"(task={params.task}): take {', '.join(heads_for_labels())}, or set task=single."
        )
    if params.monitor == "val_accuracy":
        raise UserError(
            f"{path}: `monitor` val_accuracy needs one label per image, and images have several (task={params.task}): "
            "set monitor=val_map or monitor=val_loss."
        )
    if getattr(params.options, "unlabelled", ""):
        raise UserError(
            f"{path}: `datasets.folder.unlabelled` does not go with task={params.task}: an image in no class folder "
            "would be one with none of the labels. Set datasets.folder.unlabelled=''."
        )
    if params.split.protocol == "kfold":
        raise UserError(
            f"{path}: `split.protocol` kfold judges heads for one label per image, and images have several "
            f"(task={params.task}): take split.protocol=fractions."
        )


def _not_multilabel(head: str) -> str:
    return "finds objects" if HEADS[head].finds_objects else "names one class per image"


def _check_folds(params: Params, path: str) -> None:
    """Refuses what folds do not go with."""
    if HEADS[params.head].finds_objects:
        raise UserError(
            f"{path}: `split.protocol` kfold judges heads that name the class of an image "
            f"({', '.join(heads_for('classification'))}), found head {params.head}: take split.protocol=fractions."
        )
    if params.seeds > 1:
        raise UserError(
            f"{path}: `split.protocol` kfold trains one head per fold, which gives the spread, found seeds="
            f"{params.seeds}: set seeds=1."
        )


def _check_candidates(params: Params, path: str) -> None:
    """Refuses what has no meaning before the head is chosen."""
    names_of = ", ".join(HEADS[params.head].candidate_heads)
    if params.tap != "same" or params.cut == "input":
        raise UserError(
            f"{path}: `head` {params.head} compares heads on vectors that are kept, found cut={params.cut}, "
            f"tap={params.tap}: take tap=same with any cut but input and pyramid, or name one head ({names_of})."
        )
    if params.class_weights != "none":
        raise UserError(
            f"{path}: `class_weights` {params.class_weights} needs a head that trains in epochs, and head "
            f"{params.head} may take one that is solved at once: set class_weights=none, or "
            f"head={head_with_rate(params.head)}."
        )


def _right_head(name: str) -> str:
    """What to write in place of a head that does not exist; people name a network where a head is meant."""
    networks = [backbone for backbone in names.unprefixed() if backbone.startswith(name.lower())]
    if networks and name.lower() not in HEADS:
        network = min(networks, key=lambda backbone: (len(backbone), backbone))
        return f"it is the name of a network: backbone={network}? Heads are {', '.join(HEADS)}."
    close = nearest(name, list(HEADS))
    return f"{close} Heads are {', '.join(HEADS)}." if close.endswith("?") else f"heads are {', '.join(HEADS)}."


def _check_classification_knobs(params: Params, path: str) -> None:
    """Refuses what heads that find objects would ignore without a word."""
    for knob, unset in {"class_weights": "none", "label_smoothing": 0.0, "seeds": 1}.items():
        if (value := getattr(params, knob)) != unset:
            fitting = ", ".join(heads_for("classification"))
            raise UserError(
                f"{path}: `{knob}` is for heads that name the class of an image ({fitting}), found {value} with head "
                f"{params.head}: set {knob}={unset}. The block `boxes` has the weights of heads that find objects."
            )


def _check_schedule(params: Params, path: str) -> None:
    if params.warmup and params.schedule == "plateau":
        raise UserError(
            f"{path}: `warmup` does not go with schedule plateau: set warmup to 0 or take another schedule."
        )
    if params.phases and params.tap == "same":
        raise UserError(
            f"{path}: `phases` unfreeze what lies between cut and tap, and tap=same leaves nothing between them."
        )
    shortest = min((phase.epochs for phase in params.phases), default=params.epochs)
    if shortest == "auto":
        shortest = FEWEST_EPOCHS
    if params.warmup >= shortest:
        where = "the shortest of `phases`" if params.phases else "`epochs`"
        raise UserError(f"{path}: `warmup` ({counted(params.warmup, 'epochs')}) must end before {where} ({shortest}).")


def _check_root(params: Params) -> None:
    root = Path(params.root).expanduser()
    needed = "the folder that holds one folder per class" if params.dataset == "folder" else "the folder of your data"
    if has_source(params.options):
        if not root.is_dir():
            raise UserError(
                f"`root`: there is no folder {params.root!r}; dataset {params.dataset} needs root=data/none."
            )
        return
    if params.root == "data/none":
        raise UserError(f"`root`: dataset {params.dataset} is your own data; give {needed}: root=/….")
    if not root.is_absolute():
        raise UserError(
            f"`root` must be an absolute path for dataset {params.dataset}, found {params.root!r}: "
            "a relative one points elsewhere in `dvc exp run --temp`."
        )
    if not root.is_dir() and not _indexed(params):
        raise UserError(
            f"`root`: there is no folder {params.root!r}; give {needed}. To train on "
            "the features of a colleague who has it: `dvc pull code index split extract review`, then "
            "`dvc exp run --allow-missing`."
        )


def _indexed(params: Params) -> bool:
    """Whether the index on the disk is of the same images: a colleague may have them, and heads train without them."""
    return bool(_index(params))


def _index(params: Params) -> dict[str, Any]:
    """What the index stage wrote beside the index, if it is of the same images; empty otherwise."""
    try:
        index: dict[str, Any] = json.loads(paths.index(params.dataset).with_suffix(".json").read_text(encoding="utf-8"))
        same = index["root"] == params.root and index["options"] == params.options.model_dump(mode="json")
    except (OSError, ValueError, TypeError, KeyError):
        return {}
    return index if same else {}


def _may_have_objects(params: Params) -> bool:
    """Whether the dataset has boxes as far as one can tell: by its kind, and by its index once there is one."""
    if not getattr(params.options, "has_objects", True):
        return False
    return bool(_index(params).get("objects", True))


def _check_source(key: str, source: Source, *, needed: bool) -> None:
    kinds = ("https://", "http://", "pypi:")
    if needed and not source.url.startswith(kinds) and not paths.resolve(source.url).is_file():
        raise UserError(
            f"`{key}.url`: there is no file {source.url!r} ({paths.resolve(source.url)}); "
            "give https://…, a local path (relative to the main checkout) or pypi:NAME==VERSION."
        )
    if source.url.startswith("pypi:") and not re.fullmatch(r"pypi:[A-Za-z0-9._-]+==[A-Za-z0-9.+!_-]+", source.url):
        raise UserError(f"`{key}.url` must be pypi:NAME==VERSION, found {source.url!r}.")


if __name__ == "__main__":  # the command's older name
    from stages.check import run

    run()
