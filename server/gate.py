"""The gate between a candidate, which a job has made, and the champion, which is served.

Both are measured by the same hospitals on what each held out, in one message each. The rule says how good the
candidate must be, over all of their examples together and at every single hospital. Nothing is known of a comparison
that did not take place, so the gate stays closed then.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from fl.console import count
from server.records import pool_evaluations

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fl.settings_file import SettingsFile
    from fl.tasks.base import Task
    from fl.training import Evaluation
    from server.records import RoundRecord

LOSS = "loss"
"""What can be judged besides the task's metrics; lower is better."""

MEASURED_BY = "measured_by"
"""The tag that says how many hospitals measured a version when it was made."""

STAYS = "it does not become the champion"

_EPSILON = 1e-9
"""What sums of hospitals' numbers may be off by."""


@dataclass(frozen=True)
class Gate:
    """What a candidate must reach to become the champion.

    Attributes:
        metric: one of the task's metrics, or its loss.
        lower: less of it is better.
        least: the worst value that passes, over all hospitals' examples; None asks for none.
        gain: by how much it must be better than the champion, over all; below 0 it may be worse by so much.
        hospital_loss: by how much it may be worse than the champion at any single hospital.
        hospitals: how many hospitals must have measured it, and both where there is a champion.
        fewer: fewer hospitals than measured the champion when it was made may decide.
    """

    metric: str
    lower: bool = False
    least: float | None = None
    gain: float = 0.0
    hospital_loss: float = math.inf
    hospitals: int = 1
    fewer: bool = False


@dataclass(frozen=True)
class Opponent:
    """The champion that a candidate is compared with.

    Attributes:
        version: its number; 0 where there is none yet.
        hospitals: how many had measured it when it was made; 0 where nobody said.
        problem: why it cannot be measured, or is not known; an empty text where all is well.
    """

    version: int = 0
    hospitals: int = 0
    problem: str = ""


@dataclass(frozen=True)
class Verdict:
    """What the gate says of a candidate.

    Attributes:
        reason: why it stays closed; an empty text where it opens.
        metric: what was judged.
        champion: the version that it was compared with; 0 where there was none.
        candidate_value: the candidate's, over all examples of the hospitals that measured both; None where none did.
        champion_value: the champion's, over the same.
        hospitals: both, by hospital.
    """

    reason: str
    metric: str
    champion: int = 0
    candidate_value: float | None = None
    champion_value: float | None = None
    hospitals: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether the candidate may become the champion."""
        return not self.reason

    def as_dict(self) -> dict[str, Any]:
        """Return it as the lineage holds it."""
        return {"passed": self.passed, **asdict(self)}


def read_gate(table: SettingsFile, task: Task) -> Gate:
    """Read the rule from a federation's file.

    Raises:
        SettingsError: a key or value cannot be used.
    """
    metric = table.text("metric", "accuracy" if "accuracy" in task.metrics else LOSS)
    if metric not in {*task.metrics, LOSS}:
        raise table.wrong("metric", f"'{metric}': the task measures {', '.join([*task.metrics, LOSS])}")
    lower = table.truth("lower_is_better", metric == LOSS)
    floor = "at_most" if lower else "at_least"
    wrong_way = "at_least" if lower else "at_most"
    if table.has(wrong_way):
        better, other = ("less", "false") if lower else ("more", "true")
        raise table.wrong(wrong_way, f"{better} of {metric} is better; say {floor}, or lower_is_better = {other}")
    if table.has("least_gain") and table.has("allowed_loss"):
        raise table.wrong("allowed_loss", "least_gain is there, too; one of them says what the candidate must reach")
    gain = table.number("least_gain", 0.0, least=0) - table.number("allowed_loss", 0.0, least=0)
    return Gate(
        metric,
        lower,
        table.number(floor) if table.has(floor) else None,
        gain,
        table.number("allowed_hospital_loss", least=0) if table.has("allowed_hospital_loss") else math.inf,
        table.whole("min_hospitals", 1, least=1),
        table.truth("allow_fewer_hospitals", default=False),
    )


def judge(gate: Gate, record: RoundRecord, opponent: Opponent, *, complete: bool = True) -> Verdict:
    """Say whether a candidate may become the champion.

    Args:
        gate: the rule.
        record: the candidate's last round, with what hospitals measured of it and of the champion.
        opponent: the champion.
        complete: the job got as far as the comparison.
    """
    measured = {name: found for name, found in record.sites.items() if found.examples}
    both = {
        name: (measured[name], found)
        for name, found in record.champion.items()
        if name in measured and found.examples == measured[name].examples  # On the same, or it is no comparison.
    }
    pair = [pool_evaluations(side) for side in zip(*both.values(), strict=True)] if both else []
    ours, theirs = (_value(gate, side) for side in pair) if pair else (None, None)
    reason = _alone(gate, record, len(measured))
    if not reason and (opponent.version or opponent.problem):
        reason = _problem(gate, opponent, len(both), complete=complete)
        if not reason and ours is not None and theirs is not None:
            reason = _worse(gate, ours, theirs, opponent.version) or _worse_somewhere(gate, both, opponent.version)
    return Verdict(
        f"gate: {reason}; {STAYS}" if reason else "",
        gate.metric,
        opponent.version,
        ours,
        theirs,
        {name: {"candidate": _value(gate, c), "champion": _value(gate, o)} for name, (c, o) in both.items()},
    )


def _alone(gate: Gate, record: RoundRecord, measured: int) -> str:
    """Say what is wrong with the candidate by itself."""
    if not measured or (gate.metric != LOSS and gate.metric not in record.evaluation.metrics):
        return f"no hospital measured {gate.metric}"
    value = _value(gate, record.evaluation)
    if gate.least is not None and not _better(gate, value, gate.least) >= -_EPSILON:
        return f"{gate.metric} {value:.4f} is {'above' if gate.lower else 'below'} {gate.least:g}"
    if measured < gate.hospitals:
        return f"{count(measured, 'hospital')} measured it, {gate.hospitals} are needed"
    return ""


def _problem(gate: Gate, opponent: Opponent, both: int, *, complete: bool) -> str:
    """Say why the two cannot be compared."""
    champion = f"the champion (version {opponent.version})" if opponent.version else "the champion"
    if opponent.problem:
        return f"{champion} cannot be compared with: {opponent.problem}"
    if not complete:
        return f"the job ended before it was compared with {champion}"
    if both < gate.hospitals:
        return f"{count(both, 'hospital')} compared it with {champion}, {gate.hospitals} are needed"
    if both < opponent.hospitals and not gate.fewer:
        return (
            f"{count(both, 'hospital')} compared it with {champion}, which {opponent.hospitals} had measured; "
            "allow_fewer_hospitals = true lets them decide"
        )
    return ""


def _worse(gate: Gate, ours: float, theirs: float, version: int, where: str = "") -> str:
    gain, needed = _better(gate, ours, theirs), -gate.hospital_loss if where else gate.gain
    if gain >= needed - _EPSILON:
        return ""
    told = f"{where}{gate.metric} {ours:.4f} against {theirs:.4f} of the champion (version {version})"
    if needed > 0:
        return f"{told}, and must be better by {needed:g}"
    return f"{told}, and may be worse by at most {-needed:g}" if needed else f"{told}, and may not be worse"


def _worse_somewhere(gate: Gate, both: Mapping[str, tuple[Evaluation, Evaluation]], version: int) -> str:
    found = (
        _worse(gate, _value(gate, ours), _value(gate, theirs), version, f"at {name} ")
        for name, (ours, theirs) in both.items()
    )
    return next(filter(None, found), "")


def _value(gate: Gate, evaluation: Evaluation) -> float:
    return evaluation.loss if gate.metric == LOSS else evaluation.metrics[gate.metric]


def _better(gate: Gate, one: float, other: float) -> float:
    """Return by how much one value is better than another."""
    return other - one if gate.lower else one - other
