"""What server and hospital must agree on before they exchange weights, and who says it.

The contract is the number of the protocol, the task, its schema, the model's signature, and the release of the side
that speaks. It travels with every message, so that a hospital which was started anew knows whom it hears.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fl import __version__
from fl.data.schema import schema_to_dict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fl.tasks.base import Task

PROTOCOL = 1
"""The protocol's number: raised when a message changes so that the other side must know."""

CHAMPION = "champion"
"""The model registry's alias of the version that is served."""

ABANDONED = "abandoned"
"""The tag of a version that was taken back; its value says why."""

GATE, PASSED = "gate", "passed"
"""The tag that holds what a version's gate said, and what it says where it opens."""

_PREFIX = "contract."


@dataclass(frozen=True)
class Release:
    """Which code speaks.

    Attributes:
        version: FLOps' version.
        commit: the source commit, hexadecimal; empty where nobody said.
        image: the container image's digest, ``sha256:…``; empty outside of one.
    """

    version: str = __version__
    commit: str = ""
    image: str = ""

    def __str__(self) -> str:
        """Name the release in a line for people."""
        told = [self.commit[:12], self.image[:19]]
        return " ".join([self.version, *(f"({part})" for part in told if part)])


def this_release() -> Release:
    """Return the release of this process: its image sets FLOPS_COMMIT, its deployment FLOPS_IMAGE.

    The second is the image's name with its digest, or the digest alone; a name without one tells nothing.
    """
    digest = os.environ.get("FLOPS_IMAGE", "").rpartition("@")[2]
    return Release(commit=os.environ.get("FLOPS_COMMIT", ""), image=digest if digest.startswith("sha256:") else "")


@dataclass(frozen=True)
class Contract:
    """What one side says of itself.

    Attributes:
        protocol: the number of the protocol it speaks; it also understands the one before.
        task: the task's name.
        schema: the digest of what an example looks like, see `schema_digest`.
        signature: the model's, see `fl.model.ModelState.signature`; empty where it is not known yet.
        release: its code.
    """

    protocol: int
    task: str
    schema: str
    signature: str
    release: Release


def schema_digest(task: Task) -> str:
    """Return the SHA-256 of a task's schema: two sides with it read the same columns in the same way."""
    described = json.dumps(schema_to_dict(task.schema), sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()


def this_contract(task: Task, signature: str = "") -> Contract:
    """Return what this process says of itself."""
    return Contract(PROTOCOL, task.name, schema_digest(task), signature, this_release())


def contract_entries(contract: Contract) -> dict[str, str | int]:
    """Write a contract as entries of a message's settings."""
    plain = asdict(contract)
    release = plain.pop("release")
    return {_PREFIX + name: value for name, value in {**plain, **release}.items()}


def read_contract(entries: Mapping[str, Any]) -> Contract | None:
    """Read a contract from a message's settings; None where there is none or it cannot be read."""
    told = {name.removeprefix(_PREFIX): value for name, value in entries.items() if name.startswith(_PREFIX)}
    try:
        return Contract(
            int(told["protocol"]),
            str(told.get("task", "")),
            str(told.get("schema", "")),
            str(told.get("signature", "")),
            Release(str(told.get("version", "?")), str(told.get("commit", "")), str(told.get("image", ""))),
        )
    except (KeyError, TypeError, ValueError):
        return None


def disagreement(server: Contract | None, client: Contract) -> str | None:
    """Return why the two cannot work together, in one line that says what to do, or None.

    Neighbouring protocols understand each other. A signature that is not known yet is not compared.
    """
    if server is None:
        return f"the server says no protocol number; this client speaks {client.protocol}: upgrade the server"
    if abs(server.protocol - client.protocol) > 1:
        older = "client" if client.protocol < server.protocol else "server"
        return (
            f"the server speaks protocol {server.protocol} (release {server.release}), the client "
            f"{client.protocol} (release {client.release}): upgrade the {older}"
        )
    if server.task != client.task:
        return f"the server's task is '{server.task}', the client's '{client.task}': set the same task"
    if server.schema != client.schema:
        return (
            f"task '{client.task}' has another schema at the server ({server.schema[:12]}) than at the client "
            f"({client.schema[:12]}): use the federation's schema file"
        )
    if server.signature and client.signature and server.signature != client.signature:
        return (
            f"the model of task '{client.task}' has other arrays at the server (release {server.release}, signature "
            f"{server.signature[:12]}) than at the client (release {client.release}, {client.signature[:12]}): "
            "upgrade the older of the two"
        )
    return None
