"""What the tests of whole federations share: keys, certificates and data of a session, hospitals of a module."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner

from tests.federation.processes import NAMES, Federation, MlflowServer, Registry, cleaned, make_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


EXAMPLES = 100
"""How many examples each hospital has: training is not what is tested."""


def invoke(*arguments: object) -> None:
    """Run a command of FLOps in this process."""
    from fl.cli import flops

    done = CliRunner().invoke(flops, [str(a) for a in arguments], obj={"debug": False}, catch_exceptions=False)
    assert done.exit_code == 0, done.output


@pytest.fixture(scope="session")
def materials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates for localhost, a pair of keys for each hospital, and the digits dealt to them."""
    folder = tmp_path_factory.mktemp("materials")
    invoke("server", "certificate", "--host", "localhost", "--out", folder / "tls")
    invoke("deal", "digits", "--clients", len(NAMES), "--out", folder / "data")
    for file in (folder / "data").glob("*.npz"):
        with np.load(file) as dealt:
            few = {name: array[:EXAMPLES] for name, array in dealt.items()}
        np.savez(file, **few)
    for name in NAMES:
        make_key(folder, name)
    return folder


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty registry's database, to be copied: making one takes MLflow seconds."""
    from server.registry import _make_database

    path = tmp_path_factory.mktemp("tables") / "mlflow.db"
    _make_database(path)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("delete from experiments")
    return path


@pytest.fixture
def registry(tmp_path: Path, tables: Path) -> Registry:
    """An empty embedded registry."""
    return Registry(tmp_path / "registry", tables)


@pytest.fixture
def mlflow(tmp_path: Path, tables: Path) -> Iterator[MlflowServer]:
    """An MLflow server with an empty registry."""
    found = MlflowServer(tmp_path / "mlflow", tables)
    try:
        found.start()
        yield found
    finally:
        found.kill()


@pytest.fixture
def federation(tmp_path: Path, materials: Path) -> Iterator[Federation]:
    """A federation of one's own, without hospitals."""
    with cleaned(Federation(tmp_path / "federation", materials)) as found:
        yield found


@pytest.fixture(scope="session")
def _crowd(tmp_path_factory: pytest.TempPathFactory, materials: Path) -> Iterator[Federation]:
    with cleaned(Federation(tmp_path_factory.mktemp("crowd"), materials)) as found:
        for name in NAMES:
            found.start_hospital(name)
        for process in found.running:
            process.wait_for("waiting for it")
        yield found


@pytest.fixture
def crowd(_crowd: Federation, registry: Registry) -> Iterator[Federation]:
    """Four hospitals that behave and stay from test to test; list them all, or they come back after a pause.

    What a test starts besides is ended with it. At its end the four must still be there.
    """
    for process in _crowd.running:
        process.look_away()
    yield _crowd
    for process in _crowd.running[len(NAMES) :]:
        process.clean_up()
    del _crowd.running[len(NAMES) :]
    for process in _crowd.running:
        assert process.ended is None, process.text
        assert "Traceback" not in process.text
