"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_new(path: Path, content: bytes, mode: int, *, replace: bool = False) -> None:
    """Write a file under another name, bring it to the disk, and give it its name.

    Args:
        path: the file.
        content: its bytes.
        mode: its permissions, such as 0o600.
        replace: take the place of a file that is there.

    Raises:
        FileExistsError: there is one, and it must stay.
        OSError: it cannot be written.
    """
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        if replace:
            Path(draft).replace(path)
        else:
            os.link(draft, path)
    finally:
        Path(draft).unlink(missing_ok=True)
