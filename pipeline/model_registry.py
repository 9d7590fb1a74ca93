"""How many model versions a release has registered, asked of MLflow's REST interface: a runner needs no MLflow."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

import requests

from fl.errors import FlopsError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.record import ReleaseRecord

CA_VARIABLE = "MLFLOW_TRACKING_SERVER_CERT_PATH"
"""MLflow's own: the file with the CA of its server."""

VARIABLES = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", CA_VARIABLE)
"""What a server is reached with, besides its address."""

_SECONDS = 20
_PAGE = 200


def model_name(federation: bytes | None, file: str) -> str:
    """Return the name of the model that a federation's file registers.

    Raises:
        SettingsError: there is no such file, or it names neither model nor task.
    """
    if federation is None:
        raise SettingsError(f"the config repository has no {file}, which names the model")
    try:
        values = tomllib.loads(federation.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{file}: is not TOML: {error}") from error
    task = values.get("task")
    if not isinstance(task, str):
        raise SettingsError(f"{file}: names no task")
    name = values.get("model", "flops-" + "".join(c if c.isalnum() or c in "-_" else "-" for c in task))
    return str(name)


def count_versions(uri: str, model: str, record: ReleaseRecord | None, environment: Mapping[str, str]) -> int:
    """Count the versions of a model that a release's server registered, or all.

    Args:
        uri: MLflow's tracking URI, http or https.
        model: the registered model's name.
        record: the release; a version tells the image it was made by, or the commit alone. None for all.
        environment: may hold MLFLOW_TRACKING_USERNAME and _PASSWORD, or _TOKEN.

    Raises:
        SettingsError: the URI is none of a server.
        FlopsError: the server does not answer, or not as MLflow does.
    """
    if not uri.startswith(("http://", "https://")):
        raise SettingsError("MLFLOW_TRACKING_URI: the address of an MLflow server is needed, http(s)://…")
    session = requests.Session()
    if certificate := environment.get(CA_VARIABLE):
        session.verify = certificate
    if token := environment.get("MLFLOW_TRACKING_TOKEN"):
        session.headers["Authorization"] = f"Bearer {token}"
    elif user := environment.get("MLFLOW_TRACKING_USERNAME"):
        session.auth = (user, environment.get("MLFLOW_TRACKING_PASSWORD", ""))
    words: dict[str, Any] = {"filter": f"name = '{model}'", "max_results": _PAGE}
    count = 0
    try:
        while True:
            answer = session.get(
                f"{uri.rstrip('/')}/api/2.0/mlflow/model-versions/search", params=words, timeout=_SECONDS
            )
            answer.raise_for_status()
            found = answer.json()
            for version in found.get("model_versions", []):
                tags = {tag["key"]: tag.get("value", "") for tag in version.get("tags", [])}
                if record is None:
                    count += 1
                    continue
                made_by = tags.get("image") or ""
                same = made_by == record.images["server"].digest if made_by else tags.get("commit") == record.commit
                count += bool(same)
            if not found.get("next_page_token"):
                return count
            words["page_token"] = found["next_page_token"]
    except (requests.RequestException, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = type(error).__name__
        raise FlopsError(
            f"the model registry of MLFLOW_TRACKING_URI does not answer as MLflow does: {reason}"
        ) from error
    finally:
        session.close()
