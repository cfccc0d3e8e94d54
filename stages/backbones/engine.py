"""Running a trunk on batches of uint8 pixels: an engine is called with (N, 3, S, S) and returns one array per layer.

Any number of threads may call an engine; it computes `parallel` batches at a time, and the others wait. The features of
an image never depend on the other images of its batch. This module has torch, for any device; `vino` has OpenVINO.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from queue import SimpleQueue
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from stages.backbones.device import half
from stages.backbones.half import FOLDED, HalfTrunk
from stages.backbones.trunk import Trunk
from stages.errors import UserError
from stages.machine import cores

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CUDA_STREAMS = 2  # one copies while the other computes
CORES = 8  # that compute one batch each; of more cores, several share a batch: memory would grow with them
CUDA_BATCH, MPS_BATCH = 256, 32  # images per batch
CORE_BATCH = 8  # images in such a batch: 32 do not fit into a core's cache, which costs up to a third
T = TypeVar("T")


class Engine(Protocol):
    """A trunk ready to run."""

    parallel: int

    def __call__(self, pixels: torch.Tensor) -> list[npt.NDArray[Any]]:
        """Features (N, …) of uint8 pixels (N, 3, S, S), one array per layer, in the dtype in which they are stored.

        Raises:
            UserError: a feature is not finite.
        """


def as_stored(layers: Sequence[torch.Tensor], dtype: str) -> list[npt.NDArray[Any]]:
    """Features in the dtype in which they are stored, checked and converted on the device that computed them.

    Args:
        layers: each (N, …), of any floating-point type.
        dtype: `float16` or `float32`.

    Raises:
        UserError: one is not finite, before or after.
    """
    stored = [layer.to(DTYPES[dtype]) for layer in layers]
    finite = [torch.stack([layer.isfinite().all() for layer in some]).all() for some in (layers, stored)]
    computed, fits = torch.stack(finite).tolist()
    if not computed:
        raise UserError("The backbone computes values that are not finite: -S extract.precision=float32.")
    if not fits:
        raise UserError(f"A feature of the backbone does not fit into {dtype}: -S extract.dtype=float32.")
    return [layer.cpu().contiguous().numpy() for layer in stored]


def pick_engine(engine: str, device: torch.device, *, compiled: bool = False) -> str:
    """`auto` is OpenVINO on a CPU where it is installed, else torch; torch where the trunk is to be compiled.

    Raises:
        UserError: OpenVINO is asked for and is not installed, or the device is not a CPU, or `extract.compile` is on.
    """
    if compiled:
        if engine == "openvino":
            raise UserError("`extract.compile`: torch.compile needs extract.engine=torch or auto, found openvino.")
        return "torch"
    installed = find_spec("openvino") is not None
    if engine == "openvino" and not installed:
        raise UserError("`extract.engine`: openvino is not installed: pip install openvino, or take torch or auto.")
    if engine == "openvino" and device.type != "cpu":
        raise UserError(f"`extract.engine`: openvino computes on the CPU, found device={device}: take torch or auto.")
    if engine != "auto":
        return engine
    return "openvino" if installed and device.type == "cpu" else "torch"


def pick_precision(precision: str, device: torch.device) -> str:
    """`auto` is half precision where that is faster, else float32.

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
        dtype: in which features are stored, `float16` or `float32`.
        compiled_for: with so many images per batch the trunk is compiled (torch.compile); None: it is not.

    Raises:
        UserError: the trunk cannot be compiled here.
    """

    def __init__(
        self,
        trunk: Trunk,
        device: torch.device,
        precision: str,
        *,
        dtype: str = "float32",
        compiled_for: int | None = None,
    ) -> None:
        self.device, self.precision, self.dtype, cuda = device, precision, dtype, device.type == "cuda"
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
        if compiled_for:
            self._compile(compiled_for, trunk.size)

    def _compile(self, batch: int, side: int) -> None:
        """Compiles the trunk with a first batch, before several threads call it."""
        self.details["compiled"] = "torch.compile"
        self.trunk = torch.compile(self.trunk, dynamic=False)  # type: ignore[assignment]
        try:
            self(torch.zeros((batch, side, side, 3), dtype=torch.uint8).permute(0, 3, 1, 2))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"`extract.compile`: torch.compile fails here ({reason}): take false.") from error

    def __call__(self, pixels: torch.Tensor) -> list[npt.NDArray[Any]]:
        """Features (N, …) of uint8 pixels (N, 3, S, S), one array per layer of the trunk.

        Raises:
            UserError: the device has no room for one image, or a feature is not finite.
        """
        with self._lanes.take() as lane, lane.stream:
            return self._computed(pixels.permute(0, 2, 3, 1), lane)

    def _computed(self, pixels: torch.Tensor, lane: "Lane") -> list[npt.NDArray[Any]]:
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
    def _run(self, pixels: torch.Tensor, lane: "Lane") -> list[npt.NDArray[Any]]:
        batch = lane.pinned(pixels) if self.device.type == "cuda" and not pixels.is_cuda else pixels
        with torch.autocast(self.device.type, dtype=DTYPES[self.precision], enabled=self.autocast):
            layers = self.trunk(batch.to(self.device, non_blocking=True))
        return as_stored(layers, self.dtype)


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


def images_at_once(batch_size: int | Literal["auto"], device: torch.device) -> int:
    """The images that an engine gets at once, from `extract.batch_size`: fewer on a CPU."""
    if device.type == "cpu":
        return CORE_BATCH if batch_size == "auto" else min(batch_size, CORE_BATCH)
    if batch_size == "auto":
        return CUDA_BATCH if device.type == "cuda" else MPS_BATCH
    return batch_size


def _stream(device: torch.device) -> AbstractContextManager[None]:
    """A CUDA stream of its own for what runs inside."""
    return torch.cuda.stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
