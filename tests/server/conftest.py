"""What the server's tests share: a registry's tables, made once and copied."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def empty_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedded registry's database, made by the registry's own code, without any experiment.

    Experiments hold the absolute path of their artifacts; without one the file serves in any folder.
    """
    from server.registry import _make_database

    path = tmp_path_factory.mktemp("registry") / "mlflow.db"
    _make_database(path)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("delete from experiments")
    return path


@pytest.fixture
def tables_made_anew() -> None:
    """Asked for by tests of the making itself: their registries are made as users' are."""


@pytest.fixture(autouse=True)
def _tables_copied(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy the tables instead of making them: MLflow's migrations take a second for each new database."""
    if "here" not in request.fixturenames or "tables_made_anew" in request.fixturenames:
        return
    empty = request.getfixturevalue("empty_tables")
    monkeypatch.setattr("server.registry._make_database", lambda database: shutil.copyfile(empty, database))
