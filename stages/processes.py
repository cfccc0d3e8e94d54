"""A pool of processes, or this process alone if the system cannot start others."""

import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
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
