"""How a release ended: for people, for machines, and for GitHub's summary."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.images import Pushed
    from pipeline.record import ReleaseRecord
    from pipeline.smoke import SmokeResult

RELEASED, UNCHANGED, SUPERSEDED, HELD, PLANNED = "released", "unchanged", "superseded", "held", "planned"
"""The outcomes that end with exit code 0."""

FAILED = "failed"
"""The one that does not."""


@dataclass(frozen=True)
class Verdict:
    """How a release ended.

    Attributes:
        outcome: released, unchanged, superseded, held, planned (a dry run), or failed.
        reason: why nothing was changed, in a line; empty where something was.
        environment: the folder of the config repository; empty where the settings failed.
        commit: the source commit; empty where it was not found.
        record: the release that the environment runs now, or would; None where it never had one.
        config_commit: the commit that was pushed to the config repository; empty where none was.
        pushed: both images by side; empty where none was built.
        smoke: how the trial federation ended; None where it did not run.
        seconds: by step.
        diff: what a dry run would commit.
    """

    outcome: str
    reason: str
    environment: str
    commit: str
    record: ReleaseRecord | None = None
    config_commit: str = ""
    pushed: Mapping[str, Pushed] = field(default_factory=dict)
    smoke: SmokeResult | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    diff: str = ""

    @property
    def line(self) -> str:
        """Say it in a line."""
        if self.outcome == RELEASED and self.record is not None:
            return f"{self.environment} runs release {self.record.release} of commit {self.commit[:12]} from now on"
        return f"{self.outcome}: {self.reason}"

    def rows(self) -> list[tuple[str, str]]:
        """Return what was found out, as name and value."""
        rows = [("outcome", self.outcome)]
        rows += [(n, v) for n, v in (("environment", self.environment), ("commit", self.commit)) if v]
        if self.record is not None:
            rows += [("release", self.record.release), ("protocol", str(self.record.protocol))]
        for side, pushed in self.pushed.items():
            rows.append((f"{side} image", str(pushed.image)))
            times = f"built in {pushed.build_seconds:.1f} s, pushed in {pushed.push_seconds:.1f} s"
            rows.append(("", f"{pushed.size / 1000:.0f} kB transferred; {times}"))
        if self.record is not None and self.outcome == RELEASED:
            rows += [("smoke federation", self.record.smoke), ("previous release", self.record.previous or "none")]
        if self.config_commit:
            rows.append(("config commit", self.config_commit))
        if self.seconds:
            rows.append(("seconds", ", ".join(f"{step} {value:.1f}" for step, value in self.seconds.items())))
        if self.reason:
            rows.append(("reason", self.reason))
        return rows

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "outcome": self.outcome,
            "reason": self.reason,
            "environment": self.environment or None,
            "commit": self.commit or None,
            "release": self.record.release if self.record else None,
            "protocol": self.record.protocol if self.record else None,
            "previous": self.record.previous if self.record else None,
            "config_commit": self.config_commit or None,
            "images": {
                side: {
                    "image": str(pushed.image),
                    "digest": pushed.image.digest,
                    "bytes": pushed.size,
                    "build_seconds": round(pushed.build_seconds, 2),
                    "push_seconds": round(pushed.push_seconds, 2),
                }
                for side, pushed in self.pushed.items()
            },
            "smoke": str(self.smoke) if self.smoke else None,
            "seconds": {step: round(value, 2) for step, value in self.seconds.items()},
            **({"diff": self.diff} if self.outcome == PLANNED else {}),
        }

    def as_markdown(self) -> str:
        """Return a table for GitHub's step summary."""
        lines = [f"### {self.line}", "", "| | |", "| --- | --- |"]
        lines += [f"| {name} | {value.replace('|', chr(92) + '|')} |" for name, value in self.rows()]
        return "\n".join(lines) + "\n\n"
