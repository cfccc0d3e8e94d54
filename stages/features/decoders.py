"""From image files to the pixels of their views: decoded by threads, or by processes where there are many cores.

Whoever decodes writes each view into its slot of a memory, from which the engine takes whole batches. Threads meet at
Python's lock at some thousands of images per second, whatever the cores; processes do not, and their memory is shared
with this one. The pixels are the same either way.
"""

import itertools
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from stages.backbones.engine import Turns
from stages.datasets import source
from stages.errors import UserError
from stages.features import watchdog
from stages.images import views
from stages.images.decode import decode, decode_shrunk, divisor, is_plain_jpeg
from stages.images.header import BadImage
from stages.images.options import Augment
from stages.images.preprocessing import Preprocessing
from stages.machine import cores
from stages.processes import SharedMemory

ImageRef = tuple[str, str]  # path below the folder, sha256
Maps = list[views.Affine]  # of each view of an image
Draw = Callable[[ImageRef], list[tuple[torch.Tensor, views.Affine]]]
AHEAD = 32  # images that are decoded ahead of the engine at least: large and small ones take turns
FEW_CORES = 8  # on which threads are as fast
FEW_IMAGES = 20_000  # that are computed before processes, which take seconds to start, pay
MOST_PROCESSES = 64
COMPARED = 16  # images of each run, whose views by a GPU are held against those by the CPU
MOST_DIFFERENT = 3.0  # of 255, on average: shrinking while decoding alone makes 0.7
MOST_CHUNK = 32  # images that a process decodes per call: each call costs this process as much as decoding one image


@dataclass(frozen=True)
class Views:
    """Which views of the images of a folder are drawn, and how."""

    folder: Path
    names: tuple[str, ...]
    preprocessing: Preprocessing
    augment: Augment

    def draw(self, image: ImageRef) -> list[tuple[torch.Tensor, views.Affine]]:
        """The views of an image. Each is made of the image as large as this view needs it, whichever others are made.

        Returns:
            For each view uint8 (3, S, S), and the map (2, 3) from pixels of the image to pixels of the view.

        Raises:
            BadImage: with the reason.
            UserError: the file is missing or has changed since it was indexed.
        """
        path, sha256 = image
        data = source.read(self.folder, path, sha256)
        decoded = dict[int, tuple[torch.Tensor, float]]()

        def pixels(name: str) -> tuple[torch.Tensor, float]:
            by = divisor(data, views.needed_side(name, self.preprocessing))
            if by not in decoded:
                decoded[by] = decode_shrunk(data, by) if by > 1 else (decode(data), 1.0)
            return decoded[by]

        with watchdog.decoding(self.folder / path, sha256):
            return self.drawn(sha256, pixels)

    def drawn(
        self, sha256: str, pixels: Callable[[str], tuple[torch.Tensor, float]]
    ) -> list[tuple[torch.Tensor, views.Affine]]:
        """The same of an image that is decoded.

        Args:
            sha256: of its file.
            pixels: gives for the name of a view the image, uint8 (3, h, w), and its scale.
        """
        result = []
        for name in self.names:
            image, scale = pixels(name)
            view, view_map = views.view(
                image, name, sha256=sha256, preprocessing=self.preprocessing, augment=self.augment
            )
            result.append((view, of_the_image(view_map, scale)))
        return result


def of_the_image(view_map: views.Affine, scale: float) -> views.Affine:
    """The map from pixels of the image itself, of one from pixels of the image as it was shrunk while decoding."""
    return view_map if scale == 1 else view_map * np.array([scale, scale, 1], np.float32)


class Work(NamedTuple):
    """Images to decode, and the slot of the first view; the others follow, and the first slot follows the last."""

    views: Views
    images: Sequence[ImageRef]
    first: int

    def into(self, slots: torch.Tensor, draw: Draw | None = None) -> list[Maps | None]:
        """Writes the views into their slots, uint8 (slots, S, S, 3); None where an image cannot be decoded.

        Args:
            slots: of all views in memory.
            draw: what draws the views of an image; None decodes it on the CPU.
        """
        numbers = (number % len(slots) for number in itertools.count(self.first))
        results = list[Maps | None]()
        for image in self.images:
            own = list(itertools.islice(numbers, len(self.views.names)))
            try:
                drawn = (draw or self.views.draw)(image)
            except BadImage:
                slots[own] = 0
                results.append(None)
                continue
            for slot, (pixels, _) in zip(own, drawn, strict=True):
                slots[slot] = pixels.permute(1, 2, 0)
            results.append([view_map for _, view_map in drawn])
        return results


class Window(NamedTuple):
    """How many views a part has in memory at a time.

    Attributes:
        batch: views per batch.
        parallel: number of batches that the engine computes at a time.
        views: of each image.
        side: of a view, in pixels.
    """

    batch: int
    parallel: int
    views: int
    side: int

    def slots(self, decoders: "Decoders") -> int:
        """Room for what the engine reads and for what is decoded ahead of it, in whole batches."""
        needed = (self.parallel + 1) * self.batch + (decoders.ahead + decoders.chunk) * self.views
        return -(-needed // self.batch) * self.batch

    def size(self, decoders: "Decoders") -> int:
        """Bytes of that."""
        return self.slots(decoders) * self.side**2 * 3

    def pixels(self, memory: Any, decoders: "Decoders") -> torch.Tensor:
        """A memory as slots, uint8 (slots, S, S, 3)."""
        shape = (self.slots(decoders), self.side, self.side, 3)
        return torch.frombuffer(memory, dtype=torch.uint8, count=prod(shape)).reshape(shape)


@dataclass(frozen=True)
class Slots:
    """A memory for views, uint8 (slots, S, S, 3), and what begins work that fills it."""

    pixels: torch.Tensor
    fill: Callable[[Work], "Future[list[Maps | None]]"]


class Decoders(Protocol):
    """Who decodes.

    Attributes:
        chunk: images per call of `Slots.fill`.
        ahead: images that are decoded ahead of the engine.
    """

    @property
    def chunk(self) -> int: ...

    @property
    def ahead(self) -> int: ...

    def slots(self, window: Window) -> AbstractContextManager[Slots]:
        """The memory of one part, and who fills it."""


class Threads:
    """Threads of this process, one per core."""

    chunk = 1

    @property
    def ahead(self) -> int:
        return max(AHEAD, 2 * cores())

    @contextmanager
    def slots(self, window: Window) -> Iterator[Slots]:
        pixels = window.pixels(bytearray(window.size(self)), self)
        with ThreadPoolExecutor(cores()) as pool:
            yield Slots(pixels, lambda work: pool.submit(work.into, pixels))


THREADS = Threads()


class Processes:
    """Processes, and memories that they share with this one: one for each part that is computed at a time.

    They end with this process, however it ends. Where one of them ends, the next result raises BrokenProcessPool.

    Args:
        count: of processes.
        parts: that are computed at a time.
        images: of a part, at most.
        window: the largest of any part.

    Raises:
        OSError: the system has no room for the memories, or no locks for the processes.
    """

    def __init__(self, count: int, *, parts: int, images: int, window: Window) -> None:
        self.chunk = max(1, min(MOST_CHUNK, images // count))
        self.ahead = max(AHEAD, min(2 * count * self.chunk, images))
        memories = [SharedMemory(window.size(self)) for _ in range(parts)]
        self._memories = Turns(enumerate(memories))
        context = multiprocessing.get_context("spawn")
        arguments = (memories, watchdog.shared(), context.Value("i", 0))
        self.pool = ProcessPoolExecutor(count, context, initializer=begin, initargs=arguments)

    @contextmanager
    def slots(self, window: Window) -> Iterator[Slots]:
        with self._memories.take() as (number, memory):
            pixels = window.pixels(memory.buffer, self)
            yield Slots(pixels, lambda work: self.pool.submit(fill, work, number, tuple(pixels.shape)))


class GpuDecoder:
    """A GPU, which decodes plain JPEGs with nvJPEG; the CPU decodes the others. It was not measured.

    nvJPEG's hardware has overwritten memory that was in use (pytorch/vision#9606). So the GPU is idle when a chunk
    begins and when it ends, and the first images are compared with those that the CPU decodes.

    Args:
        device: a GPU.

    Raises:
        UserError: torchcodec is not installed.
    """

    chunk = 64
    ahead = 256

    def __init__(self, device: torch.device) -> None:
        self.device, self.name = device, f"torchcodec {_torchcodec()} on {device.type}"
        self._pool, self._readers = ThreadPoolExecutor(1), ThreadPoolExecutor(cores())
        self._compared, self._reason = False, ""

    @contextmanager
    def slots(self, window: Window) -> Iterator[Slots]:
        shape = (window.slots(self), window.side, window.side, 3)
        pixels = torch.zeros(shape, dtype=torch.uint8, device=self.device)
        yield Slots(pixels, lambda work: self._pool.submit(self._fill, work, pixels))

    def _fill(self, work: Work, slots: torch.Tensor) -> list[Maps | None]:
        drawn = work.views
        files = self._readers.map(lambda image: source.read(drawn.folder, *image), work.images)
        by_image = dict(zip(work.images, files, strict=True))
        plain = {image: data for image, data in by_image.items() if is_plain_jpeg(data)}
        decoded = self._decoded(plain)

        def draw(image: ImageRef) -> list[tuple[torch.Tensor, views.Affine]]:
            if image not in decoded:
                return drawn.draw(image)
            with watchdog.decoding(drawn.folder / image[0], image[1]):  # known ones at fault are bad here too
                return drawn.drawn(image[1], lambda _: (decoded[image], 1.0))

        if plain and not self._compared:
            of_cpu = {
                image: view for image in list(plain)[:COMPARED] if (view := _first_view(drawn, image)) is not None
            }
            if of_cpu and not decoded:
                raise UserError(f"`extract.decoder`: the GPU cannot decode JPEGs here ({self._reason}): take cpu.")
            for image in [image for image in of_cpu if image in decoded]:  # in their order: a set's is random
                _compare(image, of_cpu[image], draw(image)[0][0])
            self._compared = bool(decoded)
        maps = work.into(slots, draw)
        _wait_for(self.device)  # the engine reads the slots in another stream
        return maps

    def _decoded(self, files: Mapping[ImageRef, bytes]) -> dict[ImageRef, torch.Tensor]:
        """Uint8 (3, H, W) on the GPU of each file; those that it cannot decode are left out."""
        _wait_for(self.device)
        try:
            return dict(zip(files, decode_jpegs(list(files.values()), self.device), strict=True))
        except RuntimeError as error:
            self._reason = str(error).strip().splitlines()[-1]
            if len(files) <= 1:
                return {}
        return {image: pixels for one in files.items() for image, pixels in self._decoded(dict([one])).items()}


def pick_gpu_decoder(decoder: str, device: torch.device) -> GpuDecoder | None:
    """The GPU where it is to decode (`extract.decoder: gpu`); None where the CPU does.

    Raises:
        UserError: torchcodec is not installed.
    """
    if decoder == "gpu" and device.type != "cuda":
        print(f"`extract.decoder`: gpu needs CUDA, found device={device.type}: the CPU decodes.", flush=True)
    return GpuDecoder(device) if decoder == "gpu" and device.type == "cuda" else None


def _torchcodec() -> str:
    """The version of torchcodec."""
    if not find_spec("torchcodec"):
        raise UserError("`extract.decoder`: gpu needs torchcodec: pip install '.[gpu]', or take cpu.")
    return version("torchcodec")


def decode_jpegs(files: list[bytes], device: torch.device) -> list[torch.Tensor]:
    """JPEGs as uint8 RGB (3, H, W) on a device."""
    from torchcodec.decoders import decode_jpeg  # few machines have it

    decoded: list[torch.Tensor] = decode_jpeg(files, mode="RGB", device=device)
    return decoded


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _first_view(drawn: Views, image: ImageRef) -> torch.Tensor | None:
    """Of an image that the CPU decodes; None where it cannot."""
    try:
        return drawn.draw(image)[0][0]
    except BadImage:
        return None


def _compare(image: ImageRef, of_cpu: torch.Tensor, of_gpu: torch.Tensor) -> None:
    difference = float((of_cpu.float() - of_gpu.cpu().float()).abs().mean())
    if difference > MOST_DIFFERENT:
        raise UserError(
            f"`extract.decoder`: the GPU decodes {image[0]} differently from the CPU, by {difference:.1f} of 255 on "
            f"average, expected {MOST_DIFFERENT:g} at most. Take cpu."
        )


@dataclass(frozen=True)
class Decoding:
    """The pixels of a part, decoded ahead of the engine into slots that are used in turn.

    Attributes:
        views: what is drawn of each image.
        images: n of them.
        slots: where the views go: the k-th of all goes into slot k modulo their number.
        chunk: images that are decoded per call.
        ok: (n,), 1 for each image that was decoded; filled on the way.
        affine: (n, views, 2, 3), the maps of their views; filled on the way.
    """

    views: Views
    images: Sequence[ImageRef]
    slots: Slots
    chunk: int
    ok: npt.NDArray[np.uint8]
    affine: npt.NDArray[np.float32]

    def batches(self, batches: Sequence[range], step: int, *, unread: int) -> Iterator[torch.Tensor]:
        """Batches of views in order, uint8 (step, 3, S, S), the last one padded with zeros.

        Args:
            batches: which of all views each has.
            step: views per batch; a divisor of the number of slots.
            unread: when a batch is asked for, only so many before it may still be read. The slots of the others are
                used again.
        """
        begun: deque[tuple[range, Future[list[Maps | None]]]] = deque()
        asked, decoded, views, pixels = 0, 0, len(self.views.names), self.slots.pixels
        for number, rows in enumerate(batches):
            free = (number - unread) * step + len(pixels)
            while asked < len(self.images) and (asked + self.chunk) * views <= free:
                chunk = range(asked, min(asked + self.chunk, len(self.images)))
                work = Work(self.views, self.images[chunk.start : chunk.stop], asked * views)
                begun.append((chunk, self.slots.fill(work)))
                asked = chunk.stop
            while decoded * views < rows.stop:
                chunk, future = begun.popleft()
                for image, maps in zip(chunk, future.result(), strict=True):
                    if maps is not None:
                        self.ok[image], self.affine[image] = 1, maps
                decoded = chunk.stop
            first = rows.start % len(pixels)
            pixels[first + len(rows) : first + step] = 0
            yield pixels[first : first + step].permute(0, 3, 1, 2)


@contextmanager
def pick_decoders(total: int, *, parts: int, images: int, window: Window) -> Iterator[Decoders]:
    """Who decodes so many images: processes where both they and the cores are many, else the threads of this process.

    Args:
        total: number of images that will be decoded.
        parts: as `Processes` has it.
        images: the same.
        window: the same.
    """
    if total < FEW_IMAGES or cores() <= FEW_CORES:
        yield THREADS
        return
    try:
        processes = Processes(min(cores(), MOST_PROCESSES), parts=parts, images=images, window=window)
    except (OSError, ImportError) as error:
        print(
            f"Images are decoded by threads, which takes longer on {cores()} cores: processes cannot share memory here "
            f"({error}; does /dev/shm exist, and is it writable?).",
            file=sys.stderr,
        )
        yield THREADS
        return
    try:
        yield processes
    except BrokenProcessPool:
        watchdog.end_after_a_crash()
    finally:
        processes.pool.shutdown(cancel_futures=True)


_memories: list[SharedMemory] = []  # of a process that decodes


def begin(memories: list[SharedMemory], watched: watchdog.Shared | None, counter: Any) -> None:
    """Prepares a process that decodes; it ends with the one that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes, and the first ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _memories[:] = memories
    with counter.get_lock():
        number, counter.value = counter.value, counter.value + 1
    if watched:
        watchdog.join(watched, number)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def fill(work: Work, number: int, shape: tuple[int, ...]) -> list[Maps | None]:
    """Does some work in a process that decodes: writes into the memory with this number as slots of this shape."""
    memory = torch.frombuffer(_memories[number].buffer, dtype=torch.uint8, count=prod(shape))
    return work.into(memory.reshape(shape))
