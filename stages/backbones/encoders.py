"""Encoders worth trying, from a laptop's to a GPU's: `python -m stages.backbone --list`. No torch is imported."""

from typing import NamedTuple

OWN = "its own classifier, torchvision"
LITE = "its own classifier, tensorflow/tpu"
DINO = "linear, facebookresearch/dino"
DINOV2 = "linear, facebookresearch/dinov2"
DINOV3 = "linear at 512 pixels, yberreby/dinov3-in1k-probes"
PROBING = "linear, efficient probing (README)"
DINOV3_LICENCE = "dinov3-license: read its terms"


class Encoder(NamedTuple):
    """A pretrained network and what is published of it.

    Attributes:
        name: as `backbone` takes it.
        size: input pixels a side.
        parameters: in millions, with the classifier where there is one.
        multiply_adds: per image of that size, in billions.
        accuracy: top-1 on ImageNet-1k of a linear classifier on the frozen features, in per cent.
        source: of the accuracy.
        licence: of the weights.
    """

    name: str
    size: int
    parameters: float
    multiply_adds: float
    accuracy: float
    source: str
    licence: str


BSD = "bsd-3-clause (torchvision)"
ENCODERS = (
    Encoder("squeezenet1_1", 224, 1.2, 0.35, 58.2, OWN, BSD),
    Encoder("mobilenet_v3_large", 224, 5.5, 0.22, 75.3, OWN, BSD),
    Encoder("efficientnet_lite0", 224, 4.7, 0.39, 75.1, LITE, "apache-2.0"),
    Encoder("efficientnet_lite2", 260, 6.1, 0.86, 77.6, LITE, "apache-2.0"),
    Encoder("resnet18", 224, 11.7, 1.81, 69.8, OWN, BSD),
    Encoder("resnet50", 224, 25.6, 4.09, 80.9, OWN, BSD),
    Encoder("convnext_tiny", 224, 28.6, 4.46, 82.5, OWN, BSD),
    Encoder("timm:vit_small_patch16_224.dino", 224, 21.7, 4.6, 77.0, DINO, "apache-2.0"),
    Encoder("timm:vit_small_patch16_dinov3.lvd1689m", 256, 21.6, 6.25, 81.4, DINOV3, DINOV3_LICENCE),
    Encoder("timm:vit_small_plus_patch16_dinov3.lvd1689m", 256, 28.7, 8.09, 82.9, DINOV3, DINOV3_LICENCE),
    Encoder("timm:vit_base_patch16_224.dino", 224, 85.8, 17.56, 78.2, DINO, "apache-2.0"),
    Encoder("timm:vit_base_patch16_224.mae", 224, 85.8, 17.56, 67.8, PROBING, "cc-by-nc-4.0: not for commerce"),
    Encoder("timm:vit_base_patch16_dinov3.lvd1689m", 256, 85.6, 23.57, 85.0, DINOV3, DINOV3_LICENCE),
    Encoder("timm:vit_small_patch14_dinov2.lvd142m", 518, 22.1, 46.7, 81.1, DINOV2, "apache-2.0"),
    Encoder("timm:vit_small_patch14_reg4_dinov2.lvd142m", 518, 22.1, 46.88, 80.9, DINOV2, "apache-2.0"),
    Encoder("timm:vit_large_patch16_siglip_256.v2_webli", 256, 316.0, 81.3, 85.3, PROBING, "apache-2.0"),
    Encoder("timm:vit_large_patch16_dinov3.lvd1689m", 256, 303.1, 82.37, 87.4, DINOV3, DINOV3_LICENCE),
    Encoder("timm:vit_base_patch14_dinov2.lvd142m", 518, 86.6, 151.57, 84.5, DINOV2, "apache-2.0"),
    Encoder("timm:vit_base_patch14_reg4_dinov2.lvd142m", 518, 86.6, 152.12, 84.6, DINOV2, "apache-2.0"),
    Encoder("timm:vit_huge_plus_patch16_dinov3.lvd1689m", 256, 840.5, 224.77, 87.7, DINOV3, DINOV3_LICENCE),
    Encoder("timm:vit_large_patch14_dinov2.lvd142m", 518, 304.4, 506.8, 86.3, DINOV2, "apache-2.0"),
    Encoder("timm:vit_large_patch14_reg4_dinov2.lvd142m", 518, 304.4, 508.55, 86.7, DINOV2, "apache-2.0"),
    Encoder("timm:vit_giant_patch14_reg4_dinov2.lvd142m", 518, 1136.5, 1789.22, 87.1, DINOV2, "apache-2.0"),
)  # by multiply-adds, roughly


def table() -> str:
    """One line per encoder, and what to do with them."""
    width = max(len(encoder.name) for encoder in ENCODERS) + 2
    source = max(len(encoder.source) for encoder in ENCODERS) + 2
    lines = [
        f"{'backbone':{width}}{'pixels':>6}{'parameters':>12}{'multiply-adds':>15}{'top-1':>7}  {'of':{source}}licence"
    ]
    lines += [
        f"{encoder.name:{width}}{encoder.size:>6}{encoder.parameters:>10,.1f} M{encoder.multiply_adds:>13,.2f} G"
        f"{encoder.accuracy:>7.1f}  {encoder.source:{source}}{encoder.licence}"
        for encoder in ENCODERS
    ]
    return "\n".join([
        *lines, "",
        "top-1: per cent on ImageNet-1k, of a linear classifier on frozen features, as published. Those of DINOv2 were",
        "measured at 224 pixels, which take far fewer multiply-adds: image_size=224.",
        "What each takes here: python -m stages.plan --list; one, measured: python -m stages.plan --backbone NAME",
    ])  # fmt: skip
