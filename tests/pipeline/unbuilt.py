"""Releases whose images nobody builds: what a release decides does not depend on what images hold."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pipeline.image_name import ImageName
from pipeline.images import Pushed
from pipeline.record import release_name
from pipeline.release import Release
from pipeline.source import Source
from tests.pipeline.repositories import show
from tests.pipeline.sources import change

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.settings import Settings
    from pipeline.verdict import Verdict


class Unbuilt(Release):
    """Releases images that somebody else built: their digests come from the commit."""

    SECOND = iter(range(10_000))

    def _ship(self, *_: object) -> tuple[dict[str, Pushed], None]:
        from datetime import UTC, datetime, timedelta

        tag = release_name(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=next(self.SECOND)))
        digest = f"sha256:{self.source.commit.zfill(64)}"
        return {
            side: Pushed(ImageName(self.settings.image(side), tag, digest), 1000, 1.0, 1.0)
            for side in ("server", "client")
        }, None


class Setting:
    """A source and a config repository."""

    def __init__(self, source: Path, config: Path, settings: Settings) -> None:
        self.source, self.config, self.settings = source, config, settings
        self.said: list[str] = []

    def make(self, revision: str = "HEAD", **further: bool) -> Unbuilt:
        source = Source.open(self.source, revision)
        how = {"replaces": False, "smoke": False, **further}
        return Unbuilt(self.settings, source, "tester", say=self.said.append, **how)

    def release(self, revision: str = "HEAD", **further: bool) -> Verdict:
        return self.make(revision, **further).run()

    def change(self, text: str) -> str:
        return change(self.source, {"server/round.py": text}, f"server: {text}")

    def record(self, environment: str = "dev") -> dict[str, object]:
        return json.loads(show(self.config, f"{environment}/release.json"))
