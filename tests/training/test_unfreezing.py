"""The rest trains as plain torch trains it, phase by phase, and what is frozen does not move by a bit."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

from stages.backbones import zoo
from stages.errors import UserError
from stages.training import checkpoint, loop
from stages.training.data import HeadData, SplitData
from stages.training.model import TrainResult, assemble
from stages.training.options import Phase
from stages.training.rest import Rest, build
from stages.training.tasks import ClassificationTask, EpochScores, Task
from tests.backbones.networks import output_of, randomised

Make = Callable[..., Any]
CPU = torch.device("cpu")
SIZE, TRAIN, VAL = 64, 22, 9
NAME, CUT = "shufflenet_v2_x0_5", "stage2"  # small, with batch-norm in every block: stage3, stage4 and conv5 follow
PREPROCESSING = "decode|resize(64,bilinear)|center_crop(64)|normalize([0.5, 0.5, 0.5],[0.25, 0.25, 0.25])"


def images(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised pixels (N, 3, 64, 64) of three classes, and labels."""
    y = torch.arange(count) % 3
    x = torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(count))
    x[torch.arange(count), y] += 1
    return x, y


def cached(name: str, cut: str, model: nn.Module) -> HeadData:
    """What extraction keeps at a cut, by means of a hook."""

    def split(count: int) -> SplitData:
        x, y = images(count)
        with torch.inference_mode():
            return SplitData(output_of(cut)(model, x)[:, None].clone(), y, list(range(count)))

    provenance = {"cut": cut, "backbone": name, "image_size": SIZE, "weights": "random"}
    return HeadData(["a", "b", "c"], {"train": split(TRAIN), "val": split(VAL), "test": split(3)}, provenance)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Make:
    """`network(name, **options)`: a torchvision model with weights of its own, which `zoo` then hands out."""

    def make(name: str, **options: Any) -> nn.Module:
        torch.manual_seed(0)
        model = randomised(models.get_model(name, weights=None, **options))
        backbone = zoo.Backbone(name, model, zoo.preprocessing(name, "random"), "random", "sha256")
        monkeypatch.setattr(zoo, "load", lambda *_: backbone)
        return model

    return make


@pytest.fixture
def turned(workplace: Any, params: Make) -> Make:
    def make(**overrides: Any) -> Any:
        plain: dict[str, Any] = {"head": "linear", "tap": "pooled", "weights": "random", "optimizer": "sgd"}
        plain |= {"epochs": 3, "batch_size": 8, "lr": 0.02, "lr_backbone": 0.002, "weight_decay": 0.0}
        plain |= {"precision": "float32", "schedule": "constant", "normalize": "none", "early_stopping_patience": 100}
        return params(**(plain | overrides))

    return make


@pytest.fixture
def data(network: Make) -> HeadData:
    """Features of the small network at its cut."""
    return cached(NAME, CUT, network(NAME))


def fit(chosen: Any, data: HeadData) -> TrainResult:
    return loop.fit("linear", data, params=chosen, device=CPU)


def body(result: TrainResult) -> dict[str, torch.Tensor]:
    assert result.module.rest and result.module.rest.body
    state: dict[str, torch.Tensor] = result.module.rest.body.state_dict()
    return state


# --- the same as plain torch


def trained_plainly(model: Any, classifier: str, frozen: list[str], chosen: Any) -> list[tuple[float, float]]:
    """Train and validation loss of each epoch: the whole network with a new classifier, some modules frozen."""
    torch.manual_seed(chosen.seed)
    head = nn.Linear(model.get_submodule(classifier).in_features, 3)
    model.set_submodule(classifier, head)
    model.requires_grad_(True)
    for name in frozen:
        model.get_submodule(name).requires_grad_(False)
    own = set(head.parameters())
    others = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter not in own]
    groups = [{"params": list(own), "lr": chosen.lr}, {"params": others, "lr": chosen.lr_backbone}]
    optimizer = torch.optim.SGD(groups, lr=0.0, momentum=chosen.momentum)
    (x, y), (unseen, answers) = images(TRAIN), images(VAL)
    x, unseen = (some.contiguous(memory_format=torch.channels_last) for some in (x, unseen))  # as dropout draws
    curve = []
    for _ in range(chosen.epochs):
        model.train()
        for name, module in model.named_modules():
            if name in frozen or (chosen.freeze_batchnorm and isinstance(module, nn.BatchNorm2d)):
                module.eval()
        total = 0.0
        for batch in torch.randperm(TRAIN).split(chosen.batch_size):  # type: ignore[no-untyped-call]
            loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item() * len(batch)
        model.eval()
        with torch.no_grad():
            curve.append((total / TRAIN, nn.functional.cross_entropy(model(unseen), answers).item()))
    return curve


NETWORKS = {  # name -> options, cut, classifier, the modules up to the cut
    "resnet18": ({}, "layer3", "fc", ["conv1", "bn1", "layer1", "layer2", "layer3"]),
    "efficientnet_b0": ({}, "features.5", "classifier.1", [f"features.{block}" for block in range(6)]),
    "densenet121": (
        {"drop_rate": 0.2}, "features.transition3", "classifier",
        ["features.conv0", "features.norm0", *(f"features.denseblock{block}" for block in (1, 2, 3)),
         *(f"features.transition{block}" for block in (1, 2, 3))],
    ),
}  # fmt: skip


@pytest.mark.parametrize("freeze_batchnorm", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_rest_trains_as_the_whole_with_its_trunk_frozen(
    network: Make, turned: Make, name: str, freeze_batchnorm: bool
) -> None:
    options, cut, classifier, frozen = NETWORKS[name]
    model, chosen = network(name, **options), turned(freeze_batchnorm=freeze_batchnorm, lr=0.002, lr_backbone=0.0005)
    result = fit(chosen, cached(name, cut, model))
    expected = trained_plainly(model, classifier, frozen, chosen)
    for epoch, losses in zip(result.history, expected, strict=True):
        assert (epoch.train_loss, epoch.val_loss) == pytest.approx(losses, rel=1e-4)


# --- what is frozen does not move


FROZEN = {"head": ("stage3.", "stage4.", "conv5."), "conv5": ("stage3.", "stage4."), "stage4": ("stage3.",), "all": ()}


@pytest.mark.parametrize("freeze_batchnorm", [False, True])
@pytest.mark.parametrize(
    "order", [["head"], ["conv5"], ["all"], ["head", "conv5", "stage4"], ["conv5", "head"]], ids=" then ".join
)
def test_what_is_frozen_is_bit_identical_afterwards(
    data: HeadData, turned: Make, monkeypatch: pytest.MonkeyPatch, order: list[str], freeze_batchnorm: bool
) -> None:
    epoch_scores = iter(EpochScores(1 / epoch, 0.0) for epoch in range(1, 9))
    monkeypatch.setattr(loop, "evaluate", lambda *_: next(epoch_scores))  # the last epoch is the best, and kept
    before = build(data.provenance, "pooled", "random")
    assert before and before.body
    phases = [{"epochs": 1, "train_from": module} for module in order]
    chosen = turned(phases=phases, freeze_batchnorm=freeze_batchnorm, optimizer="adamw", weight_decay=0.1)
    actual = body(fit(chosen, data))
    never = [prefix for prefix in FROZEN["head"] if all(prefix in FROZEN[module] for module in order)]
    for name, value in before.body.state_dict().items():
        statistic = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        still = name.startswith(tuple(never)) or (statistic and freeze_batchnorm)
        assert torch.equal(value, actual[name]) == still, name


def test_a_frozen_block_draws_nothing(network: Make) -> None:
    """Stochastic depth of what is frozen is off while what follows trains."""
    network("efficientnet_b0")
    provenance = {"cut": "features.2", "backbone": "efficientnet_b0", "image_size": SIZE, "weights": "random"}
    rest, frozen = (build(provenance, tap, "random") for tap in ("pooled", "features.6"))
    assert rest and rest.body and frozen
    rest.freeze("features.7", batchnorm=True)
    seen: list[torch.Tensor] = []
    rest.body.get_submodule("features.7").get_submodule("0.block.0").register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0])
    )
    x = torch.randn(4, 24, 16, 16)
    with torch.no_grad():
        rest.train()(x)
        expected = frozen.eval()(x)
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-4)


# --- phases


def test_history_tells_phase_and_rate(data: HeadData, turned: Make) -> None:
    phases = [{"epochs": 2, "train_from": "head"}, {"epochs": 1, "train_from": "conv5", "lr": 0.005}]
    result = fit(turned(phases=phases), data)
    assert [(epoch.epoch, epoch.phase, epoch.lr) for epoch in result.history] == [
        (1, 1, 0.02),
        (2, 1, 0.02),
        (3, 2, 0.005),
    ]


def test_each_phase_begins_with_the_best_before_it(
    data: HeadData, turned: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three epochs the second is the best; a rate of next to nothing shows where the next phase began."""
    epoch_scores = iter([EpochScores(0.9, 0.1), EpochScores(0.5, 0.1), EpochScores(0.7, 0.1), EpochScores(0.4, 0.1)])
    states: list[dict[str, torch.Tensor]] = []

    def evaluate(module: nn.Module, split: SplitData, task: Task) -> EpochScores:
        states.append({name: value.clone() for name, value in module.state_dict().items()})
        return next(epoch_scores)

    monkeypatch.setattr(loop, "evaluate", evaluate)
    phases = [{"epochs": 3}, {"epochs": 1, "lr": 1e-12, "lr_backbone": 1e-12}]
    result = fit(turned(phases=phases), data)
    for name, value in states[1].items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(states[3][name], value, rtol=0, atol=1e-7)
    assert not torch.equal(states[2]["head.weight"], states[1]["head.weight"])
    assert result.best_epoch == 4


def test_a_worse_phase_leaves_the_best_of_those_before(data: HeadData, turned: Make) -> None:
    good = turned(phases=[{"epochs": 3, "train_from": "head"}])
    bad = turned(phases=[{"epochs": 3, "train_from": "head"}, {"epochs": 2, "lr": 50.0, "lr_backbone": 1e-9}])
    expected, actual = fit(good, data), fit(bad, data)
    assert actual.history[:3] == expected.history and actual.best_epoch == expected.best_epoch
    assert all(
        torch.equal(value, actual.module.state_dict()[name]) for name, value in expected.module.state_dict().items()
    )


def test_a_phase_of_the_head_alone_trains_as_through_the_frozen_rest(data: HeadData, turned: Make) -> None:
    """The rest runs once then; step by step the head sees what it would see behind it."""
    chosen = turned(phases=[{"epochs": 3, "train_from": "head"}], normalize="standardize")
    result = fit(chosen, data)
    torch.manual_seed(chosen.seed)
    module, _ = loop.start("linear", data, train=data.splits["train"], params=chosen, device=CPU)
    optimizer = loop.make_optimizer(loop.unfreeze(module, chosen.phases[0], chosen), chosen)
    train = data.splits["train"]
    for epoch in result.history:
        module.train()
        total = 0.0
        for batch in torch.randperm(TRAIN).split(chosen.batch_size):  # type: ignore[no-untyped-call]
            loss, _ = loop.step(
                module,
                train.batch(batch),
                targets=train.y[batch],
                optimizer=optimizer,
                params=chosen,
                task=ClassificationTask(chosen, None),
            )
            total += float(loss) * len(batch)
        assert epoch.train_loss == pytest.approx(total / TRAIN, rel=1e-5)
        assert epoch.val_loss == pytest.approx(
            ClassificationTask(chosen, None).evaluate(module, data.splits["val"]).loss, rel=1e-5
        )


def rates(rest: Rest, phase: Phase, chosen: Any) -> dict[str, float]:
    """The rate of each parameter that trains."""
    assert rest.body
    rest.freeze(phase.train_from, batchnorm=True)
    key = {parameter: name for name, parameter in rest.body.named_parameters()}
    return {key[one]: group["lr"] for group in rest.groups(phase, chosen) for one in group["params"]}


@pytest.fixture
def rest(data: HeadData) -> Rest:
    actual = build(data.provenance, "pooled", "random")
    assert actual
    return actual


def of(rate_of: Mapping[str, float], prefix: str) -> set[float]:
    return {rate for name, rate in rate_of.items() if name.startswith(prefix)}


def test_all_of_the_rest_trains_at_its_own_rate(rest: Rest, turned: Make) -> None:
    assert rest.body
    actual = rates(rest, Phase(epochs=1), turned())
    assert set(actual) == {name for name, _ in rest.body.named_parameters()} and set(actual.values()) == {0.002}
    assert set(rates(rest, Phase(epochs=1, lr_backbone=0.5), turned()).values()) == {0.5}


def test_rates_fall_from_block_to_block_towards_the_input(rest: Rest, turned: Make) -> None:
    actual = rates(rest, Phase(epochs=1), turned(layer_decay=0.5))
    assert [of(actual, block) for block in ("conv5.", "stage4.", "stage3.")] == [{0.002}, {0.001}, {0.0005}]


def test_groups_have_rates_of_their_own_and_the_longest_name_decides(rest: Rest, turned: Make) -> None:
    phase = Phase(epochs=1, train_from="stage4", groups={"stage4": 0.1, "stage4.0": 0.2})
    actual = rates(rest, phase, turned())
    assert of(actual, "stage4.0.") == {0.2} and of(actual, "stage4.1.") == {0.1} and of(actual, "conv5.") == {0.002}
    assert not of(actual, "stage3.")


def test_nothing_of_the_rest_trains_with_the_head_alone(rest: Rest, turned: Make) -> None:
    assert rates(rest, Phase(epochs=1, train_from="head"), turned()) == {}


def test_gradients_of_an_earlier_phase_have_no_part_in_the_norm(rest: Rest, turned: Make, data: HeadData) -> None:
    chosen, (x, y) = turned(clip_grad=0.1), (data.splits["train"].evaluation_vectors, data.splits["train"].y)
    moved = []
    for left in (0.0, 1e6):
        torch.manual_seed(0)
        module = assemble(
            "linear",
            data.shape,
            classes=3,
            knobs={"precision": "float32"},
            rest=build(data.provenance, "pooled", "random"),
        )
        assert module.rest
        module.eval()
        optimizer = loop.make_optimizer(loop.unfreeze(module, Phase(epochs=1, train_from="head"), chosen), chosen)
        for parameter in module.rest.parameters():
            parameter.grad = torch.full_like(parameter, left)
        loop.step(module, x, targets=y, optimizer=optimizer, params=chosen, task=ClassificationTask(chosen, None))
        moved.append(module.head.weight.detach().clone())  # type: ignore[operator]
    assert torch.equal(*moved)


# --- how many parameters trained


@pytest.mark.parametrize(
    ("order", "prefixes"),
    [(["head"], ()), (["head", "conv5"], ("conv5.",)), (["stage4", "conv5"], ("stage4.", "conv5.")), (["all"], ("",))],
)
def test_what_trains_in_any_phase_is_counted(
    data: HeadData, rest: Rest, turned: Make, order: list[str], prefixes: tuple[str, ...]
) -> None:
    assert rest.body
    result = fit(turned(phases=[{"epochs": 1, "train_from": module} for module in order]), data)
    own = sum(
        parameter.numel() for name, parameter in rest.body.named_parameters() if prefixes and name.startswith(prefixes)
    )
    assert result.trained == own + 1024 * 3 + 3


# --- interrupted


class Killed(BaseException):
    """Stands for a signal."""


@pytest.mark.parametrize("clip_grad", [0.0, 0.5])
@pytest.mark.parametrize("killed_in", [2, 3, 4])
def test_killed_in_any_phase_it_goes_on_with_the_same_result(
    data: HeadData, turned: Make, monkeypatch: pytest.MonkeyPatch, clip_grad: float, killed_in: int
) -> None:
    monkeypatch.setattr(checkpoint, "SECONDS", 0)
    order = [{"epochs": 1}, {"epochs": 2, "train_from": "conv5"}, {"epochs": 1, "train_from": "head"}]
    chosen = turned(
        phases=order, optimizer="adamw", normalize="standardize", freeze_batchnorm=False, clip_grad=clip_grad
    )
    expected, evaluate, calls = fit(chosen, data), loop.evaluate, list[int]()

    def counted(module: nn.Module, split: SplitData, task: Task) -> EpochScores:
        calls.append(1)
        if len(calls) == killed_in:
            raise Killed
        return evaluate(module, split, task)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate", counted)
        with pytest.raises(Killed):
            fit(chosen, data)
    result = fit(chosen, data)
    assert result.history == expected.history and result.trained == expected.trained
    for name, value in expected.module.state_dict().items():
        assert torch.equal(value, result.module.state_dict()[name]), name


# --- slips


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ({"train_from": "stage5"}, r"`phases`: train_from 'stage5' has no parameters in the rest; did you mean stage"),
        ({"train_from": "stage2"}, r"`phases`: train_from 'stage2' has no parameters in the rest"),
        ({"groups": {"conv6": 0.1}}, r"`phases`: groups 'conv6' has no parameters in the rest; did you mean conv5"),
    ],
)
def test_a_slip_in_a_late_phase_is_refused_before_the_first_begins(
    data: HeadData, turned: Make, monkeypatch: pytest.MonkeyPatch, phase: dict[str, Any], message: str
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr(loop, "step", refuse)
    with pytest.raises(UserError, match=message):
        fit(turned(phases=[{"epochs": 1}, {"epochs": 1} | phase]), data)


def test_other_weights_than_those_of_the_features_are_refused(data: HeadData) -> None:
    provenance = data.provenance | {"weights_sha256": "0" * 64}
    with pytest.raises(
        UserError, match=r"made with other weights of shufflenet_v2_x0_5 \(000000000000\) than the current ones"
    ):
        build(provenance, "pooled", "random")


@pytest.mark.parametrize(
    ("tap", "message"),
    [("conv1", "`tap`: conv1 does not come after cut stage2"), ("stage7", "`tap`: .* has no module 'stage7'; did you")],
)
def test_a_tap_that_cannot_be_is_refused(data: HeadData, tap: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(data.provenance, tap, "random")


def test_a_head_for_maps_behind_a_vector_is_refused(rest: Rest, data: HeadData) -> None:
    with pytest.raises(UserError, match=r"squeezenet takes a map \(C, H, W\), and the features are of shape \(1024,\)"):
        assemble("squeezenet", data.shape, classes=3, knobs={"precision": "float32", "dropout": 0.0}, rest=rest)
