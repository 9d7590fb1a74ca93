"""What the C library, asyncio and Python do with memory."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from asyncio.sslproto import SSLProtocol

_ARENA_MAX, _ARENAS = -8, 2

_TLS_BUFFER = 32 * 1024
"""Bytes that asyncio reads of a TLS connection at once; by itself it keeps a quarter of a megabyte for each."""


def small_tls_buffers() -> None:
    """Let connections that are made from now on keep small buffers: a server has several for each hospital."""
    SSLProtocol.max_size = _TLS_BUFFER


def share_heaps() -> None:
    """Let all threads take memory from two heaps; elsewhere than on glibc do nothing.

    By itself glibc makes one for every thread, up to eight a core, and what one thread gives back no other can take:
    pieces of models that the server's threads receive would come to fill all of them. Having large pieces go back to
    the system at once would save one model more, and cost half as much processor time again.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_ARENA_MAX, _ARENAS)


def settle() -> None:
    """Take what is there now, modules above all, as there to stay: `sweep` need not look at it again."""
    gc.collect()
    gc.freeze()


def sweep() -> None:
    """Free what only refers to itself; takes some milliseconds once what stays has been settled.

    Each request leaves circles of references with a piece of a model in them. Python looks for circles by the number
    of objects, and would let a hundred megabytes of few large ones pass.
    """
    gc.collect()


def give_back() -> None:
    """Give the system back what is free between pieces that are in use; takes a millisecond or two."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
