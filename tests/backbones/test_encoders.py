"""The list of encoders says what the networks and timm say."""

import pytest
import timm
import torch
from torchvision.models import get_model, get_model_weights

from stages.backbones import encoders, licences, names, zoo
from stages.backbones.encoders import ENCODERS, OWN, Encoder


@pytest.mark.parametrize("encoder", ENCODERS, ids=[encoder.name for encoder in ENCODERS])
def test_an_encoder_exists_with_these_numbers(encoder: Encoder) -> None:
    names.check(encoder.name, "default")
    assert zoo.preprocessing(encoder.name).crop == encoder.size
    with torch.device("meta"):
        if encoder.source == OWN:
            model = get_model(encoder.name, weights=None)
        else:
            model = timm.create_model(encoder.name.removeprefix("timm:").replace("efficientnet", "tf_efficientnet"))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert round(parameters / 1e6, 1) == pytest.approx(encoder.parameters)
    if encoder.source == OWN:
        chosen = get_model_weights(encoder.name)["DEFAULT"]  # type: ignore[index]
        assert round(chosen.meta["_metrics"]["ImageNet-1K"]["acc@1"], 1) == encoder.accuracy
    if encoder.name.startswith("timm:"):
        free = licences.licence(encoder.name, "default").partition(",")[0]
        assert encoder.licence.partition(":")[0] == free


def test_the_table_has_a_line_per_encoder_and_what_to_do_next() -> None:
    lines = encoders.table().splitlines()
    assert len(ENCODERS) >= 20 and len(lines) > len(ENCODERS)
    assert all(line.split()[0] == encoder.name for line, encoder in zip(lines[1:], ENCODERS, strict=False))
    assert "stages.plan --backbone NAME" in lines[-1]
