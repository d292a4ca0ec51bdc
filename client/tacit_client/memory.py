"""The C library's allocator, told to keep what is freed and soon wanted again."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc malloc.h
_BYTES = 1 << 30


def keep_freed_memory() -> None:
    """Let glibc reuse freed blocks of up to 1 GiB instead of giving them back to the kernel.

    Every step of training allocates the same large tensors, and every chunk of a sealed file as many bytes; taking them
    from the kernel each time costs up to a third of a step on a CPU, and two thirds of opening a file, in page faults.
    Speed only; without effect where the C library is another.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _BYTES)
        mallopt(_M_TRIM_THRESHOLD, _BYTES)
