"""Names around the model registry: where it is, how that and what fails is shown, how hospitals are called in it.

Nothing here imports MLflow.
"""

from __future__ import annotations

import os
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fl.errors import RegistryUnreachable
from fl.protocol import ABANDONED

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER = "flops-registry"
"""The embedded registry's folder, in the folder one works in."""

_ACCOUNT = re.compile(r"(\w+://)[^/\s@]*@")
_QUERY = re.compile(r"(\w+://[^\s?]*)\?\S+")
"""What of a URL is a secret: the account, and a query, which may be a signature."""


@dataclass(frozen=True)
class ModelVersion:
    """A version of a registered model."""

    name: str
    version: int
    run_id: str
    source: str
    tags: Mapping[str, str] = field(default_factory=dict)
    created: float = field(default=0.0, compare=False)
    """When it was registered: seconds since 1970; 0 where nobody said."""

    @property
    def abandoned(self) -> bool:
        """Whether it was taken back: nothing is trained on from it."""
        return ABANDONED in self.tags


def default_uri() -> str:
    """Return the tracking URI that the environment names, or the embedded one's."""
    configured = os.environ.get("MLFLOW_TRACKING_URI")
    return configured or f"sqlite:///{(Path.cwd() / FOLDER / 'mlflow.db').resolve()}"


def default_model(task: str) -> str:
    """Return the registered model's name where nobody chose one."""
    return "flops-" + "".join(c if c.isalnum() or c in "-_" else "-" for c in task)


def is_model_name(name: str) -> bool:
    """Tell whether a registered model can be called so: letters, digits, spaces and ``-_.``."""
    return all(c.isalnum() or c in "-_. " for c in name)


def metric_path(name: str) -> str:
    """Return a hospital's name as MLflow takes it in a metric's name.

    Letters and digits of any script, spaces and ``_-.`` stay; what else there is becomes ``_``, and a checksum
    keeps names apart that would then be the same.
    """
    clean = "".join(c if c.isalnum() or c in "_- ." else "_" for c in name)[:80].strip(" .")
    return name if clean == name else f"{clean}-{zlib.crc32(name.encode()):08x}"


def embedded_database(uri: str) -> Path | None:
    """Return the file of an SQLite URI, relative ones in the folder one works in; None for a server.

    Raises:
        RegistryUnreachable: the URI is of no kind that can be used.
    """
    scheme, separator, rest = uri.partition("://")
    kind = scheme.partition("+")[0]
    if kind == "sqlite":
        path = rest.partition("?")[0].removeprefix("/")
        return (Path.cwd() / path).resolve() if path else None
    if kind == "databricks" or (separator and kind in ("http", "https", "postgresql", "mysql", "mssql")):
        return None
    raise RegistryUnreachable(
        f"MLFLOW_TRACKING_URI: '{kind or uri}' is no kind of tracking URI that can be used; "
        "http(s)://…, sqlite:///… or another database of MLflow's"
    )


def public_uri(uri: str | None = None) -> str:
    """Return a tracking URI, by default the one in use, without user and password."""
    parts = urlsplit(uri or default_uri())
    if "@" not in parts.netloc:
        return uri or default_uri()
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def reason_of(error: BaseException) -> str:
    """Return the innermost cause in one line, without addresses of objects, accounts and signatures in URLs."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    text = _QUERY.sub(r"\1?…", _ACCOUNT.sub(r"\1", " ".join(str(error).split())))
    return f"{type(error).__name__}: {text}"[:300].rstrip(".")
