"""What the C library does with memory that is given back."""

from __future__ import annotations

import contextlib
import ctypes

_MMAP_THRESHOLD, _LEAST = -3, 512 * 2**10
_ARENA_MAX, _ARENAS = -8, 2


def return_large_pieces() -> None:
    """Have large pieces of memory go back to the system as soon as they are free; elsewhere than on glibc do nothing.

    By itself glibc keeps them, in each thread's own heap, where they lie scattered: a job that receives models in
    pieces would come to hold several models that nobody needs.
    """
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, _LEAST)
        libc.mallopt(_ARENA_MAX, _ARENAS)
