"""A release: from a commit to the manifest that the next round runs."""

from __future__ import annotations

import difflib
import hashlib
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fl.errors import FlopsError, SettingsError
from pipeline.config_repo import (
    Change,
    ConfigRepo,
    Unchanged,
    hold_file,
    manifest_file,
    release_file,
)
from pipeline.image_name import ImageName
from pipeline.manifest import ManifestError, find_image, set_image
from pipeline.record import ReleaseRecord, release_name
from pipeline.settings import SIDES
from pipeline.turns import take_turn
from pipeline.verdict import HELD, PLANNED, RELEASED, SUPERSEDED, UNCHANGED, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pipeline.engine import DockerClient
    from pipeline.images import Pushed
    from pipeline.settings import Settings
    from pipeline.smoke import InUse, SmokeResult
    from pipeline.source import Source

    Say = Callable[[str], None]

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
        registry_variables: how the model registry in use is reached.
    """

    settings: Settings
    source: Source
    by: str
    replaces: bool
    smoke: bool
    say: Say
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
                before = self._look(repo)
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
                before = self._look(repo)
            except Unchanged as why:
                return self._unchanged(why, repo)
            pushed, result = self._ship(repo, before, clock)
            with clock.step("waiting"):
                turn.wait(self.say)
            with clock.step("bump"):
                return self._bump(repo, pushed, result, clock)

    def _look(self, repo: ConfigRepo) -> ReleaseRecord | None:
        """Find out whether there is something to do; returns the deployed release.

        Raises:
            Unchanged: there is not; its arguments are the outcome and the reason.
            FlopsError: the release could not be made.
        """
        environment, source = self.environment, self.source
        before = repo.release(environment)
        manifest = repo.read(manifest_file(environment))
        if manifest is None:
            raise ManifestError(
                f"the config repository has no {manifest_file(environment)}; 'flops init-config' fills an empty one"
            )
        find_image(manifest, manifest_file(environment), self.settings.container, self.settings.image("server"))
        if repo.read(hold_file(environment)) is not None:
            hold = repo.hold(environment)
            told = f"by {hold.by} since {hold.since}: {hold.reason}" if hold else ""
            raise Unchanged(HELD, f"{environment} is held {told}; 'flops resume {environment}' lets releases go on")
        if before is None:
            return None
        if before.contents == {side: self._content(side) for side in SIDES}:
            raise Unchanged(UNCHANGED, f"both images would hold what release {before.release} holds")
        relation = source.relation(before.commit)
        if relation == "older":
            raise Unchanged(
                SUPERSEDED, f"{environment} runs release {before.release} of the newer commit {before.commit[:12]}"
            )
        if relation in ("unknown", "apart") and not self.replaces:
            if source.shallow:
                raise SettingsError(
                    f"the checkout's history ends before commit {before.commit[:12]}, which {environment} runs, "
                    "and nobody knows which is newer; fetch all of it (actions/checkout: fetch-depth: 0)"
                )
            what = "is not in this repository" if relation == "unknown" else "is no ancestor of this one"
            raise SettingsError(
                f"commit {before.commit[:12]}, which {environment} runs, {what}; release one that follows it, "
                "or say --replace"
            )
        return before

    def _ship(
        self, repo: ConfigRepo, before: ReleaseRecord | None, clock: _Clock
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
                    built[side] = build(client, self.source, side, settings, tag, moment, self.say)
            with clock.step("push"):
                pushed = {side: push(client, side, settings, tag, built[side], self.say) for side in SIDES}
            if not self.smoke:
                return pushed, None
            with clock.step("smoke federation"):
                return pushed, self._try(client, repo, before, pushed)

    def _try(
        self, client: DockerClient, repo: ConfigRepo, before: ReleaseRecord | None, pushed: Mapping[str, Pushed]
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
        return smoke(client, images, current, settings.smoke_seconds, self.say, self._in_use(repo))

    def _in_use(self, repo: ConfigRepo) -> InUse | None:
        """Return the environment's federation file and the way to its registry, where both are there."""
        import tomllib

        from pipeline.smoke import IN_USE, InUse

        text = repo.read(f"{self.environment}/federation.toml")
        if text is None or not self.settings.tracking:
            return None
        files = {f"{IN_USE}/federation.toml": text.decode()}
        schema = tomllib.loads(text.decode()).get("schema")
        content = repo.read(f"{self.environment}/{schema}") if schema else None
        if content is not None:
            files[f"{IN_USE}/{schema}"] = content.decode()
        return InUse(files, {**self.registry_variables, "MLFLOW_TRACKING_URI": self.settings.tracking})

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
            contents={side: self._content(side) for side in SIDES},
            smoke=smoke,
            by=self.by,
            previous=before.release if before else "",
        )

    def _change(self, repo: ConfigRepo, record: ReleaseRecord) -> Change:
        environment = self.environment
        file = manifest_file(environment)
        content = set_image(repo.read(file) or b"", file, self.settings.container, record.images["server"])
        return Change(
            {file: content, release_file(environment): record.to_json()},
            f"{environment}: release {record.release}\n\n{record.subject}",
            {
                "Source-Commit": record.commit,
                "Server-Image": str(record.images["server"]),
                "Client-Image": str(record.images["client"]),
                "Smoke-Federation": record.smoke,
                "Released-By": record.by,
            },
        )

    def _content(self, side: str) -> str:
        """Return the digest of what makes a side's image: the commit's files, and what they are built on."""
        settings = self.settings
        told = "\n".join((self.source.content(side), settings.base_image, settings.pip_flags))
        return hashlib.sha256(told.encode()).hexdigest()

    def _unchanged(self, why: Unchanged, repo: ConfigRepo) -> Verdict:
        outcome, reason = why.args
        return Verdict(outcome, reason, self.environment, self.source.commit, repo.release(self.environment))


def _diff(path: str, before: bytes | None, after: bytes | None) -> str:
    old, new = ((content or b"").decode(errors="replace").splitlines(keepends=True) for content in (before, after))
    lines = difflib.unified_diff(
        old,
        new,
        f"a/{path}" if before is not None else "/dev/null",
        f"b/{path}" if after is not None else "/dev/null",
    )
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
