"""What is answered: predictions of one version, in our form and in MLflow's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fl.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fl.inference import Predictor
    from server.serving.champion import Served

_DIGITS = 6


def predictions(served: Served, encoded: NDArray[Any]) -> dict[str, Any]:
    """Return a label and the probability of each class for each example, and which version says so.

    Args:
        served: who answers.
        encoded: the model's input, an example a row.

    Raises:
        DataError: the model has no answer to an example.
    """
    predictor, version = served.predictor, served.version
    told: dict[str, Any] = {"model": version.name, "version": version.version}
    classes = predictor.task.schema.classes
    if not classes:
        return {**told, "predictions": _outputs(predictor, encoded)}
    chances = _chances(predictor, encoded)
    rows = np.round(chances.astype(np.float64), _DIGITS).tolist()
    rows = [
        {"label": classes[best], "probabilities": dict(zip(classes, row, strict=True))}
        for best, row in zip(chances.argmax(axis=1).tolist(), rows, strict=True)
    ]
    return {**told, "predictions": rows}


def records(served: Served, encoded: NDArray[Any]) -> dict[str, Any]:
    """Return predictions as MLflow's server does: a record an example, with the columns of `Predictor.predict`.

    Raises:
        DataError: the model has no answer to an example.
    """
    predictor = served.predictor
    classes = predictor.task.schema.classes
    if not classes:
        return {"predictions": [{"prediction": row} for row in _outputs(predictor, encoded)]}
    chances = _chances(predictor, encoded)
    names = [f"probability_{name}" for name in classes]
    return {
        "predictions": [
            {"label": classes[best], **dict(zip(names, row, strict=True))}
            for best, row in zip(chances.argmax(axis=1).tolist(), chances.tolist(), strict=True)
        ]
    }


def _chances(predictor: Predictor, encoded: NDArray[Any]) -> NDArray[np.float32]:
    chances = predictor.probabilities(encoded)
    _check(chances)
    return chances


def _outputs(predictor: Predictor, encoded: NDArray[Any]) -> list[list[float]]:
    outputs = predictor.outputs(encoded).reshape(len(encoded), -1)
    _check(outputs)
    found: list[list[float]] = outputs.tolist()
    return found


def _check(answers: NDArray[np.float32]) -> None:
    fine = np.isfinite(answers)
    if not fine.all():
        row = int(np.argmin(fine.all(axis=1)))
        raise DataError("the model has no answer to these values; some are far beyond what it knows", row=row + 1)
