"""The bundle that carries no code, and those that are refused."""

import io
import zipfile

import pytest

from fl.appbundle import make_bundle, refuse_bundle


def bundle(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "."), content)
    return buffer.getvalue()


def own_text():
    with zipfile.ZipFile(io.BytesIO(make_bundle())) as archive:
        return archive.read("pyproject.toml").decode()


def test_the_bundle_is_the_same_every_time_and_fits():
    assert make_bundle() == make_bundle()
    assert refuse_bundle(make_bundle()) is None


def test_flower_can_read_it():
    from flwr.cli.config_utils import get_fab_metadata

    assert get_fab_metadata(make_bundle()) == ("flops/flops", "1.0.0")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: bundle(pyproject__toml=own_text(), evil__py="print(1)"), "evil.py"),
        (lambda: bundle(pyproject__toml=own_text() + '\nkeep = "x"\n'), "names another app"),
        (lambda: bundle(pyproject__toml=own_text().replace("client.app", "os")), "names another app"),
        (bundle, "names another app"),
        (lambda: b"import os", "no zip archive"),
        (lambda: make_bundle() + b"trailing", "names another app"),
        (lambda: bundle(**{"\u00e9": ""}).replace(b"\xc3\xa9", b"\xff\xff"), "no zip archive"),
        (lambda: make_bundle().replace(b"PK\x01\x02\x14\x03\x14", b"PK\x01\x02\x14\x03\xff"), "no zip archive"),
    ],
    ids=["code", "setting", "other-app", "empty", "no-zip", "trailing", "made-up name", "made-up version"],
)
def test_anything_else_is_refused(content, reason):
    assert reason in refuse_bundle(content())
