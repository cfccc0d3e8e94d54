"""The built-in dataset: drawn street-like scenes with brand marks on signs, a look-alike of FlickrLogos-32.

33 classes: 32 brands and `no-logo`, whose signs carry plain shapes or words. A scene has one to three marks; the
largest gives its label and each has a tight box. Palette, sign, background and light never depend on the class.

The marks come from the wheel of `fontawesomefree==6.6.0` (Font Awesome Free: icons CC BY 4.0, font OFL 1.1); brand
marks are trademarks of their owners, used here only to name them.

1,320 scenes of 320 pixels (40 per class) take about 25 s on 2 cores, and 30 MB. On 20 training scenes per class, over 3
splits, test top-1 on pooled EfficientNet-Lite0 features is 0.76 to 0.80 for a linear head, 0.78 to 0.84 for an MLP and
0.87 to 0.89 for ridge regression; on 32 by 32 raw pixels ridge gets 0.04 to 0.05: colours say nothing about the class
(`python -m tests.bench.difficulty`).
"""

import functools
import hashlib
import io
import json
import math
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps, ImageStat
from pydantic import Field
from tqdm import tqdm

from stages.blocks import Block, Source
from stages.datasets.base import Box, Record
from stages.machine import cores
from stages.processes import process_pool

ARCHIVE = "scenes.zip"
DETECTION = "boxes.jsonl"
NO_LOGO = "no-logo"
# Names in Font Awesome Free.
BRANDS = (
    "airbnb", "android", "apple", "bluesky", "bluetooth", "discord", "docker", "dropbox",
    "facebook-f", "fedex", "github", "instagram", "java", "linux", "microsoft", "pinterest",
    "playstation", "python", "raspberry-pi", "redhat", "shopify", "slack", "snapchat", "soundcloud",
    "spotify", "steam", "tiktok", "twitch", "twitter", "waze", "yelp", "youtube",
)  # fmt: skip
LABELS = (*BRANDS, NO_LOGO)
WORDS = ("OPEN", "CAFE", "EXIT", "SALE", "24h", "Hotel", "BAR", "TAXI", "No. 7", "Books", "Tea", "STOP", "Bus", "Shop")
PLATES = ("card", "square", "disc", "pill", "hexagon", "banner", "bare")
MOUNTS = ("wall", "wall", "pole", "ropes")
CORNERS = {"card": 0.16, "square": 0.03, "pill": 0.5, "disc": 0.5}  # radius, as a share of the shorter side
POLYGONS = {  # on the unit square, as below
    "hexagon": ((0.2, 0), (0.8, 0), (1, 0.5), (0.8, 1), (0.2, 1), (0, 0.5)),
    "banner": ((0, 0), (1, 0), (0.92, 0.5), (1, 1), (0, 1), (0.08, 0.5)),
}
ARROW = ((0, 0.35), (0.5, 0.35), (0.5, 0.1), (1, 0.5), (0.5, 0.9), (0.5, 0.65), (0, 0.65))
HOUSE = ((0, 0.5), (0.5, 0), (1, 0.5), (0.85, 0.5), (0.85, 1), (0.15, 1), (0.15, 0.5))
CHEVRON = ((0, 0), (0.5, 0), (1, 0.5), (0.5, 1), (0, 1), (0.5, 0.5))
DIAMOND = ((0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5))
# Lightness, chroma: white, pale, bright, deep and near black (Oklch).
PAINTS = ((0.94, 0.03), (0.78, 0.13), (0.6, 0.16), (0.42, 0.12), (0.25, 0.05))

MAIN_AREA = (0.12, 0.32)  # area of the largest mark's box, as a share of the scene's
OTHER_AREA = (0.12, 0.30)  # area of another mark's box, as a share of the largest one's
MIN_CONTRAST = 3.0  # WCAG contrast ratio of a mark's ink to what lies under it
MAX_ROTATION = 25.0  # degrees
GLYPH_PX = 320  # height of the font's em square when its marks are read
JPEG_QUALITY = 90

OKLAB_TO_LMS = np.array([[0.39633778, 0.21580376], [-0.10556135, -0.06385417], [-0.08948418, -1.29148555]])
LMS_TO_RGB = np.array([[4.07674, -3.30771, 0.23097], [-1.26844, 2.60976, -0.34132], [-0.00420, -0.70342, 1.70761]])

Colour = tuple[int, int, int]  # sRGB, 0..255
Point = tuple[float, float]  # x, y in pixels of the scene
Extent = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels of the scene
Matrix = NDArray[np.float64]  # (3, 3), a homography
Generator = np.random.Generator


class Archives(Block):
    """The file to fetch."""

    font: Source


class Options(Block):
    """The block `datasets.logos` of params.yaml."""

    source: Archives
    scenes: int = Field(ge=1)  # per class
    size: int = Field(ge=64)  # pixels a side
    seed: int = Field(ge=0)


@dataclass(frozen=True)
class Mark:
    """A figure as it lies in its scene: its mask (S, S) 0..255, its ink, and the colour under it."""

    label: str  # a brand, or NO_LOGO for a neutral figure
    mask: Image.Image
    ink: Colour
    ground: Colour

    @property
    def box(self) -> tuple[int, int, int, int]:
        return tight_box(self.mask)


@dataclass(frozen=True)
class Palette:
    """Hues that go together, in degrees, and the light of the day, 0 (night) to 1 (noon)."""

    hue: float
    accent: float
    daylight: float


@dataclass(frozen=True)
class Sign:
    """A figure and what it hangs on, before its position and colours are chosen."""

    label: str
    figure: Image.Image  # the mask at the size it will have
    plate: str
    mount: str
    tilt: Matrix


def build(fetched: Mapping[str, Path], options: Options, out: Path) -> None:
    """Draws every scene and writes `out/scenes.zip`.

    The bytes depend on the options, the wheel, and the versions of NumPy and Pillow; not on the number of processes.
    """
    names = [(label, number) for label in LABELS for number in range(1, options.scenes + 1)]
    draw = functools.partial(_encoded_scene, fetched["font"], options.seed, options.size)
    partial, lines = out / f"{ARCHIVE}.partial", []
    with open(partial, "wb") as stream:
        with zipfile.ZipFile(stream, "w") as archive, process_pool(cores()) as pool:
            encoded = pool.map(draw, names, chunksize=8)
            scenes = zip(names, encoded, strict=True)
            for (label, number), (jpeg, objects) in tqdm(scenes, desc="draw", total=len(names), unit="scene"):
                path = f"jpg/{label}/{label}-{number:04d}.jpg"
                archive.writestr(zipfile.ZipInfo(path), jpeg)  # ZipInfo's time is always 1980-01-01
                lines.append(json.dumps({"path": path, "label": label, "objects": objects}))
            archive.writestr(zipfile.ZipInfo(DETECTION), "\n".join(lines) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, out / ARCHIVE)


def scan(folder: Path, options: Options) -> Iterator[Record]:
    """Yields the records of the unpacked archive, in the order they were drawn."""
    with open(folder / DETECTION, encoding="utf-8") as lines:
        for line in lines:
            scene = json.loads(line)
            boxes = ((item["label"], item["box"]) for item in scene["objects"])
            objects = tuple(Box(label, (x1, y1, x2, y2)) for label, (x1, y1, x2, y2) in boxes)
            yield Record(scene["path"], scene["label"], objects)


def _encoded_scene(wheel: Path, seed: int, size: int, name: tuple[str, int]) -> tuple[bytes, list[dict[str, object]]]:
    """The JPEG of one scene, and its objects for JSON."""
    label, number = name
    image, marks = draw_scene(glyphs(wheel), seed, size=size, label=label, number=number)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=JPEG_QUALITY)
    return stream.getvalue(), [{"label": mark.label, "box": mark.box} for mark in marks]


def draw_scene(
    figures: Mapping[str, Image.Image], seed: int, *, size: int, label: str, number: int
) -> tuple[Image.Image, list[Mark]]:
    """Draws a scene from a random generator of its own, so that it does not depend on other scenes.

    Args:
        figures: the mask of every brand's mark.
        seed: of the dataset.
        size: pixels a side.
        label: a brand, or NO_LOGO.
        number: of the scene within its class.

    Returns:
        The scene (size by size, RGB) and its brand marks, largest first.
    """
    digest = hashlib.sha256(f"{seed}/{label}/{number}".encode()).digest()
    rng = np.random.default_rng(np.frombuffer(digest, "<u4"))
    palette = draw_palette(rng)
    canvas = background(rng, palette, size)
    others = [brand for brand in rng.permutation(BRANDS) if brand != label and label != NO_LOGO]
    count = int(rng.choice((1, 2, 3), p=(0.55, 0.25, 0.2)))
    area = float(rng.uniform(*MAIN_AREA)) * (1 if count == 1 else 0.65)  # others need room
    taken, marks = list[Extent](), list[Mark]()
    for index in range(count):
        name = label if index == 0 else str(others.pop()) if others and rng.random() < 0.75 else NO_LOGO
        figure = neutral_figure(rng) if name == NO_LOGO else figures[name]
        share = area if index == 0 else area * float(rng.uniform(*OTHER_AREA))
        sign = draw_sign(rng, name, figure=figure, share=share, size=size)
        if position := find_position(rng, sign, size=size, taken=taken):
            marks.append(paint_sign(rng, palette, canvas=canvas, sign=sign, position=position))
    return finish(rng, canvas), [mark for mark in marks if mark.label != NO_LOGO]


def draw_sign(rng: Generator, label: str, *, figure: Image.Image, share: float, size: int) -> Sign:
    """Chooses a sign.

    Args:
        rng: draws plate, mount and tilt.
        label: of the figure.
        figure: a mask 0..255, cropped.
        share: of the scene's area, in [0, 1], that the box of the figure will have.
        size: of the scene, in pixels a side.
    """
    plate, tilt = str(rng.choice(PLATES)), draw_tilt(rng, size)
    mount = "wall" if plate == "bare" else str(rng.choice(MOUNTS))
    return Sign(label, fit(figure, tilt, share=share, size=size), plate, mount, tilt)


def find_position(rng: Generator, sign: Sign, *, size: int, taken: list[Extent]) -> Point | None:
    """A position for the middle of a sign where the sign and its mount cover no other; None if none is free.

    Args:
        rng: draws the position.
        sign: with its mount.
        size: of the scene, in pixels a side.
        taken: the boxes of the signs and mounts so far; those of this sign are added.
    """
    left, top, right, bottom = tight_box(warp(plate_mask(sign, 0), sign.tilt, middle=(size / 2, size / 2), size=size))
    half = np.array((right - left, bottom - top)) / 2 + size / 40  # with room for frame and shadow
    margin, strip = np.minimum(half, 0.47 * size), 0.08 * size
    for _ in range(60):
        x, y = (margin + (size - 2 * margin) * rng.beta(0.5, 0.5, 2)).tolist()  # rather aside than in the middle
        board = (x - half[0], y - half[1], x + half[0], y + half[1])
        mount = (x - strip, 0 if sign.mount == "ropes" else y, x + strip, size if sign.mount == "pole" else y)
        if not any(overlap(part, other) for part in (board, mount) for other in taken):
            taken += [board, mount]
            return x, y
    return None


def overlap(first: Extent, second: Extent) -> bool:
    """Whether two boxes share a point."""
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def paint_sign(rng: Generator, palette: Palette, *, canvas: Image.Image, sign: Sign, position: Point) -> Mark:
    """Paints mount, shadow, frame, plate and figure.

    Args:
        rng: draws the colours, the frame and the shadow.
        palette: of the scene.
        canvas: the scene, which is changed.
        sign: what to paint.
        position: of the sign's middle.
    """
    size = canvas.width
    mask, shift = warp(sign.figure, sign.tilt, middle=position, size=size), size // 80
    if sign.plate == "bare":
        ink, ground = draw_inks(rng, palette, rgb(ImageStat.Stat(canvas.crop(tight_box(mask))).mean))
        shade(canvas, mask, shift=shift, strength=0.35)
    else:
        ink, ground = draw_inks(rng, palette)
        frame = int(rng.choice((0, 0, size // 50, size // 32)))
        inner, outer = (warp(plate_mask(sign, rim), sign.tilt, middle=position, size=size) for rim in (0, frame))
        paint_mount(rng, palette, canvas=canvas, mount=sign.mount, middle=position)
        shade(canvas, outer, shift=shift * int(rng.integers(1, 4)), strength=0.5)
        canvas.paste(ink if rng.random() < 0.5 else draw_paint(rng, palette), mask=outer)
        canvas.paste(ground, mask=inner)
    canvas.paste(ink, mask=mask)
    return Mark(sign.label, mask, ink, ground)


def finish(rng: Generator, canvas: Image.Image) -> Image.Image:
    """Lens and light: blur, a slope of light, a vignette and grain."""
    size = canvas.width
    canvas = canvas.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 0.0035)) * size))
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j].astype(np.float32)
    slope, fall = rng.uniform(-0.22, 0.22, 2), rng.uniform(0.05, 0.2)
    light = (1 + slope[0] * x + slope[1] * y) * (1.05 - fall * (x * x + y * y))
    warmth = 1 + rng.uniform(-0.05, 0.05) * np.array([1, 0, -1])
    pixels = np.asarray(canvas, np.float32) * (light[..., None] * warmth)
    pixels += rng.normal(0, rng.uniform(1, 5), (size, size, 1))
    return Image.fromarray(np.clip(pixels, 0, 255).round().astype(np.uint8))


def oklch(lightness: float, chroma: float, hue: float) -> Colour:
    """SRGB of an Oklch colour (https://bottosson.github.io/posts/oklab), clipped; hue in degrees."""
    a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
    linear = np.clip(LMS_TO_RGB @ (lightness + OKLAB_TO_LMS @ (a, b)) ** 3, 0, 1)
    return rgb(255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))


def rgb(values: Iterable[float]) -> Colour:
    """Three numbers, 0 to 255, as a colour."""
    red, green, blue = (round(float(value)) for value in values)
    return red, green, blue


def contrast(first: Colour, second: Colour) -> float:
    """WCAG 2 contrast ratio, 1 to 21."""
    srgb = np.array([first, second]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    dark, light = sorted(linear @ (0.2126, 0.7152, 0.0722))
    return float((light + 0.05) / (dark + 0.05))


def draw_palette(rng: Generator) -> Palette:
    """Two hues that go together, and how light the scene is."""
    hue = float(rng.uniform(0, 360))
    return Palette(hue, hue + float(rng.choice((120, 150, 180, 210, 240))), float(rng.beta(1.2, 0.8)))


def draw_paint(rng: Generator, palette: Palette) -> Colour:
    """A paint: the scene's hue or its accent, light, deep or in between."""
    hue = rng.choice((palette.hue, palette.accent)) + rng.uniform(-20, 20)
    lightness, chroma = PAINTS[rng.integers(len(PAINTS))]
    return oklch(lightness + rng.uniform(-0.05, 0.05), chroma * rng.uniform(0.5, 1.2), hue)


def draw_inks(rng: Generator, palette: Palette, ground: Colour | None = None) -> tuple[Colour, Colour]:
    """An ink and its ground (the given one, or drawn with it), redrawn until the contrast suffices.

    This ends: on any ground either the white or the near black of PAINTS has a contrast above MIN_CONTRAST.
    """
    while True:
        ink, under = draw_paint(rng, palette), ground or draw_paint(rng, palette)
        if contrast(ink, under) >= MIN_CONTRAST:
            return ink, under


def background(rng: Generator, palette: Palette, size: int) -> Image.Image:
    """One of four kinds of background, out of focus."""
    paint_background = (street, hills, lights, wall)[rng.integers(4)]
    low, high = 0.22 + 0.55 * palette.daylight, 0.30 + 0.62 * palette.daylight
    top = oklch(low, 0.09, palette.hue + rng.uniform(-25, 25))
    bottom = oklch(high, 0.06, palette.hue + rng.uniform(-60, 60))
    canvas = Image.new("RGB", (size, size), top)
    canvas.paste(bottom, mask=Image.linear_gradient("L").resize((size, size)))
    paint_background(rng, palette, canvas)
    return canvas.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.004, 0.012)) * size))


def distant(rng: Generator, palette: Palette, depth: float) -> Colour:
    """The colour of a layer of the landscape: darker and stronger the nearer (depth 0 far, 1 near)."""
    lightness = (0.25 + 0.55 * palette.daylight) * (1 - 0.5 * depth)
    return oklch(lightness, 0.05 + 0.06 * depth, palette.hue + rng.uniform(-30, 30) + 40 * depth)


def street(rng: Generator, palette: Palette, canvas: Image.Image) -> None:
    """Two rows of houses with lit windows, and the road."""
    size, draw = canvas.width, ImageDraw.Draw(canvas)
    for depth in (0.2, 0.7):
        left = -float(rng.uniform(0, 0.1)) * size
        while left < size:
            width, top = rng.uniform(0.1, 0.25) * size, rng.uniform(0.1 + 0.3 * depth, 0.65) * size
            draw.rectangle((left, top, left + width, size), fill=distant(rng, palette, depth))
            lit, step = oklch(0.5 + 0.4 * rng.random(), 0.08, palette.accent), size / 22
            for x in np.arange(left + step * 0.5, left + width - step * 0.7, step):
                for y in np.arange(top + step * 0.6, size * 0.85, step * 1.4):
                    if rng.random() < 0.35:
                        draw.rectangle((x, y, x + step * 0.5, y + step * 0.8), fill=lit)
            left += width + rng.uniform(0, 0.04) * size
    draw.rectangle((0, size * 0.88, size, size), fill=distant(rng, palette, 0.9))


def hills(rng: Generator, palette: Palette, canvas: Image.Image) -> None:
    """A sun over rows of hills."""
    size, draw = canvas.width, ImageDraw.Draw(canvas)
    x, y, radius = rng.uniform(0.1, 0.9) * size, rng.uniform(0.1, 0.5) * size, rng.uniform(0.05, 0.14) * size
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=oklch(0.93, 0.08, palette.accent))
    for depth in (0.1, 0.35, 0.6, 0.9):
        across = np.linspace(0, 1, 40)
        waves = sum(rng.uniform(0.01, 0.06) * np.sin(rng.uniform(2, 9) * across + rng.uniform(0, 6)) for _ in range(3))
        ridge = np.stack([across, 0.35 + 0.5 * depth + waves], 1) * size
        draw.polygon([*map(tuple, ridge.tolist()), (size, size), (0, size)], fill=distant(rng, palette, depth))


def lights(rng: Generator, palette: Palette, canvas: Image.Image) -> None:
    """Lamps far out of focus, small and many or large and few."""
    size, count = canvas.width, int(rng.integers(10, 40))
    for _ in range(count):
        x, y, radius = rng.uniform(0, size), rng.uniform(0, size), rng.uniform(0.3, 1.2) * size / count**0.75
        disc = Image.new("L", canvas.size)
        ImageDraw.Draw(disc).ellipse((x - radius, y - radius, x + radius, y + radius), fill=int(rng.integers(30, 130)))
        hue = rng.choice((palette.hue, palette.accent)) + rng.uniform(-30, 30)
        canvas.paste(oklch(0.55 + 0.4 * rng.random(), 0.1, hue), mask=disc)


def wall(rng: Generator, palette: Palette, canvas: Image.Image) -> None:
    """Bricks, tiles or planks."""
    size, draw = canvas.width, ImageDraw.Draw(canvas)
    height = float(rng.uniform(0.05, 0.16)) * size
    width = height * float(rng.choice((1.0, 2.2, 30.0)))
    base = 0.35 + 0.5 * palette.daylight
    for row, y in enumerate(np.arange(0, size, height)):
        for x in np.arange(-width * (row % 2) / 2, size, width):
            fill = oklch(base + rng.uniform(-0.05, 0.05), 0.06, palette.hue + rng.uniform(-12, 12))
            draw.rectangle((x, y, x + width - size / 120, y + height - size / 120), fill=fill)


@functools.cache
def glyphs(wheel: Path) -> dict[str, Image.Image]:
    """The mask of every brand's mark, 0..255, cropped; read once per process."""
    with zipfile.ZipFile(wheel) as archive:

        def read(suffix: str) -> bytes:
            return archive.read(next(name for name in archive.namelist() if name.endswith(suffix)))

        icons = json.loads(read("metadata/icons.json"))
        font = ImageFont.truetype(io.BytesIO(read("webfonts/fa-brands-400.ttf")), GLYPH_PX)
    return {brand: lettering(chr(int(icons[brand]["unicode"], 16)), font) for brand in BRANDS}


def lettering(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> Image.Image:
    """The mask of a text, cropped."""
    mask = Image.new("L", (6 * GLYPH_PX, 2 * GLYPH_PX))
    ImageDraw.Draw(mask).text((3 * GLYPH_PX, GLYPH_PX), text, 255, font, anchor="mm")
    return mask.crop(mask.getbbox())


def neutral_figure(rng: Generator) -> Image.Image:
    """The mask of a word or a plain shape."""
    if rng.random() < 0.8:
        return lettering(str(rng.choice(WORDS)), ImageFont.load_default(GLYPH_PX))
    mask = Image.new("L", (GLYPH_PX, GLYPH_PX))
    shape = (ARROW, HOUSE, CHEVRON, DIAMOND)[rng.integers(4)]
    ImageDraw.Draw(mask).polygon([(GLYPH_PX * x, GLYPH_PX * y) for x, y in shape], 255)
    return mask.crop(mask.getbbox())


def plate_mask(sign: Sign, rim: int) -> Image.Image:
    """The mask of a sign's plate with `rim` pixels more on each side; the figure itself if the sign has no plate."""
    if sign.plate == "bare":
        return sign.figure
    width, height = (float(side) for side in sign.figure.size)
    pad = 0.36 * math.sqrt(width * height)
    if sign.plate in ("disc", "hexagon"):
        width = height = 1.1 * math.hypot(width, height)
    else:
        width, height = width + pad * {"banner": 2.2, "pill": 1.8}.get(sign.plate, 1), height + pad
    right, bottom = (3 * round(side + 2 * rim) - 1 for side in (width, height))  # three times as large: smooth edges
    mask = Image.new("L", (right + 1, bottom + 1))
    if sign.plate in POLYGONS:
        ImageDraw.Draw(mask).polygon([(x * right, y * bottom) for x, y in POLYGONS[sign.plate]], 255)
    else:
        ImageDraw.Draw(mask).rounded_rectangle((0, 0, right, bottom), CORNERS[sign.plate] * min(right, bottom), 255)
    return mask.reduce(3)


def paint_mount(rng: Generator, palette: Palette, *, canvas: Image.Image, mount: str, middle: Point) -> None:
    """Paints the pole below or the ropes above a sign's middle."""
    size, draw = canvas.width, ImageDraw.Draw(canvas)
    (x, y), dark = middle, oklch(0.3, 0.02, palette.hue)
    if mount == "pole":
        half = size * float(rng.uniform(0.008, 0.02))
        draw.rectangle((x - half, y, x + half, size), fill=dark)
        draw.rectangle((x - half, y, x - half / 3, size), fill=oklch(0.5, 0.02, palette.hue))
    elif mount == "ropes":
        for side in (-1, 1):
            draw.line((x + side * size * 0.05, y, x + side * size * 0.07, 0), fill=dark, width=max(1, size // 110))


def shade(canvas: Image.Image, mask: Image.Image, *, shift: int, strength: float) -> None:
    """Darkens the canvas where the mask's soft shadow falls.

    Args:
        canvas: the scene, which is changed.
        mask: (S, S) 0..255, of what throws the shadow.
        shift: of the shadow to the right and down, in pixels.
        strength: 1 makes the shadow black.
    """
    moved = mask.transform(mask.size, Image.Transform.AFFINE, (1, 0, -shift, 0, 1, -shift))
    soft = moved.filter(ImageFilter.GaussianBlur(shift * 1.2))
    canvas.paste((12, 12, 20), mask=soft.point(lambda value: value * strength))


def draw_tilt(rng: Generator, size: int) -> Matrix:
    """A homography (3, 3) around the origin: rotation, and sometimes shear and perspective."""
    angle = math.radians(MAX_ROTATION * float(np.clip(rng.normal(0, 0.3), -1, 1)))
    matrix = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    if rng.random() < 0.2:
        matrix = matrix @ np.array([[1, rng.uniform(-0.2, 0.2), 0], [0, 1, 0], [0, 0, 1]])
        matrix[2, :2] = rng.uniform(-0.5, 0.5, 2) / size
    return matrix


def warp(mask: Image.Image, tilt: Matrix, *, middle: Point, size: int) -> Image.Image:
    """A mask of the size of a scene, in which another mask is tilted around its middle.

    Args:
        mask: 0..255, cropped.
        tilt: a homography (3, 3).
        middle: the position of the mask's middle in the scene.
        size: of the scene, in pixels a side.
    """
    mask = ImageOps.expand(mask, 2)  # an empty rim, without which the edge would not be smooth
    centre = np.array([[1, 0, -mask.width / 2], [0, 1, -mask.height / 2], [0, 0, 1]])
    move = np.array([[1, 0, middle[0]], [0, 1, middle[1]], [0, 0, 1]])
    back = np.linalg.inv(move @ tilt @ centre)  # Pillow asks where each pixel of the scene comes from
    data = (back / back[2, 2]).ravel()[:8].tolist()
    return mask.transform((size, size), Image.Transform.PERSPECTIVE, data, Image.Resampling.BICUBIC)


def fit(figure: Image.Image, tilt: Matrix, *, share: float, size: int) -> Image.Image:
    """Resizes a figure so that its tight box, once tilted, has a given share of the scene.

    Args:
        figure: a mask 0..255, cropped.
        tilt: a homography (3, 3).
        share: of the scene's area, in [0, 1].
        size: of the scene, in pixels a side.
    """
    scale = size / 3 / figure.width
    for _ in range(2):  # the first time to see how the tilt changes the box
        probe = figure.resize([max(4, round(side * scale)) for side in figure.size], Image.Resampling.LANCZOS)
        left, top, right, bottom = tight_box(warp(probe, tilt, middle=(size / 2, size / 2), size=size))
        scale *= size * math.sqrt(share / ((right - left) * (bottom - top)))
    return figure.resize([max(4, round(side * scale)) for side in figure.size], Image.Resampling.LANCZOS)


def tight_box(mask: Image.Image) -> tuple[int, int, int, int]:
    """The box of the mask's pixels that are at least half covered; right and bottom exclusive."""
    box = mask.point(lambda value: 255 * (value >= 128)).getbbox()
    if box is None:
        raise ValueError("expected a mask with a pixel of 128 or more, found none: is the figure smaller than a pixel?")
    return box
