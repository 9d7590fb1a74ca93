"""What a job reads from the registry and leaves in it.

It reads the parent at its start and the champion before the last round's evaluation; it leaves one version at its
end, and moves the champion where the gate lets it.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fl.errors import FlopsError, RegistryUnreachable, SettingsError
from fl.protocol import CHAMPION, GATE, PASSED, this_release
from server.gate import MEASURED_BY, STAYS, Opponent, judge
from server.lineage import FILE, lineage_of
from server.metrics import round_metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from fl.model import ModelState
    from server.gate import Verdict
    from server.job import Progress
    from server.registry import ModelVersion, Registry
    from server.settings import FederationSettings

OPEN_SECONDS = 20.0
"""How long a registry that does not answer is tried again at the start of a job."""

FETCHING = "champion"
"""The name of the thread that fetches the champion, which may hang when the job is over."""

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
        self._opponent: Opponent | None = None
        self._signature = ""

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

            first = initial_state(settings.task, settings.seed)
            self._signature = first.signature
            return None, first
        task, state = _insist(lambda: self._registry.load(parent), lambda: OPEN_SECONDS)
        self._signature = state.signature
        if json.dumps(task.reference) != json.dumps(settings.task.reference):
            raise SettingsError(
                f"model: version {parent.version} of '{settings.model}' was made for another task or schema and "
                "cannot go on with this one; name another model"
            )
        return parent, state

    def champion(self) -> ModelState | None:
        """Return the served model's weights, to be compared with; None where there is no gate, or none to compare.

        What goes wrong is remembered for the gate and stops no round.
        """
        if self._settings.gate is None:
            return None
        found: list[Opponent] = [Opponent()]
        loaded: list[ModelState] = []

        def fetch() -> None:
            try:
                self._fetch_champion(found, loaded)
            except Exception as error:  # Whatever is stored there.
                _log.debug("the champion could not be fetched", exc_info=True)
                told = str(error) if isinstance(error, FlopsError) else f"{type(error).__name__}: {error}"
                found.append(replace(found[-1], problem=" ".join(told.split())))

        # In a thread: a registry that accepts connections and never answers would hold the round.
        thread = threading.Thread(target=fetch, daemon=True, name=FETCHING)
        thread.start()
        thread.join(OPEN_SECONDS)
        late = f"the registry did not give it within {OPEN_SECONDS:g} s"
        self._opponent = replace(found[-1], problem=late) if thread.is_alive() else found[-1]
        return loaded[0] if loaded and not self._opponent.problem else None

    def _fetch_champion(self, found: list[Opponent], loaded: list[ModelState]) -> None:
        version = self._find_champion()
        found.append(_opponent(version))
        if version is None:
            return
        task, state = self._registry.load(version)
        if json.dumps(task.reference) != json.dumps(self._settings.task.reference):
            raise FlopsError("it is of another task or schema")
        if self._signature and state.signature != self._signature:
            raise FlopsError("its model has other arrays")
        loaded.append(state)

    def _find_champion(self) -> ModelVersion | None:
        return self._registry.aliased(self._settings.model, CHAMPION)

    def _look(self) -> Opponent:
        return _opponent(self._find_champion())

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
        from server.registry import AliasMoved

        opponent = self._opponent or _insist(self._look, seconds)
        verdict = self._judge(progress, opponent)
        runs: list[str] = []
        made = _insist(lambda: self._register(progress, parent, verdict, runs), seconds)
        if verdict is not None and not verdict.passed:
            return made, False, verdict.reason
        try:
            _insist(lambda: self._registry.move_alias(made, CHAMPION, opponent.version), seconds)
        except AliasMoved as error:
            reason = f"gate: {error}; {STAYS}"
            with suppress(FlopsError):
                self._registry.set_tag(made, GATE, reason)
            return made, False, reason
        except FlopsError as error:
            return made, False, f"the champion could not be moved: {error}"
        return made, True, ""

    def _judge(self, progress: Progress, opponent: Opponent) -> Verdict | None:
        gate, history = self._settings.gate, progress.history
        if gate is None:
            return None
        return judge(gate, history[-1], opponent, complete=len(history) == self._settings.rounds)

    def _register(
        self, progress: Progress, parent: ModelVersion | None, verdict: Verdict | None, runs: list[str]
    ) -> ModelVersion:
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
            lineage = lineage_of(progress, settings, parent, verdict)
            tags = {**lineage.tags(), **self._tags(progress, verdict)}
            files = {FILE: lineage.as_json()}
            return registry.register(log, settings.model, settings.task, state, tags, origin, files=files)

    def _tags(self, progress: Progress, verdict: Verdict | None) -> dict[str, str]:
        settings = self._settings
        # Where it was compared, those count who decided: so many must decide again.
        compared = len(verdict.hospitals) if verdict is not None else 0
        measured = compared or sum(bool(found.examples) for found in progress.history[-1].sites.values())
        tags = {
            "strategy": settings.spec.name,
            "seed": str(settings.seed),
            "version": this_release().version,
            MEASURED_BY: str(measured),
        }
        if verdict is not None:
            tags[GATE] = verdict.reason or PASSED
        return tags


def _opponent(champion: ModelVersion | None) -> Opponent:
    if champion is None:
        return Opponent()
    told = champion.tags.get(MEASURED_BY) or champion.tags.get("clients", "")
    return Opponent(champion.version, int(told) if told.isdecimal() else 0)


def _insist(call: Callable[[], Any], seconds: Callable[[], float]) -> Any:
    """Call until the registry answers; a refusal is an answer."""
    from server.registry import AliasMoved, ParentReplaced

    started, pause = time.monotonic(), 0.5
    while True:
        try:
            return call()
        except (AliasMoved, ParentReplaced, SettingsError):
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
