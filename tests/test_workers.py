"""What lets tests run side by side."""

import os

import pytest

from tests.workers import WORKER, free_port, lock


@pytest.mark.skipif(WORKER == "main", reason="the tests run in one process")
def test_tests_of_a_module_stay_together(request):
    """pytest-xdist keeps tests together whose names end in the same group; it says nothing where it cannot."""
    assert request.node.nodeid.endswith("@tests/test_workers.py")


def test_ports_of_workers_differ(monkeypatch):
    ranges = []
    for worker in ("gw0", "gw1", "gw7", "main"):
        monkeypatch.setattr("tests.workers.WORKER", worker)
        ranges.append({free_port() // 2000 for _ in range(50)})
    assert all(max(ports) - min(ports) <= 1 for ports in ranges)
    assert not ranges[0] & ranges[2]


def test_a_lock_is_held_by_one_process_alone():
    name = f"of-this-test-{os.getpid()}"
    with lock(name), pytest.raises(TimeoutError), lock(name).acquire(timeout=0.1):
        pass
