"""The memory of tensors that each batch frees and the next one asks for again."""

import ctypes
import sys

# of glibc's mallopt
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
LARGEST = 2**31 - 1  # bytes; mallopt takes an int


def keep_freed() -> None:
    """Lets glibc keep freed memory for the next tensors; does nothing where the C library is another one.

    It gives blocks of 32 MB and more back at once, and a head on maps frees many of them with each batch. The system
    would clear their pages anew each time, which took a quarter of the time of training (docs/benchmarks.md).
    """
    if sys.platform != "linux" or not hasattr(library := ctypes.CDLL(None), "mallopt"):
        return
    library.mallopt(MMAP_THRESHOLD, LARGEST)
    library.mallopt(TRIM_THRESHOLD, LARGEST)
