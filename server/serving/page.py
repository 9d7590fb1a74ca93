"""The page at ``/``: what is served, where it comes from, who took part, and a form to try it.

Plain HTML made here, one style sheet and one script of our own; nothing is fetched from anywhere else, and the
browser is told to allow nothing else.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING, Any

from fastapi import HTTPException
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from server.serving.chart import draw_metric, tell
from server.serving.gathering import read_entry
from server.serving.graph import draw_lineage
from server.serving.lookout import Lookout

if TYPE_CHECKING:
    from fastapi import FastAPI

    from server.serving.champion import Champion
    from server.serving.lookout import View

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""What the browser may do with the page: show it, and ask this server."""

TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
"""The files beside the page, by ending."""


def add_page(app: FastAPI, champion: Champion) -> None:
    """Add the page and its files to an application."""
    files = _files()
    templates = _templates({name: f"static/{name}?{digest}" for name, (_, _, digest) in files.items()})
    lookout = Lookout(champion)

    # The page and its files are no part of the interface that programs use.
    @app.get("/", include_in_schema=False)
    def page() -> HTMLResponse:
        text = templates.get_template("page.html").render(_content(champion, lookout.look()))
        return HTMLResponse(text, headers={**HEADERS, "Cache-Control": "no-cache"})

    @app.get("/static/{name}", include_in_schema=False)
    def static(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, f"there is no {name}")
        content, kind, _ = files[name]
        # The page names each with its digest: another content has another address.
        headers = {**HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}
        return Response(content, media_type=kind, headers=headers)


def _content(champion: Champion, view: View) -> dict[str, Any]:
    overview, served = view.overview, view.served
    current = None
    if served is not None:
        # What answers, which is not always what the registry says should: one that does not load is not served.
        known = {entry.number: entry for entry in overview.versions} if overview is not None else {}
        number = served.version.version
        current = known.get(number) or read_entry(served.version, champion=True)
    return {
        "model": champion.model,
        "alias": champion.alias,
        "task": served.predictor.task if served is not None else None,
        "current": current,
        "problem": champion.problem,
        "overview": overview,
        "away": view.problem,
        "form": view.form,
        "graph": draw_lineage(overview) if overview is not None and overview.versions else None,
        "chart": draw_metric(overview) if overview is not None else None,
        "now": datetime.now(UTC),
    }


def _files() -> dict[str, tuple[bytes, str, str]]:
    """Return the files beside the page by name: content, type, the beginning of the digest."""
    found = {}
    for file in resources.files("server.serving").joinpath("static").iterdir():
        kind = TYPES.get(file.name.rpartition(".")[2])
        if kind is not None:
            content = file.read_bytes()
            found[file.name] = (content, kind, hashlib.sha256(content).hexdigest()[:12])
    return found


def _templates(files: dict[str, str]) -> Environment:
    environment = Environment(
        loader=PackageLoader("server.serving"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["file"] = files.__getitem__
    environment.filters |= {"told": _told, "moment": _moment, "short": _short, "day": _day}
    return environment


def _told(value: float, metric: str) -> str:
    return tell(metric, value)


def _moment(value: datetime) -> str:
    return f"{value:%Y-%m-%d %H:%M} UTC"


def _day(value: datetime) -> str:
    return f"{value:%Y-%m-%d}"


def _short(text: str, most: int = 12) -> str:
    """Shorten a commit or a digest, which says its algorithm first."""
    text = text.removeprefix("sha256:")
    return text if len(text) <= most + 1 else f"{text[:most]}…"
