"""What the C library does with memory."""

from __future__ import annotations

import contextlib
import ctypes

_ARENA_MAX, _ARENAS = -8, 2


def share_heaps() -> None:
    """Let all threads take memory from two heaps; elsewhere than on glibc do nothing.

    By itself glibc makes one for every thread, up to eight a core, and what one thread gives back no other can take:
    pieces of models that the server's threads receive would come to fill all of them. Having large pieces go back to
    the system at once would save one model more, and cost half as much processor time again.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_ARENA_MAX, _ARENAS)
