"""A pool of processes, or this process alone; work in order that is not far ahead; memory that processes share."""

import mmap
import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from multiprocessing import reduction
from typing import Any, ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Item = TypeVar("Item")
Result = TypeVar("Result")


class InlineExecutor(Executor):
    """Computes at once, in this process and thread."""

    def submit(
        self, fn: Callable[Arguments, Result], /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Future[Result]:
        future: Future[Result] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # whoever asks for the result gets it
            future.set_exception(error)
        return future


def process_pool(count: int) -> Executor:
    """A pool of spawned processes: forked ones would wait for ever for locks that threads of this process hold.

    If the system cannot create the locks of a pool (a container without /dev/shm), this process does the work.
    """
    try:
        return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"))
    except (OSError, ImportError, NotImplementedError) as error:
        print(
            f"Other processes cannot be started here ({error}; does /dev/shm exist, and is it writable?): this one "
            "does their work, which takes longer.",
            file=sys.stderr,
        )
        return InlineExecutor()


def in_order(
    pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], *, ahead: int
) -> Iterator[Result]:
    """`function` of each item, in order, computed by a pool that is at most `ahead` items ahead of the caller.

    `Executor.map` hands over all items at once, which takes 2 kB for each of a million.
    """
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


class SharedMemory:
    """Memory for this process and those that it starts with it among their arguments.

    It has no name and takes nothing of /dev/shm, which containers keep small. However the processes end, nothing of it
    is left behind.

    Args:
        size: in bytes.
        file: an open one with the contents; None makes one.

    Raises:
        OSError: there is not so much memory, or this is not Linux.
    """

    def __init__(self, size: int, file: int | None = None) -> None:
        if file is None:
            if not hasattr(os, "memfd_create"):
                raise OSError("only Linux has such memory")
            file = os.memfd_create("coldcut")
            os.posix_fallocate(file, 0, size)  # or else a process would be killed when memory runs out
        self.buffer = mmap.mmap(file, size)
        self._file, self._size = file, size

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def __reduce__(self) -> Any:
        return _attached, (self._size, reduction.DupFd(self._file))


def _attached(size: int, file: Any) -> SharedMemory:
    return SharedMemory(size, file.detach())
