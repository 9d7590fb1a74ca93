"""What is asked of a registry without the engine, and over which kind of connection."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

import pytest

from fl.checks import check
from fl.errors import FlopsError
from pipeline import doctor
from pipeline.image_name import ImageName
from pipeline.registry_http import layer_sizes, speaks_tls
from pipeline.settings import read_settings
from tests.pipeline.http_server import Answers, served

if TYPE_CHECKING:
    from pipeline.settings import Settings

LAYER = "sha256:" + "a" * 64


class Plain(Answers):
    """A registry without TLS that holds one image of one layer."""

    body = json.dumps({"layers": [{"digest": LAYER, "size": 123}]}).encode()


def settings_of(registry: str) -> Settings:
    return read_settings(
        None, {"DOCKER_REGISTRY": registry, "IMAGE_REPO": "flops", "FLOPS_CONFIG_REPOSITORY": "config.git"}
    )


def sizes(registry: str) -> list[tuple[str, int]]:
    settings = settings_of(registry)
    return layer_sizes(settings, ImageName(settings.image("server"), "tag", "sha256:" + "b" * 64))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_registry_on_this_machine_may_speak_no_tls(host: str) -> None:
    with served(Plain) as port:
        assert sizes(f"{host}:{port}") == [(LAYER, 123)]
        assert not speaks_tls(settings_of(f"{host}:{port}"))
        looked = check("CA", lambda: doctor._trust(settings_of(f"{host}:{port}")))
    assert (looked.result, looked.found.partition(" ")[2][:13]) == ("skipped", "speaks no TLS")


def test_no_other_is_spoken_to_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda _host, *rest, **more: real("127.0.0.1", *rest, **more))
    with served(Plain) as port, pytest.raises(FlopsError, match="its certificate is not trusted here"):
        sizes(f"registry.example.org:{port}")
