"""The app bundle of a job: what Flower ships from server to hospital to say which app runs. Ours carries no code.

Each image runs the code it was built with. The bundle only names it, and a hospital refuses one that holds anything
else before any of it is unpacked.
"""

from __future__ import annotations

import io
import zipfile

NAME, PUBLISHER, VERSION = "flops", "flops", "1.0.0"

_PYPROJECT = f"""\
[project]
name = "{NAME}"
version = "{VERSION}"
description = "Names the apps that both images carry; holds no code"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "{PUBLISHER}"

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"

[tool.flwr.app.config]
"""

_MEMBER = "pyproject.toml"


def make_bundle() -> bytes:
    """Return the bundle, a zip archive: the same bytes every time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo(_MEMBER, (1980, 1, 1, 0, 0, 0)), _PYPROJECT)
    return buffer.getvalue()


def refuse_bundle(content: bytes) -> str | None:
    """Return why a bundle is not run, in one line, or None for one without code. Nothing is unpacked."""
    if content == make_bundle():
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.namelist()
    except Exception:  # Whatever a made-up archive makes of its reader.
        return "the app bundle is no zip archive that can be read"
    other = [name for name in members if name != _MEMBER]
    if other:
        listed = ", ".join(sorted(other)[:5])
        return f"the app bundle carries more than a name: {listed}; this node runs its own code alone"
    return "the app bundle names another app than this node runs"
