"""API keys: who may ask, and a file that changes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from fl.errors import SettingsError
from server.serving import keys as keys_module
from server.serving.api import Options
from server.serving.keys import Keys, make_key, read_keys
from tests.server.serving.apis import digits, standing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import httpx

    from tests.conftest import Ended

    Serve = Callable[..., httpx.Client]

BODY = {"inputs": digits()}


@pytest.fixture(autouse=True)
def _looks_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "LOOK_SECONDS", 0.0)


def test_only_who_has_a_key_is_answered(serve: Serve, tmp_path: Path) -> None:
    (ward, ward_line), (lab, lab_line) = make_key("ward-7"), make_key("lab")
    file = tmp_path / "keys"
    file.write_text(f"# who may ask\n\n{ward_line}\n{lab_line}  # until June\n")
    api = serve(standing("digits"), Options(keys=Keys(file)))
    for headers in (
        {"authorization": f"Bearer {ward}"},
        {"authorization": f"bearer  {ward}"},
        {"x-api-key": lab},
    ):
        for path in ("/predict", "/invocations"):
            assert api.post(path, json=BODY, headers=headers).status_code == 200
        assert api.get("/model", headers=headers).status_code == 200
    for headers, told in (
        ({}, "an API key is needed"),
        ({"authorization": f"Basic {ward}"}, "an API key is needed"),
        ({"authorization": "Bearer"}, "an API key is needed"),
        ({"authorization": f"Bearer {ward}x"}, "the API key is not known"),
        ({"x-api-key": ward_line.split()[1]}, "the API key is not known"),
        ({b"x-api-key": b"\xff"}, "the API key is not known"),
        ({"authorization": "Bearer no", "x-api-key": lab}, "the API key is not known"),
    ):
        for answer in (
            api.post("/predict", json=BODY, headers=headers),
            api.post("/invocations", json=BODY, headers=headers),
            api.get("/model", headers=headers),
        ):
            assert answer.status_code == 401, answer.text
            assert told in answer.json()["error"]
            assert answer.headers["www-authenticate"].startswith("Bearer")
    for path in ("/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json", "/ping"):
        assert api.get(path).status_code == 200
    assert "flops_keys_broken 0.0" in api.get("/metrics").text
    assert 'id="key"' in api.get("/docs").text


def test_a_file_that_changes_counts_at_once_and_a_broken_one_never(serve: Serve, tmp_path: Path) -> None:
    (old, old_line), (new, new_line) = make_key("old"), make_key("new")
    file = tmp_path / "keys"
    file.write_text(old_line)
    api = serve(standing("digits"), Options(keys=Keys(file)))

    def asks(key: str) -> int:
        return api.get("/model", headers={"x-api-key": key}).status_code

    assert (asks(old), asks(new)) == (200, 401)
    file.write_text(f"{old_line}\n{new_line}\n")
    assert (asks(old), asks(new)) == (200, 200)
    file.write_text(f"{new_line}\n")
    assert (asks(old), asks(new)) == (401, 200)
    file.write_text("new\n")
    assert (asks(old), asks(new)) == (401, 200)
    assert "keys, line 1: NAME and HASH are needed" in api.get("/health/ready").json()["problem"]
    assert "flops_keys_broken 1.0" in api.get("/metrics").text
    file.unlink()
    assert asks(new) == 200
    assert "cannot be read" in api.get("/health/ready").json()["problem"]
    file.write_text("")  # All were taken out.
    assert asks(new) == 401
    assert api.get("/health/ready").json()["problem"] == ""
    changed = tmp_path / "changed"
    changed.write_text(old_line)
    os.replace(changed, file)
    assert asks(old) == 200


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ward", "line 1: NAME and HASH"),
        ("\n# x\nward 123", "line 3: NAME and HASH"),
        (f"ward 7 {'0' * 64}", "line 1: NAME and HASH"),
        (f"wärd {'0' * 64}", "line 1: NAME and HASH"),
        (f"ward {'g' * 64}", "line 1: NAME and HASH"),
        (f"ward {'0' * 64}\nlab {'0' * 64}", "line 2: the key of ward stands here again"),
        (b"\xff", "it is not UTF-8 text"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(
    flops: Callable[..., Ended], tmp_path: Path, text: str | bytes, told: str
) -> None:
    file = tmp_path / "keys"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SettingsError, match=told):
        read_keys(file)
    ended = flops("server", "serve", "--model", "m", "--keys", file)
    assert ended.code == 2
    assert f"--keys {file}" in ended.line


def test_a_key_is_made_once_and_its_line_lets_it_in(flops: Callable[..., Ended], tmp_path: Path) -> None:
    made = flops("server", "key", "ward-7", "--json").json
    file = tmp_path / "keys"
    file.write_text(made["line"])
    assert list(read_keys(file).values()) == ["ward-7"]
    assert made["key"] not in made["line"]
    assert len(made["key"]) > 40
    shown = flops("server", "key", "ward-7").out
    assert "shown this once" in shown
    assert made["key"] not in shown
    assert flops("server", "key", "ward 7").code == 2
    assert flops("server", "serve", "--model", "m", "--keys", tmp_path / "none").code == 2
