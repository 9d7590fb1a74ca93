"""The model versions that a release has registered, over MLflow's REST interface: a runner needs no MLflow."""

from __future__ import annotations

import time
import tomllib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from fl.errors import FlopsError, SettingsError
from fl.protocol import ABANDONED, CHAMPION, GATE, PASSED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pipeline.record import ReleaseRecord

CA_VARIABLE = "MLFLOW_TRACKING_SERVER_CERT_PATH"
"""MLflow's own: the file with the CA of its server."""

VARIABLES = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", CA_VARIABLE)
"""What a server is reached with, besides its address."""

_SECONDS = 20
_SETTLE_SECONDS = 0.5
"""How long after the alias was moved it is looked whether it stayed."""

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
    with connect(uri, environment) as registry:
        return sum(record is None or version.is_of(record) for version in registry.versions(model))


@dataclass(frozen=True)
class Version:
    """A version of a registered model.

    Attributes:
        number: its number.
        tags: what it says of itself.
    """

    number: int
    tags: Mapping[str, str]

    def is_of(self, record: ReleaseRecord) -> bool:
        """Tell whether a release's server made it: it tells the image, or the commit alone."""
        made_by = self.tags.get("image") or ""
        return made_by == record.images["server"].digest if made_by else self.tags.get("commit") == record.commit


@dataclass(frozen=True)
class RemoteRegistry:
    """An MLflow server's model registry."""

    address: str
    session: requests.Session
    verify: str | None = None

    def versions(self, model: str) -> list[Version]:
        """Return a model's versions, the newest first; none where there is no such model.

        Raises:
            FlopsError: the server does not answer, or not as MLflow does.
        """
        words: dict[str, Any] = {"filter": f"name = '{model}'", "max_results": _PAGE}
        found: list[Version] = []
        while True:
            page = self._ask("GET", "model-versions/search", params=words)
            with _as_mlflow():
                for version in page.get("model_versions", []):
                    tags = {tag["key"]: tag.get("value", "") for tag in version.get("tags", [])}
                    found.append(Version(int(version["version"]), tags))
            if not page.get("next_page_token"):
                return sorted(found, key=lambda version: -version.number)
            words["page_token"] = page["next_page_token"]

    def restore(self, model: str, record: ReleaseRecord, reason: str) -> tuple[int, list[int]] | None:
        """Let the newest version that a release made be served, and trained on from; mark those after it.

        One that its gate refused was never served, and is not served now.

        The alias is moved last: run again, it finishes what was interrupted. A job that ends in the same moment may
        move it, too, and so it is looked at once more.

        Args:
            model: the registered model's name.
            record: the release.
            reason: stays with the versions that are taken back.

        Returns:
            The version's number, and those that were taken back just now; None where the release made none.

        Raises:
            FlopsError: the server does not answer, or not as MLflow does; or somebody else moved the alias meanwhile.
        """
        versions = self.versions(model)
        fit = (v for v in versions if v.is_of(record) and ABANDONED not in v.tags)
        to = next((v for v in fit if v.tags.get(GATE, PASSED) == PASSED), None)
        if to is None:
            return None
        left = [v.number for v in versions if v.number > to.number and ABANDONED not in v.tags]
        for number in left:
            words = {"name": model, "version": str(number), "key": ABANDONED, "value": reason[:4000]}
            self._ask("POST", "model-versions/set-tag", json=words)
        champion = {"name": model, "alias": CHAMPION, "version": str(to.number)}
        self._ask("POST", "registered-models/alias", json=champion)
        time.sleep(_SETTLE_SECONDS)
        there = self._ask("GET", "registered-models/alias", params={"name": model, "alias": CHAMPION})
        with _as_mlflow():
            number = int(there["model_version"]["version"])
        if number != to.number:
            raise FlopsError(f"somebody else let {CHAMPION} name version {number} of {model} meanwhile")
        return to.number, left

    def _ask(self, method: str, what: str, **words: Any) -> dict[str, Any]:
        with _as_mlflow():
            # Named anew each time: one of the session's would make way for REQUESTS_CA_BUNDLE.
            answer = self.session.request(
                method, f"{self.address}/api/2.0/mlflow/{what}", timeout=_SECONDS, verify=self.verify, **words
            )
            answer.raise_for_status()
            found: dict[str, Any] = answer.json()
            return found


@contextmanager
def connect(uri: str, environment: Mapping[str, str]) -> Iterator[RemoteRegistry]:
    """Yield the model registry of an MLflow server.

    Args:
        uri: MLflow's tracking URI, http or https.
        environment: may hold MLFLOW_TRACKING_USERNAME and _PASSWORD, or _TOKEN.

    Raises:
        SettingsError: the URI is none of a server, or the file of its CA is not there.
    """
    if not uri.startswith(("http://", "https://")):
        raise SettingsError("MLFLOW_TRACKING_URI: the address of an MLflow server is needed, http(s)://…")
    certificate = environment.get(CA_VARIABLE) or None
    if certificate and not Path(certificate).exists():
        raise SettingsError(f"{CA_VARIABLE}: {certificate}: no such file")
    with requests.Session() as session:
        if token := environment.get("MLFLOW_TRACKING_TOKEN"):
            session.headers["Authorization"] = f"Bearer {token}"
        elif user := environment.get("MLFLOW_TRACKING_USERNAME"):
            session.auth = (user, environment.get("MLFLOW_TRACKING_PASSWORD", ""))
        yield RemoteRegistry(uri.rstrip("/"), session, certificate)


@contextmanager
def _as_mlflow() -> Iterator[None]:
    try:
        yield
    except requests.exceptions.SSLError as error:
        raise FlopsError(
            "the model registry of MLFLOW_TRACKING_URI: its certificate is not trusted here; where its CA is the "
            f"house's, {CA_VARIABLE} names that CA's file"
            if "CERTIFICATE_VERIFY_FAILED" in str(error)
            else "the model registry of MLFLOW_TRACKING_URI speaks no TLS; is the address right?"
        ) from error
    except (requests.ConnectionError, requests.Timeout) as error:
        raise FlopsError(
            "the model registry of MLFLOW_TRACKING_URI does not answer; is it running, and the address right?"
        ) from error
    except (requests.RequestException, ValueError, KeyError, TypeError, AttributeError) as error:
        answer = getattr(error, "response", None)
        reason = type(error).__name__ if answer is None else f"HTTP status {answer.status_code}"
        raise FlopsError(
            f"the model registry of MLFLOW_TRACKING_URI does not answer as MLflow does: {reason}"
        ) from error
