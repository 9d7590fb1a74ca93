"""The page at ``/docs``, made from the OpenAPI document; nothing of it comes from anywhere else."""

from __future__ import annotations

import json
import secrets
from html import escape
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import FastAPI, Response

from server.serving.openapi import describe

if TYPE_CHECKING:
    from server.serving.api import Options
    from server.serving.champion import Champion

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc }
code, pre, textarea, input { font: 14px ui-monospace, monospace }
textarea { width: 100%; height: 14rem; box-sizing: border-box } table { border-collapse: collapse; margin: 1rem 0 }
td, th { text-align: left; padding: .2rem 1rem .2rem 0; vertical-align: top }
pre { background: #f4f4f4; padding: .8rem; overflow: auto; max-height: 24rem; white-space: pre-wrap }
"""
_SCRIPT = """
for (const form of document.forms) form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const shown = form.querySelector("output"), body = form.querySelector("textarea");
  const headers = {}, key = document.getElementById("key");
  if (body) headers["Content-Type"] = "application/json";
  if (key && key.value) headers.Authorization = `Bearer ${key.value}`;
  try {
    const { path, method } = form.dataset;
    const answer = await fetch(path.slice(1), { method, headers, body: body?.value });
    const text = await answer.text();
    let told = text;
    try { told = JSON.stringify(JSON.parse(text), null, 2); } catch {}
    shown.textContent = `${answer.status}\\n${told}`;
  } catch (error) { shown.textContent = `no answer: ${error.message}`; }
});
"""
_KEY = '<p><label>API key <input id="key" type="password" autocomplete="off" size="50"></label></p>'


def add_docs(app: FastAPI, champion: Champion, options: Options) -> None:
    """Add the OpenAPI document and the page that shows it; both are of the model that is served now."""

    def document() -> dict[str, Any]:
        served = champion.served
        schema = options.schema if served is None else served.predictor.task.schema
        return describe(schema, options.limits, with_keys=options.keys is not None)

    app.openapi = document  # type: ignore[method-assign]

    @app.get("/openapi.json")
    async def openapi() -> Response:
        return Response(orjson.dumps(document()), media_type="application/json")

    @app.get("/docs")
    async def docs() -> Response:
        nonce = secrets.token_urlsafe(16)
        policy = f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'"
        headers = {
            "Content-Security-Policy": f"{policy}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            "X-Content-Type-Options": "nosniff",
        }
        return Response(render(document(), nonce), media_type="text/html", headers=headers)


def render(document: dict[str, Any], nonce: str) -> str:
    """Return the page of an OpenAPI document.

    Args:
        document: it.
        nonce: allows the page's own style and script in its Content-Security-Policy.
    """
    parts = [
        _operation(path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    schemas = "".join(
        f"<h3>{escape(name)}</h3><pre>{_pretty(schema)}</pre>"
        for name, schema in document["components"]["schemas"].items()
    )
    info = document["info"]
    key = _KEY if "securitySchemes" in document["components"] else ""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(info["title"])}: interface</title>'
        f'<meta name="viewport" content="width=device-width"><style nonce="{nonce}">{_STYLE}</style>'
        f"<h1>{escape(info['title'])}</h1><p>{escape(info['description'])} "
        f'The same for programs: <a href="openapi.json">openapi.json</a>.</p>{key}{"".join(parts)}'
        f'<h2>Schemas</h2>{schemas}<script nonce="{nonce}">{_SCRIPT}</script></html>'
    )


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    body = ""
    if content:
        body = (
            f"<p>Body, application/json:</p><pre>{_pretty(content['schema'])}</pre>"
            f'<textarea aria-label="body" spellcheck="false">{_pretty(content.get("example", {}))}</textarea>'
        )
    rows = "".join(
        f"<tr><td>{escape(status)}<td>{escape(answer['description'])}"
        for status, answer in operation["responses"].items()
    )
    return (
        f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation['summary'])}.</p>"
        f'<form data-path="{escape(path)}" data-method="{method.upper()}">{body}<p><button>Try</button></p>'
        f"<pre><output></output></pre></form><table><tr><th>status<th>means{rows}</table>"
    )


def _pretty(value: Any) -> str:
    return escape(json.dumps(value, indent=1, ensure_ascii=False))
