"""Running a trunk on batches of uint8 pixels: an engine is called with (N, 3, S, S) and returns one array per layer.

Any number of threads may call an engine; it computes `parallel` batches at a time, and the others wait. The features of
an image never depend on the other images of its batch. This module has torch, for any device; `vino` has OpenVINO.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from queue import SimpleQueue
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from stages.backbones.device import cores, half
from stages.backbones.half import FOLDED, HalfTrunk
from stages.backbones.trunk import Trunk
from stages.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CUDA_STREAMS = 2  # one copies while the other computes
CORES = 8  # that compute one batch each; of more cores, several share a batch: memory would grow with them
CORE_BATCH = 8  # images in such a batch: 32 do not fit into a core's cache, which costs up to a third
T = TypeVar("T")


class Engine(Protocol):
    """A trunk ready to run."""

    parallel: int

    def __call__(self, pixels: torch.Tensor) -> list[npt.NDArray[np.float32]]:
        """Features (N, …) float32 of uint8 pixels (N, 3, S, S), one array per layer."""


def pick_engine(engine: str, device: torch.device) -> str:
    """`auto` is OpenVINO on a CPU where it is installed, else torch.

    Raises:
        UserError: OpenVINO is asked for and is not installed, or the device is not a CPU.
    """
    installed = find_spec("openvino") is not None
    if engine == "openvino" and not installed:
        raise UserError("`extract.engine`: openvino is not installed: pip install openvino, or take torch or auto.")
    if engine == "openvino" and device.type != "cpu":
        raise UserError(f"`extract.engine`: openvino computes on the CPU, found device={device}: take torch or auto.")
    if engine != "auto":
        return engine
    return "openvino" if installed and device.type == "cpu" else "torch"


def pick_precision(precision: str, device: torch.device) -> str:
    """`auto` is half precision where the hardware computes in it, else float32.

    Raises:
        UserError: float16 is asked for on a CPU, which only emulates it.
    """
    if precision == "float16" and device.type == "cpu":
        raise UserError("`extract.precision`: float16 needs a GPU; on a CPU take bfloat16, float32 or auto.")
    if precision != "auto":
        return precision
    return half(device) or "float32"


class Turns(Generic[T]):
    """A few objects that threads use in turn."""

    def __init__(self, objects: Iterable[T]) -> None:
        self._idle: SimpleQueue[T] = SimpleQueue()
        for item in objects:
            self._idle.put(item)

    @contextmanager
    def take(self) -> Iterator[T]:
        """Waits for an object that no other thread uses."""
        item = self._idle.get()
        try:
            yield item
        finally:
            self._idle.put(item)


class TorchEngine:
    """A trunk on a device: channels_last, normalisation on the device.

    On CUDA weights are in half precision once (where a network does not take that, autocast casts them), pixels come
    from pinned memory that is used again and again, and one batch is copied while another is computed. On a CPU each
    core has a batch of its own; `callers` are the threads for that.

    Args:
        trunk: what to run.
        device: where to run.
        precision: `float32`, `bfloat16` or `float16`.
    """

    def __init__(self, trunk: Trunk, device: torch.device, precision: str) -> None:
        self.device, self.precision, cuda = device, precision, device.type == "cuda"
        half = half_trunk(trunk, device, precision) if cuda and precision != "float32" else None
        self.details = {"arithmetic": FOLDED.format(precision)} if half else {}
        self.autocast = precision != "float32" and half is None
        self.trunk = half or trunk.to(device).to(memory_format=torch.channels_last)
        self.parallel = CUDA_STREAMS if cuda else at_a_time() if device.type == "cpu" else 1
        self._lanes = Turns([Lane(device) for _ in range(self.parallel)])
        if cuda:
            torch.cuda.synchronize(device)  # the weights are there before another stream reads them
            # the same input must give the same bytes
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

    def __call__(self, pixels: torch.Tensor) -> list[npt.NDArray[np.float32]]:
        """Features (N, …) float32 of uint8 pixels (N, 3, S, S), one array per layer of the trunk.

        Raises:
            UserError: the device has no room for one image.
        """
        with self._lanes.take() as lane, lane.stream:
            return self._computed(pixels.permute(0, 2, 3, 1), lane)

    def _computed(self, pixels: torch.Tensor, lane: "Lane") -> list[npt.NDArray[np.float32]]:
        """The same of pixels (N, S, S, 3); a batch that does not fit is halved."""
        try:
            return self._run(pixels, lane)
        except torch.OutOfMemoryError:
            if len(pixels) == 1:
                raise UserError(
                    f"{self.device} has no memory for one image: take another device or backbone."
                ) from None
        halves = [self._computed(piece, lane) for piece in pixels.chunk(2)]
        return [np.concatenate(both) for both in zip(*halves, strict=True)]

    @torch.inference_mode()
    def _run(self, pixels: torch.Tensor, lane: "Lane") -> list[npt.NDArray[np.float32]]:
        batch = lane.pinned(pixels) if self.device.type == "cuda" else pixels
        with torch.autocast(self.device.type, dtype=DTYPES[self.precision], enabled=self.autocast):
            layers = self.trunk(batch.to(self.device, non_blocking=True))
        return [layer.float().cpu().contiguous().numpy() for layer in layers]


class Lane:
    """What one batch at a time uses: a stream of its own on CUDA, and pinned memory.

    Whoever takes a lane has its results on the CPU before giving it back, so nothing still reads the memory.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = _stream(device) if device.type == "cuda" else nullcontext()
        self._memory: torch.Tensor | None = None

    def pinned(self, pixels: torch.Tensor) -> torch.Tensor:
        """A copy of pixels in pinned memory, the same for every batch of a shape."""
        if self._memory is None or self._memory.shape != pixels.shape:
            self._memory = torch.empty(pixels.shape, dtype=pixels.dtype, pin_memory=torch.cuda.is_available())
        return self._memory.copy_(pixels)


@torch.inference_mode()
def half_trunk(trunk: Trunk, device: torch.device, precision: str) -> HalfTrunk | None:
    """A trunk with weights in half precision on a device; None where the network mixes precisions itself."""
    half = HalfTrunk(trunk, DTYPES[precision]).eval().to(device).to(memory_format=torch.channels_last)
    side = trunk.size
    try:
        half(torch.zeros(1, side, side, 3, dtype=torch.uint8, device=device))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # a type that does not fit another
        return None
    return half


def at_a_time() -> int:
    """How many batches a CPU computes at a time."""
    return min(cores(), CORES)


def callers(parallel: int) -> ThreadPoolExecutor:
    """Threads to call an engine with, one for each batch that it computes at a time; they share torch's threads."""
    return ThreadPoolExecutor(parallel, initializer=torch.set_num_threads, initargs=(max(1, cores() // parallel),))


def images_at_once(batch_size: int, device: torch.device) -> int:
    """The images that an engine gets at once, from `extract.batch_size`: fewer on a CPU."""
    return min(batch_size, CORE_BATCH) if device.type == "cpu" else batch_size


def _stream(device: torch.device) -> AbstractContextManager[None]:
    """A CUDA stream of its own for what runs inside."""
    return torch.cuda.stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
