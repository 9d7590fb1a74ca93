"""A version that is loaded, and warm."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from server.serving.examples import encode, example

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fl.inference import Predictor
    from server.registry_names import ModelVersion

_WARM = 5
_QUICK_SECONDS = 0.005
_QUICK_BYTES = 1 << 16


@dataclass(frozen=True)
class Served:
    """A version that is loaded.

    Attributes:
        version: which.
        predictor: the model.
        quick: a request with a body of up to so many bytes, and
        few: with up to so many examples is answered at once; another takes so long that others must not wait for it.
        lineage: what made it, see `server.lineage.Lineage`; None where that cannot be read.
    """

    version: ModelVersion
    predictor: Predictor
    quick: int = 0
    few: int = 0
    lineage: Mapping[str, Any] | None = None


def warm(version: ModelVersion, predictor: Predictor) -> Served:
    """Let a model answer a few times before others wait for it.

    Raises:
        FlopsError: it does not answer.
    """
    schema = predictor.task.schema
    one = [example(schema)]
    fastest = float("inf")
    for _ in range(_WARM):
        started = time.perf_counter()
        predictor.outputs(encode(one, schema, 1))
        fastest = min(fastest, time.perf_counter() - started)
    few = int(_QUICK_SECONDS / fastest)
    return Served(version, predictor, min(_QUICK_BYTES, few * len(orjson.dumps(one))), few)
