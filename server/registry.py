"""The model registry: MLflow, which is imported here and in `server.run_log` alone.

Where nothing is configured, an SQLite file and a folder in the folder one works in; with
``MLFLOW_TRACKING_URI``, a server. A version is made by one last call, after everything it consists of is
stored: whatever ends the process before leaves no version.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fl.bundle import read_bundle, save_bundle
from fl.data.schema import TableSchema
from fl.errors import FlopsError, RegistryUnreachable, SettingsError
from fl.protocol import ABANDONED
from server.registry_names import ModelVersion as ModelVersion
from server.registry_names import default_uri, embedded_database, public_uri, reason_of

# A server that does not answer must be known in seconds, and before training. MLflow reads these on import.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from server.run_log import RunLog

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fl.model import ModelState
    from fl.tasks.base import Task

EXPERIMENT = "flops"
_BUNDLE = "data/bundle"
"""Where MLflow keeps the stored model within its own folder."""

_NEEDED = ("numpy", "pandas", "pyarrow", "safetensors", "torch")
"""What a stored model needs besides FLOps."""

_SETTLE_SECONDS = 0.5
"""How long after a move it is looked whether it stayed."""


class ParentReplaced(FlopsError):  # noqa: N818 - a state, not a mistake
    """Somebody else made a version from the same parent meanwhile."""


class AliasMoved(FlopsError):  # noqa: N818 - a state, not a mistake
    """Somebody else moved an alias meanwhile."""


class Registry:
    """A model registry that answered when it was opened."""

    def __init__(self, uri: str | None = None) -> None:
        """Open a registry.

        Args:
            uri: MLflow's tracking URI; by default the environment's, else the embedded one.

        Raises:
            RegistryUnreachable: it does not answer, or is none.
            SettingsError: the embedded one cannot be written, or its file is no database.
        """
        self.uri = uri or default_uri()
        self._database = embedded_database(self.uri)
        try:
            if self._database is not None:
                self._database.parent.mkdir(parents=True, exist_ok=True)
                self.uri = f"sqlite:///{self._database}"
                _check_writable(self._database)
            with self._alone():  # Two that start at once would both make the tables.
                if self._database is not None and not self._database.exists():
                    _make_database(self._database)
                self._client = MlflowClient(self.uri, self.uri)
                self._experiment = self._find_experiment()
        except Exception as error:
            reason = reason_of(error)
            if self._database is not None and reason.startswith(("PermissionError", "DatabaseError")):
                raise SettingsError(
                    f"the model registry {self._database} cannot be used: {reason}. Let this user write there, or "
                    "name another with MLFLOW_TRACKING_URI"
                ) from error
            mend = "Check MLFLOW_TRACKING_URI, or unset it to use a local one"
            if "CERTIFICATE_VERIFY_FAILED" in reason:
                mend = "Where its CA is the house's, MLFLOW_TRACKING_SERVER_CERT_PATH names that CA's file"
            raise RegistryUnreachable(
                f"the model registry {public_uri(self.uri)} does not answer: {reason}. {mend}"
            ) from error

    @property
    def embedded(self) -> bool:
        """Whether it is a file and a folder of this machine, and no server."""
        return self._database is not None

    def latest(self, name: str) -> ModelVersion | None:
        """Return the newest version of a model that was not taken back, or None where there is none.

        Raises:
            FlopsError: the registry failed.
        """
        return next((version for version in self.versions(name) if not version.abandoned), None)

    def load(self, version: ModelVersion) -> tuple[Task, ModelState]:
        """Download a version's weights; see `fl.bundle.read_bundle` for the errors."""
        with tempfile.TemporaryDirectory() as folder:
            return read_bundle(self.fetch(version, Path(folder)))

    def fetch(self, version: ModelVersion, folder: Path) -> Path:
        """Download a version's weights into a folder; returns where they are in it, for `fl.bundle.read_bundle`.

        Raises:
            FlopsError: they cannot be had.
        """
        try:
            return Path(
                mlflow.artifacts.download_artifacts(
                    artifact_uri=f"{version.source}/{_BUNDLE}", dst_path=str(folder), tracking_uri=self.uri
                )
            )
        except (MlflowException, OSError) as error:
            raise FlopsError(
                f"model {version.name} version {version.version} cannot be loaded: {reason_of(error)}"
            ) from error

    def models(self) -> list[str]:
        """Return the names of the models that there are, in order.

        Raises:
            FlopsError: the registry failed.
        """
        try:
            names, token = [], None
            while True:
                page = self._client.search_registered_models(page_token=token)
                names += [str(found.name) for found in page]
                token = page.token
                if not token:
                    return sorted(names)
        except (MlflowException, OSError) as error:
            raise FlopsError(f"the model registry failed: {reason_of(error)}") from error

    def versions(self, name: str) -> list[ModelVersion]:
        """Return a model's versions, the newest first.

        Raises:
            FlopsError: the registry failed.
        """
        try:
            found, token = [], None
            while True:
                page = self._client.search_model_versions(f"name = '{name}'", page_token=token)
                found += [_version(version) for version in page]
                token = page.token
                if not token:
                    return sorted(found, key=lambda version: -version.version)
        except (MlflowException, OSError) as error:
            raise FlopsError(f"the model registry failed: {reason_of(error)}") from error

    def text(self, version: ModelVersion, file: str) -> str | None:
        """Return a file that is stored with a version; None where there is none.

        Raises:
            FlopsError: the registry failed, or it is no text.
        """
        with tempfile.TemporaryDirectory() as folder:
            try:
                listed = mlflow.artifacts.list_artifacts(artifact_uri=version.source, tracking_uri=self.uri)
                if not any(entry.path.rpartition("/")[2] == file for entry in listed):
                    return None
                path = mlflow.artifacts.download_artifacts(
                    artifact_uri=f"{version.source}/{file}", dst_path=folder, tracking_uri=self.uri
                )
                return Path(path).read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise FlopsError(
                    f"model {version.name} version {version.version} cannot be read: {file} is no text in UTF-8"
                ) from error
            except (MlflowException, OSError) as error:
                raise FlopsError(
                    f"model {version.name} version {version.version} cannot be read: {reason_of(error)}"
                ) from error

    @contextmanager
    def run(self, name: str, settings: Mapping[str, Any]) -> Iterator[RunLog]:
        """Record a run: finished if the block ends well, killed or failed if it raises.

        Args:
            name: what lists show.
            settings: stored as the run's parameters.
        """
        try:
            run = self._client.create_run(self._experiment, run_name=name)
        except MlflowException as error:
            raise FlopsError(f"the model registry failed: {reason_of(error)}") from error
        log = RunLog(self._client, run.info.run_id, str(run.info.artifact_uri))
        status = "FAILED"
        try:
            log.settings(settings)
            yield log
            log.flush()
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        except (MlflowException, OSError) as error:  # requests' errors are OSErrors too.
            raise FlopsError(f"the model registry failed: {reason_of(error)}") from error
        finally:
            log.close(status)

    def register(
        self,
        log: RunLog,
        name: str,
        task: Task,
        state: ModelState,
        tags: Mapping[str, str],
        parent: ModelVersion | None = None,
        *,
        files: Mapping[str, str] | None = None,
    ) -> ModelVersion:
        """Store a model with a run and make it the newest version.

        Args:
            log: the run that made it.
            name: the registered model.
            task: what it does.
            state: its weights.
            tags: what the version says of itself.
            parent: the version that training started from.
            files: further files to be stored with the model: text by name.

        Raises:
            ParentReplaced: the parent is no longer the newest version: somebody else went on from it.
            FlopsError: the registry failed; no version was made.
        """
        try:
            return self._register(log, name, task, state, tags, parent, files or {})
        except (MlflowException, OSError) as error:  # requests' errors are OSErrors too.
            raise FlopsError(f"the model registry failed: {reason_of(error)}") from error

    def none_yet(self, name: str) -> ModelVersion:
        """Return the parent of a first version: registering from it fails where somebody made one meanwhile."""
        return ModelVersion(name, 0, "", "")

    def _register(
        self,
        log: RunLog,
        name: str,
        task: Task,
        state: ModelState,
        tags: Mapping[str, str],
        parent: ModelVersion | None,
        files: Mapping[str, str],
    ) -> ModelVersion:
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / "model"
            _save_pyfunc(model, task, state)
            for file, text in files.items():
                (model / file).write_text(text, encoding="utf-8")
            self._client.log_artifacts(log.run_id, str(model), "model")
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS"):
                raise
        with self._alone():
            newest = self.latest(name)
            there = 0 if newest is None else newest.version
            if parent is not None and there != parent.version:
                raise _replaced(name, parent.version, there)
            # The last step and the only one that makes a version: its lineage comes in the same call.
            made = self._client.create_model_version(
                name, f"{log.artifact_uri}/model", log.run_id, tags=dict(tags), await_creation_for=0
            )
            version = _version(made)
            self.keep_one(version, parent)
        return version

    def keep_one(self, made: ModelVersion, parent: ModelVersion | None) -> None:
        """Take a version back if another server made one in between: of two that look at once the first stays.

        Raises:
            ParentReplaced: the version was taken back.
            FlopsError: the registry failed; the version is there, and nobody knows whether it stays.
        """
        if self._database is not None or parent is None:
            return
        between = [
            v.version
            for v in self.versions(made.name)
            if parent.version < v.version < made.version and not v.abandoned
        ]
        if not between:
            return
        try:
            self._client.delete_model_version(made.name, str(made.version))
        except (MlflowException, OSError) as error:
            raise FlopsError(f"the model registry failed: {reason_of(error)}") from error
        raise _replaced(made.name, parent.version, min(between))

    def move_alias(self, version: ModelVersion, alias: str, seen: int) -> None:
        """Let an alias name this version, unless somebody else moved it since one looked.

        A registry in a file is locked meanwhile. A server has no such call: of several who move it in the same
        moment the last stays, and the others find that out by looking again.

        Args:
            version: which.
            alias: whose.
            seen: the version that it named when one looked; 0 for none.

        Raises:
            AliasMoved: it names another one by now.
            FlopsError: the registry failed.
        """
        with self._alone():
            there = self._named(version.name, alias)
            if there not in (seen, version.version):  # An answer that was lost on its way is no other's move.
                raise _moved(version, alias, there)
            try:
                self._client.set_registered_model_alias(version.name, alias, str(version.version))
            except (MlflowException, OSError) as error:
                raise FlopsError(f"the model registry failed: {reason_of(error)}") from error
        if self._database is None:
            time.sleep(_SETTLE_SECONDS)
            there = self._named(version.name, alias)
            if there != version.version:
                raise _moved(version, alias, there)

    def _named(self, name: str, alias: str) -> int:
        found = self.aliased(name, alias)
        return 0 if found is None else found.version

    def set_tag(self, version: ModelVersion, tag: str, value: str) -> None:
        """Let a version say something of itself.

        Raises:
            FlopsError: the registry failed.
        """
        try:
            self._client.set_model_version_tag(version.name, str(version.version), tag, value[:4000])
        except (MlflowException, OSError) as error:
            raise FlopsError(f"the model registry failed: {reason_of(error)}") from error

    def aliased(self, name: str, alias: str) -> ModelVersion | None:
        """Return the version that an alias names; None where there is no such model, alias or version.

        Raises:
            FlopsError: the registry failed.
        """
        try:
            return _version(self._client.get_model_version_by_alias(name, alias))
        except (MlflowException, OSError) as error:
            code = getattr(error, "error_code", "")
            if code == "RESOURCE_DOES_NOT_EXIST" or (code == "INVALID_PARAMETER_VALUE" and alias in str(error)):
                return None
            raise FlopsError(f"the model registry failed: {reason_of(error)}") from error

    def abandon(self, version: ModelVersion, reason: str) -> None:
        """Mark a version as taken back: `latest` does not return it any more.

        Raises:
            FlopsError: the registry failed.
        """
        self.set_tag(version, ABANDONED, reason)

    def made_by(self, name: str, run_id: str) -> ModelVersion | None:
        """Return the version that a run made, or None.

        Raises:
            FlopsError: the registry failed.
        """
        return next((version for version in self.versions(name) if version.run_id == run_id), None)

    def find(self, name: str, number: int) -> ModelVersion:
        """Return a version by its number.

        Raises:
            FlopsError: there is none, or the registry failed.
        """
        try:
            return _version(self._client.get_model_version(name, str(number)))
        except (MlflowException, OSError) as error:
            raise FlopsError(f"model {name} version {number} cannot be read: {reason_of(error)}") from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes on this machine out of the embedded registry; a server looks after itself."""
        if self._database is None:
            yield
            return
        with (self._database.parent / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _find_experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        artifacts = None if self._database is None else (self._database.parent / "artifacts").as_uri()
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name, artifact_location=artifacts))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self._client.get_experiment_by_name(name)  # Somebody was quicker.
        if found is None or found.lifecycle_stage != "active":
            raise ValueError(f"experiment '{name}' is deleted; restore it, or set MLFLOW_EXPERIMENT_NAME")
        return str(found.experiment_id)


def _check_writable(database: Path) -> None:
    """Fail at once where MLflow would try for minutes."""
    (database.parent / "artifacts").mkdir(exist_ok=True)
    for path in (database.parent, database.parent / "artifacts", database):
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(f"{path} cannot be written")


def _make_database(database: Path) -> None:
    """Make the tables under another name: a process that ends in between leaves no half-made database."""
    unfinished = database.with_name(f".{database.name}.new")
    unfinished.unlink(missing_ok=True)
    uri = f"sqlite:///{unfinished}"
    MlflowClient(uri, uri).get_experiment_by_name(EXPERIMENT)
    unfinished.replace(database)


def _replaced(name: str, parent: int, newest: int) -> ParentReplaced:
    return ParentReplaced(
        f"{name}: parent version {parent} is no longer the newest, version {newest} is; nothing is registered"
    )


def _moved(version: ModelVersion, alias: str, there: int) -> AliasMoved:
    named = f"names version {there}" if there else "is gone"
    return AliasMoved(f"{version.name}: the alias {alias} was moved by somebody else meanwhile and {named}")


def _save_pyfunc(folder: Path, task: Task, state: ModelState) -> None:
    import mlflow.pyfunc  # It needs pandas, and who only reads does not.

    with tempfile.TemporaryDirectory() as scratch:
        bundle = Path(scratch) / "bundle"
        save_bundle(bundle, task, state)
        mlflow.pyfunc.save_model(
            folder,
            loader_module="fl.inference",
            data_path=str(bundle),
            signature=_signature(task),
            # FLOps itself is installed from wherever one got it, never by a name that anybody could take.
            pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in _NEEDED],
        )


def _signature(task: Task) -> Any:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec
    from mlflow.types.schema import AnyType

    schema = task.schema
    if not isinstance(schema, TableSchema):
        return ModelSignature(inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, *schema.shape))]))
    columns: list[ColSpec | TensorSpec] = [
        ColSpec(
            # Whole numbers must do too, and MLflow would refuse them where it expects others.
            AnyType() if column.kind == "numeric" else DataType.string,  # type: ignore[no-untyped-call]
            column.name,
            required=column.missing == "refuse",
        )
        for column in schema.columns
    ]
    return ModelSignature(inputs=Schema(columns))


def _version(found: Any) -> ModelVersion:
    created = (found.creation_timestamp or 0) / 1000
    return ModelVersion(
        found.name, int(found.version), str(found.run_id), str(found.source), dict(found.tags), created
    )
