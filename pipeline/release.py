"""A release: from a commit to the manifest that the next round runs."""

from __future__ import annotations

import difflib
import hashlib
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fl.errors import FlopsError, SettingsError
from pipeline.config_repo import (
    Change,
    ConfigRepo,
    Unchanged,
    hold_file,
)
from pipeline.image_name import ImageName
from pipeline.record import SIDES, ReleaseRecord, release_name
from pipeline.turns import settled, take_turn
from pipeline.verdict import HELD, PLANNED, RELEASED, SUPERSEDED, UNCHANGED, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pipeline.engine import DockerClient
    from pipeline.images import Pushed
    from pipeline.settings import Settings
    from pipeline.smoke import InUse, SmokeResult
    from pipeline.source import Source
    from pipeline.turns import Turn

    Say = Callable[[str], None]

_LOOKS_BACK = 100
"""How many commits are looked at for what an amended or squashed one held."""

_LATER = "sha256:known-after-the-build"


@dataclass
class _Clock:
    """How long each step took."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started


@dataclass(frozen=True)
class Release:
    """What is to be released, and how.

    Attributes:
        settings: the pipeline's.
        source: the commit.
        by: who releases it.
        replaces: deploy even where the deployed commit is not one of this one's ancestors.
        smoke: run the trial federation.
        say: told what happens.
        rebuild: build even what did not change, without the engine's cache.
        registry_variables: how the model registry in use is reached.
    """

    settings: Settings
    source: Source
    by: str
    replaces: bool
    smoke: bool
    say: Say
    rebuild: bool = False
    registry_variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> str:
        """The folder that it goes to."""
        return self.settings.environment

    def plan(self) -> Verdict:
        """Find out what a release would commit; nothing is built, nothing changes.

        Raises:
            FlopsError: it would fail before anything is built.
        """
        with ConfigRepo.open(self.settings) as repo:
            try:
                before = self._look(repo, remembers=True)
            except Unchanged as why:
                return self._unchanged(why, repo)
            tag = release_name(datetime.now(UTC))
            images = {side: ImageName(self.settings.image(side), tag, _LATER) for side in SIDES}
            record = self._record(tag, images, "runs after the build" if self.smoke else "not run", before)
            change = self._change(repo, record)
            diff = "".join(_diff(path, repo.read(path), content) for path, content in change.files.items())
            return Verdict(PLANNED, "nothing was built", self.environment, self.source.commit, record, diff=diff)

    def run(self) -> Verdict:
        """Release the commit.

        Raises:
            FlopsError: a step failed; the config repository is as it was.
        """
        clock = _Clock()
        with take_turn(self.settings, self.environment, self.source) as turn, ExitStack() as stack:
            with clock.step("config repository"):
                repo = stack.enter_context(ConfigRepo.open(self.settings))
            try:
                before = self._look_twice(repo, turn)
            except Unchanged as why:
                verdict = self._unchanged(why, repo)
                if verdict.outcome == UNCHANGED and verdict.record is not None:
                    turn.settle(verdict.record.release)
                return verdict
            with clock.step("config repository"):
                repo.try_push()  # What is refused at the end had better be refused before the build.
            pushed, result = self._ship(self._in_use(repo), before, clock)
            with clock.step("waiting"):
                turn.wait(self.say)
            with clock.step("bump"):
                return self._bump(repo, pushed, result, clock)

    def _look_twice(self, repo: ConfigRepo, turn: Turn) -> ReleaseRecord | None:
        """Look; and where nothing would change, look again after releases of older commits that are under way.

        This commit may take back what they bring.
        """
        try:
            return self._look(repo, remembers=True)
        except Unchanged as why:
            if why.args[0] != UNCHANGED or not turn.wait(self.say):
                raise
        repo.refresh()
        return self._look(repo, remembers=True)

    def _look(self, repo: ConfigRepo, *, remembers: bool = False) -> ReleaseRecord | None:
        """Find out whether there is something to do; returns the deployed release.

        At the start it is remembered which commit was found to change nothing.

        Raises:
            Unchanged: there is not; its arguments are the outcome and the reason.
            FlopsError: the release could not be made.
        """
        environment, source = self.environment, self.source
        before = repo.release(environment)
        image = repo.server_image(environment)
        if repo.read(hold_file(environment)) is not None:
            raise Unchanged(
                HELD,
                f"{environment} is held {_told(repo, environment)}; 'flops resume {environment}' lets releases go on",
            )
        if before is None:
            return None
        if not self.rebuild and self._deployed(before, image):
            raise Unchanged(UNCHANGED, f"both images would hold what release {before.release} holds")
        relation = source.relation(before.commit)
        if relation == "older":
            raise Unchanged(
                SUPERSEDED, f"{environment} runs release {before.release} of the newer commit {before.commit[:12]}"
            )
        same = settled(self.settings, environment, before.release) if remembers else ""
        if same and not self.replaces and source.relation(same) == "older":
            raise Unchanged(
                SUPERSEDED,
                f"the newer commit {same[:12]} was found to change nothing in {environment}; --replace releases "
                "this one nevertheless",
            )
        if relation in ("unknown", "apart") and not self._follows(before):
            if source.shallow and relation == "unknown":
                raise SettingsError(
                    f"the checkout's history ends before commit {before.commit[:12]}, which {environment} runs, "
                    "and nobody knows which is newer; fetch all of it (actions/checkout: fetch-depth: 0)"
                )
            if self.replaces:
                return before
            what = "is not in this repository" if relation == "unknown" else "is no ancestor of this one"
            raise SettingsError(
                f"commit {before.commit[:12]}, which {environment} runs, {what}; release one that follows it, "
                "or say --replace"
            )
        return before

    def _deployed(self, before: ReleaseRecord, image: ImageName) -> bool:
        """Tell whether a record is what the manifest runs, in this registry, and of what this commit holds."""
        places = {side: named.repository for side, named in before.images.items()}
        return (
            image == before.images["server"]
            and places == {side: self.settings.image(side) for side in SIDES}
            and before.contents == self._contents()
        )

    def _follows(self, before: ReleaseRecord) -> bool:
        """Tell whether a commit before this one holds what a release holds: its own was amended or squashed."""
        return any(self._contents(commit) == before.contents for commit in self.source.ancestors(_LOOKS_BACK))

    def _ship(
        self, in_use: InUse | None, before: ReleaseRecord | None, clock: _Clock
    ) -> tuple[dict[str, Pushed], SmokeResult | None]:
        """Build and push both images, and try them."""
        from pipeline.engine import engine, log_in
        from pipeline.images import build, free_tag, push

        settings = self.settings
        with engine() as client:
            with clock.step("login"):
                log_in(client, settings.registry, settings.secrets)
                tag, moment = free_tag(client, settings, datetime.now(UTC))
            built = {}
            with clock.step("build"):
                for side in SIDES:
                    self.say(f"{side} image: building {settings.image(side)}:{tag}")
                    built[side] = build(
                        client, self.source, side, settings, tag, moment, self.say, cached=not self.rebuild
                    )
            with clock.step("push"):
                pushed = {side: push(client, side, settings, tag, built[side], self.say) for side in SIDES}
            if not self.smoke:
                return pushed, None
            with clock.step("smoke federation"):
                return pushed, self._try(client, in_use, before, pushed)

    def _try(
        self,
        client: DockerClient,
        in_use: InUse | None,
        before: ReleaseRecord | None,
        pushed: Mapping[str, Pushed],
    ) -> SmokeResult:
        from pipeline.engine import pull
        from pipeline.smoke import smoke

        settings, current = self.settings, None
        if before is not None and "client" in before.images:
            image = before.images["client"]
            current = f"{image.repository}@{image.digest}"
            try:
                pull(client, current, settings.registry, settings.secrets)
            except FlopsError as error:
                raise FlopsError(
                    f"the client image of the current release, {current}, cannot be pulled for the trial: {error}; "
                    "--no-smoke releases without one"
                ) from error
        images = {side: f"{p.image.repository}@{p.image.digest}" for side, p in pushed.items()}
        return smoke(client, images, current, settings.smoke_seconds, self.say, in_use)

    def _in_use(self, repo: ConfigRepo) -> InUse | None:
        """Return the environment's federation file and the way to its registry, where both are there.

        Raises:
            SettingsError: the file is not TOML, or one of the two is not text.
        """
        import tomllib

        from pipeline.model_registry import CA_VARIABLE
        from pipeline.sandbox import PLACE
        from pipeline.smoke import IN_USE, InUse

        name = f"{self.environment}/federation.toml"
        text = repo.read(name)
        if not self.smoke:
            return None
        if not self.settings.tracking:
            self.say("MLFLOW_TRACKING_URI is not set: the model in use is not tried")
            return None
        if text is None:
            self.say(f"the config repository has no {name}: the model in use is not tried")
            return None
        try:
            files = {f"{IN_USE}/federation.toml": text.decode()}
            schema = tomllib.loads(text.decode()).get("schema")
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SettingsError(f"{name} of the config repository: is not TOML: {error}") from error
        content = repo.read(f"{self.environment}/{schema}") if isinstance(schema, str) else None
        if content is not None:
            try:
                files[f"{IN_USE}/{schema}"] = content.decode()
            except UnicodeDecodeError as error:
                raise SettingsError(
                    f"{self.environment}/{schema} of the config repository: is no text in UTF-8"
                ) from error
        variables = {**self.registry_variables, "MLFLOW_TRACKING_URI": self.settings.tracking}
        if (certificate := variables.get(CA_VARIABLE)) is not None:
            try:
                files[f"{IN_USE}/ca.pem"] = Path(certificate).read_text()
            except (OSError, UnicodeDecodeError) as error:
                raise SettingsError(f"{CA_VARIABLE}: {certificate}: cannot be read as text") from error
            variables[CA_VARIABLE] = f"{PLACE}/{IN_USE}/ca.pem"
        return InUse(files, variables)

    def _bump(
        self, repo: ConfigRepo, pushed: dict[str, Pushed], result: SmokeResult | None, clock: _Clock
    ) -> Verdict:
        images = {side: p.image for side, p in pushed.items()}
        made: list[ReleaseRecord] = []

        def make(repo: ConfigRepo) -> Change:
            before = self._look(repo)
            if before is not None and before.release == images["server"].tag:
                raise FlopsError(
                    f"release {before.release} of another commit was made in the same second on another machine; "
                    "release again"
                )
            made[:] = [self._record(images["server"].tag, images, str(result or "not run"), before)]
            return self._change(repo, made[0])

        try:
            commit = repo.publish(make, say=self.say)
        except Unchanged as why:
            return replace(self._unchanged(why, repo), pushed=pushed, smoke=result, seconds=clock.seconds)
        source = self.source
        return Verdict(RELEASED, "", self.environment, source.commit, made[0], commit, pushed, result, clock.seconds)

    def _record(
        self, tag: str, images: Mapping[str, ImageName], smoke: str, before: ReleaseRecord | None
    ) -> ReleaseRecord:
        source = self.source
        return ReleaseRecord(
            release=tag,
            commit=source.commit,
            subject=source.subject,
            committed=source.committed,
            protocol=source.protocol,
            images=images,
            contents=self._contents(),
            smoke=smoke,
            by=self.by,
            previous=before.release if before else "",
        )

    def _change(self, repo: ConfigRepo, record: ReleaseRecord) -> Change:
        return Change(
            repo.with_release(self.environment, record),
            f"{self.environment}: release {record.release}\n\n{record.subject}",
            {
                "Source-Commit": record.commit,
                "Server-Image": str(record.images["server"]),
                "Client-Image": str(record.images["client"]),
                "Smoke-Federation": record.smoke,
                "Released-By": record.by,
            },
        )

    def _contents(self, commit: str = "") -> dict[str, str]:
        """Return, by side, the digest of what makes its image: a commit's files, and what they are built on."""
        settings, wheels = self.settings, ""
        if settings.wheels is not None:
            try:
                wheels = "\n".join(f"{file.name} {file.stat().st_size}" for file in sorted(settings.wheels.iterdir()))
            except OSError as error:
                raise SettingsError(f"build.wheels: {error.filename}: {error.strerror}") from error
        further = (settings.base_image, settings.pip_flags, *([wheels] if wheels else []))
        return {
            side: hashlib.sha256("\n".join((self.source.content(side, commit), *further)).encode()).hexdigest()
            for side in SIDES
        }

    def _unchanged(self, why: Unchanged, repo: ConfigRepo) -> Verdict:
        outcome, reason = why.args
        return Verdict(outcome, reason, self.environment, self.source.commit, repo.release(self.environment))


def _told(repo: ConfigRepo, environment: str) -> str:
    """Say who holds an environment, and why; a hold that cannot be read is one, too."""
    try:
        hold = repo.hold(environment)
    except SettingsError as error:
        return f"({error})"
    return f"by {hold.by} since {hold.since}: {hold.reason}" if hold else ""


def _diff(path: str, before: bytes | None, after: bytes | None) -> str:
    old, new = ((content or b"").decode(errors="replace").splitlines(keepends=True) for content in (before, after))
    lines = difflib.unified_diff(
        old,
        new,
        f"a/{path}" if before is not None else "/dev/null",
        f"b/{path}" if after is not None else "/dev/null",
    )
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
