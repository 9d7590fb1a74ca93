"""The HTTP interface of what is served."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Body, FastAPI, HTTPException
from fastapi.responses import JSONResponse

from fl.data.schema import TableSchema
from fl.errors import DataError
from server.serving import scoring
from server.serving.page import add_page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from server.serving.champion import Champion, Served

MOST_EXAMPLES = 1000
"""In one request."""


def create_api(champion: Champion) -> FastAPI:
    """Make the ASGI application over a champion, which it starts and stops."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        champion.start()
        yield
        champion.stop()

    app = FastAPI(title="FLOps", description="Predictions of the current global model.", lifespan=lifespan)

    def served() -> Served:
        if champion.served is None:
            raise HTTPException(503, champion.problem)
        return champion.served

    @app.get("/health/live")
    def live() -> dict[str, bool]:
        """Tell that the process answers."""
        return {"live": True}

    @app.get("/health/ready")
    def ready() -> JSONResponse:
        """Tell whether there is a model to ask, and what is wrong with a newer one."""
        there = champion.served
        told = {
            "ready": there is not None,
            "version": there.version.version if there else None,
            "problem": champion.problem,
        }
        return JSONResponse(told, 200 if there else 503)

    @app.get("/model")
    def model() -> dict[str, Any]:
        """Say which version answers, and what it says of itself."""
        version = served().version
        return {"model": version.name, "version": version.version, "tags": dict(version.tags)}

    @app.post("/predict")
    def predict(inputs: Annotated[list[Any], Body(embed=True)]) -> dict[str, Any]:
        """Predict for one example or several.

        `inputs` is a list: of objects, a value by column, where the task is a table; of nested lists of numbers, the
        shape of an example, where it is an array.
        """
        there = served()
        if not 0 < len(inputs) <= MOST_EXAMPLES:
            raise HTTPException(422, f"inputs: {len(inputs)} examples; 1 to {MOST_EXAMPLES} are answered at once")
        try:
            return answer(there, inputs)
        except DataError as error:
            raise HTTPException(422, f"inputs: {error}") from error

    @app.post("/invocations")
    def invocations(body: Annotated[dict[str, Any], Body()]) -> dict[str, Any]:
        """Predict as MLflow's own scoring server does, so that its clients work unchanged.

        One of `dataframe_split`, `dataframe_records`, `inputs` and `instances` holds the examples.
        """
        there = served()
        try:
            predictor = there.predictor
            return scoring.answer(predictor, scoring.read_examples(body, predictor.task.schema, MOST_EXAMPLES))
        except DataError as error:
            raise HTTPException(422, str(error)) from error

    add_page(app, champion)
    return app


def answer(served: Served, inputs: list[Any]) -> dict[str, Any]:
    """Return a label and the probabilities for each example, and which version says so.

    Raises:
        DataError: an example does not fit the task's schema.
    """
    predictor, version = served.predictor, served.version
    schema = predictor.task.schema
    given: Any = inputs
    if isinstance(schema, TableSchema):
        if not all(isinstance(row, dict) for row in inputs):
            raise DataError("each example is an object with a value for each column")
        known = {column.name for column in schema.columns}
        for number, row in enumerate(inputs, start=1):
            if more := sorted(set(row) - known):
                raise DataError("the schema does not know it", row=number, column=more[0])
        given = {name: [row.get(name) for row in inputs] for name in known}
    encoded = predictor.encode(given)
    if len(encoded) != len(inputs):
        raise DataError(f"{len(inputs)} examples are {len(encoded)}; each must have the shape of one")
    told: dict[str, Any] = {"model": version.name, "version": version.version}
    if not schema.classes:
        return {**told, "predictions": predictor.outputs(encoded).reshape(len(encoded), -1).tolist()}
    rows = [
        {
            "label": schema.classes[int(row.argmax())],
            "probabilities": {name: round(float(p), 6) for name, p in zip(schema.classes, row, strict=True)},
        }
        for row in predictor.probabilities(encoded)
    ]
    return {**told, "predictions": rows}
