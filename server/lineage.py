"""A version's lineage: which code, image, configuration, hospitals and parent made it.

It is stored with the version as `lineage.json`, and what one searches for as the version's tags, too.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from fl.errors import FlopsError
from fl.protocol import PROTOCOL, this_release

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fl.training import Evaluation
    from server.gate import Verdict
    from server.job import Progress
    from server.records import RoundRecord
    from server.registry import ModelVersion
    from server.settings import FederationSettings

_TAG = 4000
"""Registries keep so many letters of a tag; all of it is in the file."""

FILE = "lineage.json"
"""Its name beside the version's model."""

SCHEMA = 1
"""The schema's number: raised when a key changes its meaning or goes; new ones are ignored by older releases."""


@dataclass(frozen=True)
class Lineage:
    """What made a version.

    Attributes:
        model: the registered model's name.
        task: the task's name.
        signature: the model's, see `fl.model.ModelState.signature`.
        digest: of the weights.
        parent: the version that training started from; 0 for the task's first weights.
        commit: of the server's source.
        image: the server's image, ``sha256:…``.
        release: the release that the image is of.
        config_commit: of the config repository.
        protocol: the number of the message contract.
        rounds: how many rounds are in it.
        settings: what the federation's file said.
        hospitals: who contributed, by name: examples, rounds, the client's release, metrics on its hold-out data.
        left_out: whom a step went on without: hospital, step, reason, and whether it refused.
        metrics: of the last round, over all hospitals' hold-out data.
        gate: what the gate said, see `server.gate.Verdict`; empty where there is none.
        seconds: from the job's start to the registration.
        schema: the number of this form.
    """

    model: str
    task: str
    signature: str
    digest: str
    parent: int = 0
    commit: str = ""
    image: str = ""
    release: str = ""
    config_commit: str = ""
    protocol: int = PROTOCOL
    rounds: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    hospitals: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    left_out: Sequence[Mapping[str, Any]] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    gate: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    schema: int = SCHEMA

    def as_json(self) -> str:
        """Return it as it is stored."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    def tags(self) -> dict[str, str]:
        """Return what versions are searched for; what nobody said is left out."""
        told = {
            "task": self.task,
            "signature": self.signature,
            "digest": self.digest,
            "parent": str(self.parent or ""),
            "commit": self.commit,
            "image": self.image,
            "release": self.release,
            "config_commit": self.config_commit,
            "protocol": str(self.protocol),
            "rounds": str(self.rounds),
            "clients": str(len(self.hospitals)),
            "hospitals": ", ".join(self.hospitals)[:_TAG],
            "contributions": "; ".join(
                f"{name}: {told.get('examples', 0)} examples, client {told.get('release', 'unknown')}"
                for name, told in self.hospitals.items()
            )[:_TAG],
            "left_out": "; ".join(map(left_out_line, self.left_out))[:_TAG],
            "seconds": f"{self.seconds:.3f}" if self.seconds else "",
            "metrics": ", ".join(f"{name} {value:.4f}" for name, value in self.metrics.items()),
        }
        return {name: value for name, value in told.items() if value}


def left_out_line(left: Mapping[str, Any]) -> str:
    """Say in a line whom a step went on without, and why."""
    verb = "refused" if left.get("refused") else "left out of"
    return f"{left.get('hospital')}: {verb} {left.get('step')}: {left.get('reason')}"


def read_lineage(text: str, where: str) -> Lineage:
    """Read a stored lineage.

    Args:
        text: as `Lineage.as_json` writes it.
        where: for messages.

    Raises:
        FlopsError: it is none, or of a schema that this release does not know.
    """
    from server.lineage_form import parse

    try:
        schema = json.loads(text).get("schema")
        if schema != SCHEMA:
            raise FlopsError(f"{where}: its lineage is of schema {schema}, this release knows {SCHEMA}: upgrade it")
        known: dict[str, Any] = {**parse(text)}
        return Lineage(**known)
    except AttributeError:
        raise FlopsError(f"{where}: its lineage cannot be read: no JSON object") from None
    except (ValueError, RecursionError) as error:
        raise FlopsError(f"{where}: its lineage cannot be read: {error}") from error


def lineage_of(
    progress: Progress, settings: FederationSettings, parent: ModelVersion | None, verdict: Verdict | None = None
) -> Lineage:
    """Return the lineage of what a job's rounds made, and what the gate said of it.

    Raises:
        ValueError: there is no complete round.
    """
    state = progress.state
    if state is None or not progress.history:
        raise ValueError("there is no complete round")
    release, last = this_release(), progress.history[-1]
    named = os.environ.get("FLOPS_IMAGE", "").partition("@")[0]
    return Lineage(
        model=settings.model,
        task=settings.task_name,
        signature=state.signature,
        digest=state.digest(),
        parent=parent.version if parent is not None else 0,
        commit=release.commit,
        image=release.image,
        release=named.rpartition(":")[2] if ":" in named.rpartition("/")[2] else "",
        config_commit=os.environ.get("FLOPS_CONFIG_COMMIT", ""),
        rounds=len(progress.history),
        settings={name: str(value) for name, value in settings.as_parameters().items()},
        hospitals=with_metrics(progress.hospitals(), last),
        left_out=progress.left_out_rows(),
        metrics=measured(last.evaluation),
        gate=verdict.as_dict() if verdict is not None else {},
        seconds=round(progress.seconds(), 3),
    )


def with_metrics(hospitals: Mapping[str, Mapping[str, Any]], last: RoundRecord) -> dict[str, dict[str, Any]]:
    """Return who contributed with what the last round's model measured on each one's hold-out data."""
    found = {name: measured(last.sites[name]) if name in last.sites else {} for name in hospitals}
    return {name: {**told, **({"metrics": found[name]} if found[name] else {})} for name, told in hospitals.items()}


def measured(evaluation: Evaluation) -> dict[str, float]:
    """Return an evaluation's loss and metrics as a lineage holds them; nothing where there were no examples."""
    if not evaluation.examples:
        return {}
    return {name: round(float(value), 6) for name, value in {"loss": evaluation.loss, **evaluation.metrics}.items()}
