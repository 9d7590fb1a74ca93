"""Flower's arrays without needless copies through bytes.

Flower's `Array` holds serialised bytes: each reading parses them, each writing makes them. Between two
functions of one process that costs more than the training of a small model. `LazyArray` keeps the ndarray
and makes the bytes when something asks for them: a socket, a checksum, another process.
"""

from __future__ import annotations

import math
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import Array, ArrayRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


class LazyArray(Array):
    """An `Array` that is serialised on demand, in Flower's own format."""

    def __init__(self, value: NDArray[Any]) -> None:
        value = np.asarray(value).view()
        value.flags.writeable = False
        self.__dict__.update(
            dtype=str(value.dtype), shape=tuple(value.shape), stype="numpy.ndarray", _value=value, _bytes=None
        )

    @property
    def value(self) -> NDArray[Any]:
        """The array itself, read-only."""
        value: NDArray[Any] = self.__dict__["_value"]
        return value

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """The array in NumPy's ``.npy`` format."""
        if self.__dict__["_bytes"] is None:
            buffer = BytesIO()
            np.save(buffer, self.value, allow_pickle=False)
            self.__dict__["_bytes"] = buffer.getvalue()
        held: bytes = self.__dict__["_bytes"]
        return held

    def numpy(self) -> NDArray[Any]:
        """Return a copy that the caller may change, as Flower's own strategies do."""
        return self.value.copy()

    def __reduce__(self) -> tuple[Any, ...]:
        return (Array, (self.dtype, self.shape, self.stype, self.data))


# Flower writes the class's name into what it sends, and the receiver looks it up: on the wire it is an Array.
LazyArray.__qualname__ = Array.__qualname__


def to_record(arrays: Mapping[str, NDArray[Any]]) -> ArrayRecord:
    """Wrap arrays for a message, in their order, without copying them."""
    record = ArrayRecord()
    for name, value in arrays.items():
        record[name] = LazyArray(value)
    return record


def from_record(record: ArrayRecord) -> dict[str, NDArray[Any]]:
    """Unwrap a message's arrays; they are read-only where that saves a copy."""
    return {name: array.value if isinstance(array, LazyArray) else _view(array) for name, array in record.items()}


def _view(array: Array) -> NDArray[Any]:
    """Return a serialised array as a view of its bytes where that can be; `Array.numpy` would make a copy."""
    buffer = BytesIO(array.data)  # Shares the bytes.
    if array.stype != "numpy.ndarray" or np.lib.format.read_magic(buffer) != (1, 0):
        return array.numpy()
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(buffer)
    if dtype.hasobject or not math.prod(shape):  # Refused by NumPy, and nothing to save.
        return array.numpy()
    flat = np.frombuffer(array.data, dtype, math.prod(shape), buffer.tell())
    return flat.reshape(shape, order="F" if fortran else "C")
