"""What a job's pod said at its end, as a line for people and a row for machines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pipeline.image_name import parse_image

if TYPE_CHECKING:
    from pipeline.loop.pods import Pod


def ended(pod: Pod, printed: str, last: str, *, deadline: bool) -> dict[str, Any]:
    """Return how a job's attempt ended.

    Args:
        pod: it.
        printed: what it printed on standard output.
        last: the last line that it printed at all.
        deadline: whether it was ended because it ran too long.
    """
    told = _last_object(printed)
    good = pod.exit_code == 0
    hospitals = told.get("hospitals")
    measured = told["metrics"] if isinstance(told.get("metrics"), dict) else {}
    outcome = str(told.get("outcome") or ("completed" if good else "failed"))
    reason = "it ran longer than activeDeadlineSeconds" if deadline else str(told.get("reason") or "")
    if not good and not reason:
        reason = last.strip().removeprefix("flops: ")[-300:] or "it said nothing"
    return {
        "due": pod.due.isoformat() if pod.due else "",
        "attempt": pod.attempt,
        "outcome": outcome if not deadline else "failed",
        "exit_code": pod.exit_code,
        "reason": reason,
        "model": str(told.get("model") or ""),
        "version": told.get("version") if isinstance(told.get("version"), int) else None,
        "rounds": told.get("rounds") if isinstance(told.get("rounds"), int) else 0,
        "hospitals": len(hospitals) if isinstance(hospitals, list) else 0,
        "champion": bool(told.get("champion")),
        "metrics": {str(k): float(v) for k, v in measured.items() if isinstance(v, int | float)},
        "image": pod.image,
        "config_commit": pod.commit,
        "seconds": round((pod.finished - pod.started).total_seconds(), 1) if pod.finished else 0.0,
    }


def line(row: dict[str, Any]) -> str:
    """Return the row of `ended` in a line."""
    if row["version"] is not None:
        measured = "".join(f", {name} {value:.3f}" for name, value in row["metrics"].items())
        said = (
            f"{row['outcome']} {row['model']} version {row['version']}: {row['rounds']} rounds, {row['hospitals']} "
            f"hospitals{measured}{', champion' if row['champion'] else ''}"
        )
    else:
        said = row["outcome"] + (f" with exit code {row['exit_code']}" if row["exit_code"] else "")
    reason = f": {row['reason']}" if row["reason"] else ""
    return f"{said}{reason} ({row['seconds']:.1f} s)"


def release_of(image: str) -> str:
    """Return the release that an image is of, which is its tag, or what there is of its name."""
    named = parse_image(image)
    return named.tag or named.digest[7:19] or named.repository


def is_made(image: str) -> bool:
    """Tell whether an image was made yet: the first content of a config repository names one that was not."""
    return bool(parse_image(image).digest)


def _last_object(printed: str) -> dict[str, Any]:
    for text in reversed(printed.splitlines()):
        try:
            found = json.loads(text)
        except ValueError:
            continue
        if isinstance(found, dict):
            return found
    return {}
