"""Jobs and the registry: two at once, one that is away for a while, one that stays away."""

from __future__ import annotations

import pytest

from tests.federation.processes import NAMES, Federation, cleaned, wait_for
from tests.workers import free_port

pytestmark = [pytest.mark.xdist_group("crowd-2"), pytest.mark.federation]


@pytest.fixture(scope="module")
def village(tmp_path_factory, materials):
    """Another federation with one hospital, at another port."""
    with cleaned(Federation(tmp_path_factory.mktemp("village"), materials)) as found:
        found.start_hospital("doctor").wait_for("waiting for it")
        yield found


def rounds_done(folder, *jobs):
    """Wait until jobs have done their rounds and hold before they register."""

    def happened():
        assert all(job.ended is None for job in jobs), [job.text for job in jobs]
        return len(list(folder.glob("reached-*"))) == len(jobs)

    wait_for(happened, "the rounds are done")


def two_at_once(crowd, village, registry, folder):
    """Run two jobs that both have done their rounds before either registers; returns how they ended."""
    folder.mkdir()
    jobs = [
        crowd.start_job(registry, NAMES, f"hold-record={folder}:60", min_hospitals=4),
        village.start_job(registry, ["doctor"], f"hold-record={folder}:60", min_hospitals=1),
    ]
    rounds_done(folder, *jobs)
    (folder / "go").touch()
    return sorted((job.end() for job in jobs), key=lambda ended: ended.code)


def check(first, second, parent):
    """Check that one job has registered, and the other says why it has not; returns the version."""
    assert (first.code, second.code) == (0, 1), first.log + second.log
    version = first.json["version"]
    assert first.json["parent"] == parent < version
    assert second.json["version"] is None
    assert f"parent version {parent} is no longer the newest, version {version} is" in second.json["reason"]
    assert second.json["hospitals"], "its rounds were done"
    return version


def test_of_two_jobs_at_once_one_registers(crowd, village, registry, tmp_path):
    # The first versions of a model, and later ones.
    for version in (1, 2):
        made = check(*two_at_once(crowd, village, registry, tmp_path / f"go-{version}"), version - 1)
        assert registry.versions() == list(range(1, version + 1))
        assert made == version


def test_of_two_jobs_at_once_one_registers_at_a_server(crowd, village, mlflow, tmp_path):
    made = [0]
    for turn in (1, 2):
        # The number of a version that was taken back is not given out again.
        made.append(check(*two_at_once(crowd, village, mlflow.uri, tmp_path / f"go-{turn}"), made[-1]))
        assert mlflow.registry.versions() == made[1:]
    # A version that was taken back leaves no alias behind: the champion is one that is there.
    assert mlflow.registry.rows("select version from registered_model_aliases") == [(made[-1],)]


def test_a_registry_that_is_away_is_tried_again(crowd, mlflow, tmp_path):
    folder = tmp_path / "go"
    folder.mkdir()
    job = crowd.start_job(mlflow.uri, NAMES, f"hold-record={folder}:60", min_hospitals=4)
    rounds_done(folder, job)
    mlflow.kill()
    (folder / "go").touch()
    job.wait_for("trying again")
    mlflow.start()
    ended = job.end()
    assert ended.code == 0, ended.log
    assert (ended.json["version"], ended.json["champion"]) == (1, True)
    assert mlflow.registry.versions() == [1]
    # And one that stays away: nothing is half registered.
    for file in folder.iterdir():
        file.unlink()
    job = crowd.start_job(mlflow.uri, NAMES, f"hold-record={folder}:6", min_hospitals=4)
    rounds_done(folder, job)
    mlflow.kill()
    (folder / "go").touch()
    ended = job.end()
    assert ended.code == 1, ended.log
    assert "trying again" in ended.log
    assert ended.json["outcome"] == "failed"
    assert "registry failed" in ended.json["reason"]
    assert ended.json["version"] is None
    assert mlflow.registry.versions() == [1]
    assert mlflow.registry.rows("select version from registered_model_aliases") == [(1,)]
    # It is back, and the next job goes on from what is there.
    mlflow.start()
    ended = crowd.run_job(mlflow.uri, NAMES, min_hospitals=4)
    assert (ended.code, ended.json["version"], ended.json["parent"]) == (0, 2, 1), ended.log


def test_a_registry_that_is_not_there_ends_a_job_before_its_rounds(crowd):
    ended = crowd.run_job(f"http://127.0.0.1:{free_port()}", NAMES, "opens-for=3", min_hospitals=4)
    assert ended.code == 1, ended.log
    assert "does not answer" in ended.json["reason"]
    assert ended.json["hospitals"] == []
