"""What a job reads from the registry and leaves in it: the parent at its start, one version at its end."""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any

from fl.errors import FlopsError, RegistryUnreachable, SettingsError
from fl.protocol import CHAMPION, this_release
from server.lineage import FILE, lineage_of
from server.metrics import round_metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from fl.model import ModelState
    from server.job import Progress
    from server.registry import ModelVersion, Registry
    from server.settings import FederationSettings

OPEN_SECONDS = 20.0
"""How long a registry that does not answer is tried again at the start of a job."""

_log = logging.getLogger("flops.server")


class Recorder:
    """The registry, for one job."""

    def __init__(self, settings: FederationSettings) -> None:
        """Open the registry.

        Raises:
            SettingsError: its address is none.
            FlopsError: it does not answer.
        """
        self._settings = settings
        self._registry = self._open()

    def _open(self) -> Registry:
        from server.registry import Registry
        from server.registry_names import default_uri, embedded_database

        try:
            embedded_database(default_uri())
        except RegistryUnreachable as error:  # An address that is none needs no second try.
            raise SettingsError(str(error)) from error
        opened: Registry = _insist(Registry, lambda: OPEN_SECONDS)
        return opened

    def parent(self) -> tuple[ModelVersion | None, ModelState]:
        """Return the newest version and its weights, or None and the task's first ones.

        Raises:
            SettingsError: the version is of another task.
            FlopsError: the registry does not answer.
        """
        settings = self._settings
        parent = _insist(lambda: self._registry.latest(settings.model), lambda: OPEN_SECONDS)
        if parent is None:
            from fl.model import initial_state  # Imports PyTorch, and only here.

            return None, initial_state(settings.task, settings.seed)
        task, state = _insist(lambda: self._registry.load(parent), lambda: OPEN_SECONDS)
        if json.dumps(task.reference) != json.dumps(settings.task.reference):
            raise SettingsError(
                f"model: version {parent.version} of '{settings.model}' was made for another task or schema and "
                "cannot go on with this one; name another model"
            )
        return parent, state

    def record(
        self, progress: Progress, parent: ModelVersion | None, seconds: Callable[[], float]
    ) -> tuple[ModelVersion, bool, str]:
        """Register what the rounds made, and move the champion where the gate lets it.

        Args:
            progress: the rounds that are complete.
            parent: the version that they started from.
            seconds: how long a registry that does not answer is tried again; asked anew each time.

        Returns:
            The version, whether it is the champion now, and what the gate said where it closed.

        Raises:
            FlopsError: the registry did not answer in time, or somebody else went on from the parent; no version
                was made.
        """
        runs: list[str] = []
        made = _insist(lambda: self._register(progress, parent, runs), seconds)
        closed = self._gate(progress)
        if closed:
            return made, False, closed
        try:
            _insist(lambda: self._registry.set_alias(made, CHAMPION), seconds)
        except FlopsError as error:
            return made, False, f"the champion could not be moved: {error}"
        return made, True, ""

    def _register(self, progress: Progress, parent: ModelVersion | None, runs: list[str]) -> ModelVersion:
        settings, registry = self._settings, self._registry
        origin = parent or registry.none_yet(settings.model)
        for run in runs:  # An answer that was lost on its way is no reason for a second version.
            made = registry.made_by(settings.model, run)
            if made is not None:
                registry.keep_one(made, origin)
                return made
        state = progress.state
        if state is None:
            raise ValueError("there is no complete round")
        name = f"{settings.task_name} · {settings.spec.name} · {len(progress.hospitals())} hospitals"
        with registry.run(name, settings.as_parameters()) as log:
            runs.append(log.run_id)
            for record in progress.history:
                log.metrics(record.round, round_metrics(record))
            log.flush()
            lineage = lineage_of(progress, settings, parent)
            tags = {**lineage.tags(), **self._tags(progress)}
            files = {FILE: lineage.as_json()}
            return registry.register(log, settings.model, settings.task, state, tags, origin, files=files)

    def _tags(self, progress: Progress) -> dict[str, str]:
        settings = self._settings
        tags = {"strategy": settings.spec.name, "seed": str(settings.seed), "version": this_release().version}
        if settings.gate is not None:
            tags["gate"] = self._gate(progress) or "passed"
        return tags

    def _gate(self, progress: Progress) -> str:
        """Return why the version must not be the champion, or nothing."""
        gate = self._settings.gate
        if gate is None:
            return ""
        value = progress.history[-1].evaluation.metrics.get(gate.metric)
        if value is None:
            return f"gate: no hospital measured {gate.metric}; it does not become the champion"
        if not value >= gate.at_least:
            return f"gate: {gate.metric} {value:.4f} is below {gate.at_least:g}; it does not become the champion"
        return ""


def _insist(call: Callable[[], Any], seconds: Callable[[], float]) -> Any:
    """Call until the registry answers; a refusal is an answer."""
    from server.registry import ParentReplaced

    started, pause = time.monotonic(), 0.5
    while True:
        try:
            return call()
        except (ParentReplaced, SettingsError):
            raise
        except FlopsError as error:
            reason = error
        if time.monotonic() - started + pause > seconds():
            if isinstance(reason, RegistryUnreachable):
                raise FlopsError(str(reason)) from reason
            raise reason
        _log.warning("%s; trying again in %.1f s", reason, pause)
        time.sleep(pause)
        pause = min(2 * pause, 8.0)
