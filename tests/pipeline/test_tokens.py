"""A registry that sends to a token service, as Harbor does: releases, rights, refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.pipeline.places import Place
from tests.pipeline.registry_server import PASSWORD, USER, RegistryServer
from tests.pipeline.repositories import add_commit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Ended

pytestmark = [pytest.mark.docker, pytest.mark.registry]


@pytest.fixture
def place(
    tmp_path: Path, token_registry: RegistryServer, flops: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> Place:
    return Place(tmp_path, token_registry, flops, monkeypatch)


def _account(place: Place, name: str, *rights: str) -> None:
    assert place.registry.tokens is not None
    place.registry.tokens.accounts[name] = (PASSWORD, set(rights))
    place.set(HARBOR_USERNAME=name)


def test_a_release_and_the_bytes_as_the_registry_tells_them(place: Place) -> None:
    place.released()
    place.change("2")
    again = place.released()
    assert again["outcome"] == "released"
    assert 0 < again["images"]["server"]["bytes"] < 1_000
    assert place.registry.tokens is not None
    assert any(f"account={quote(USER)}" in path for path in place.registry.tokens.asked)


def test_a_wrong_password(place: Place) -> None:
    place.set(HARBOR_PASSWORD="wrong")  # noqa: S106
    place.fails(2, "it does not accept the account; check HARBOR_USERNAME and HARBOR_PASSWORD")


@pytest.mark.parametrize("rights", [("pull",), ()])
def test_a_robot_without_the_right_to_push(place: Place, rights: tuple[str, ...]) -> None:
    _account(place, "robot$flops+reader", *rights)
    place.fails(2, "the account may not do this in project 'flops'; give the robot the rights to pull and push there")


def test_a_project_that_is_not_there(place: Place) -> None:
    place.set(IMAGE_REPO="other")
    manifest = place.manifest(place.registry.host).replace("/flops/", "/other/")
    add_commit(place.config, {"dev/cronjob.yaml": manifest}, "other")
    place.fails(2, "the account may not do this in project 'other'; give the robot the rights to pull and push there")


class TestDoctor:
    def look(self, place: Place, flops: Callable[..., Ended]) -> dict[str, tuple[str, str]]:
        checks = flops("doctor", "--source", place.source, "--json").json["checks"]
        return {check["what"]: (check["result"], check["found"]) for check in checks}

    def test_rights(self, place: Place, flops: Callable[..., Ended]) -> None:
        found = self.look(place, flops)
        assert found["login"] == ("passed", f"as {USER}")
        assert found["push right"] == ("passed", f"may push to {place.registry.host}/flops/{{server,client}}")
        _account(place, "robot$flops+reader", "pull")
        assert self.look(place, flops)["push right"] == (
            "FAILED",
            f"the account may not push to {place.registry.host}/flops/server; give the robot the rights to pull and "
            "push, and make the project if there is none",
        )
        place.set(HARBOR_PASSWORD="wrong")  # noqa: S106
        assert self.look(place, flops)["login"][0] == "FAILED"
