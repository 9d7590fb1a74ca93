"""Whether all is well: for an orchestrator, and in the form of MLflow's own server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from fastapi import FastAPI, Response

from server.serving import scoring

if TYPE_CHECKING:
    from server.serving.champion import Champion
    from server.serving.keys import Keys

JSON = "application/json"


def add_health(app: FastAPI, champion: Champion, keys: Keys | None) -> None:
    """Add the paths that ask for nobody's key and tell nobody's secret."""

    @app.get("/health/live")
    async def live() -> Response:
        return Response(b'{"live":true}', media_type=JSON)

    @app.get("/health/ready")
    async def ready() -> Response:
        told = state(champion, keys)
        return Response(orjson.dumps(told), 200 if told["ready"] else 503, media_type=JSON)

    async def ping() -> Response:
        return Response(b"\n", 503 if champion.served is None else 200, media_type=JSON)

    app.get("/ping")(ping)
    app.get("/health")(ping)

    @app.get("/version")
    async def version() -> Response:
        return Response(scoring.version(), media_type="text/plain")


def state(champion: Champion, keys: Keys | None) -> dict[str, Any]:
    """Say whether there is a model to ask, and what is wrong with a newer one, the registry or the keys."""
    there = champion.served
    problems = [champion.problem, keys.problem if keys is not None else ""]
    return {
        "ready": there is not None,
        "version": there.version.version if there else None,
        "problem": "; ".join(filter(None, problems)),
    }
