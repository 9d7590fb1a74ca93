"""Where a hospital's node keeps what is its own: key, receipts, state."""

from __future__ import annotations

import os
from pathlib import Path

HOME_VARIABLE = "FLOPS_CLIENT_HOME"
"""The environment variable that names the folder."""

KEY = "node.key"
RECEIPTS = "receipts.jsonl"
STATE = "state.json"


def home() -> Path:
    """Return the node's folder: the one that the environment names, or ``flops-client`` where one works."""
    return Path(os.environ.get(HOME_VARIABLE) or "flops-client")
