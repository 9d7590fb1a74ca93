"""The settings of the pipeline: the file, and the environment that goes before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fl.errors import SettingsError
from pipeline.options import OPTIONS, TABLES, example
from pipeline.settings import read_settings

NEEDS = ("registry.host", "registry.project", "config.repository")
GIVEN = {
    "DOCKER_REGISTRY": "harbor.example.org:8443",
    "IMAGE_REPO": "flops",
    "FLOPS_CONFIG_REPOSITORY": "git@git.example.org:flops/config.git",
}


def test_the_environment_alone_is_enough(here: Path) -> None:
    settings = read_settings(None, GIVEN, needs=NEEDS)
    assert settings.image("server") == "harbor.example.org:8443/flops/server"
    assert (settings.branch, settings.environment, settings.container) == ("main", "dev", "global-server")
    assert settings.author == ("FLOps", "flops@localhost")
    assert settings.smoke


def test_the_environment_goes_before_the_file_and_an_empty_variable_is_none(here: Path) -> None:
    here.joinpath("flops.toml").write_text(
        '[registry]\nhost = "a.example.org"\nproject = "x"\n[smoke]\nenabled = true\n'
    )
    settings = read_settings(None, {"DOCKER_REGISTRY": "b.example.org", "IMAGE_REPO": "", "FLOPS_SMOKE": "false"})
    assert (settings.registry, settings.project, settings.smoke) == ("b.example.org", "x", False)


def test_the_example_explains_every_option_and_can_be_read(here: Path) -> None:
    here.joinpath("key").write_text("")
    text = example(
        {"config.key": str(here / "key"), "build.wheels": str(here), "config.known_hosts": str(here / "key")}
    )
    here.joinpath("flops.toml").write_text(text)
    settings = read_settings(None, {}, needs=NEEDS)
    assert (settings.registry, settings.key, settings.wheels) == ("harbor.example.org", here / "key", here)
    for option in OPTIONS:
        assert option.variable in text
        assert f"{option.key} = " in text
    # What is commented out are keys as they may stand there.
    here.joinpath("flops.toml").write_text(
        text.replace("# key", "key").replace("# branch", "branch").replace("# enabled", "enabled")
    )
    read_settings(None, {}, needs=NEEDS)
    assert {option.table for option in OPTIONS} == set(TABLES)


def test_secrets_are_not_shown(here: Path) -> None:
    secret = {"HARBOR_PASSWORD": "s3cret", "HARBOR_USERNAME": "robot$flops", "SSH_PRIVATE_KEY": "s3cret"}
    settings = read_settings(None, {**GIVEN, **secret})
    assert settings.secrets.username == "robot$flops"
    assert "s3cret" not in repr(settings)


@pytest.mark.parametrize(
    ("text", "environment", "message"),
    [
        ("", {}, r"flops\.toml: 'registry\.host' is missing; write it there \(flops init .*or set DOCKER_REGISTRY"),
        ("", {**GIVEN, "DOCKER_REGISTRY": "harbor"}, r"DOCKER_REGISTRY: 'harbor': Docker takes a name without a dot"),
        ("[registry]\nhots = 'x'", {}, r"flops\.toml: unknown key 'registry\.hots' \(did you mean 'host'\?\)"),
        ("[registy]\nhost = 'x'", {}, r"unknown key 'registy' \(did you mean 'registry'\?\)"),
        ("[registry]\nhost = 3", {}, r"registry\.host: 3: a text is needed"),
        ("[registry]\nhost = ''", {}, r"registry\.host: '': a text is needed"),
        ("registry = 3", {}, r"registry: 3: a table is needed"),
        ("[smoke]\nenabled = 'no'", {}, r"smoke\.enabled: 'no': true or false is needed"),
        ("[smoke]\nseconds = 0", {}, r"smoke\.seconds: 0: a whole number of at least 1 is needed"),
        ("", {"FLOPS_SMOKE": "maybe"}, r"FLOPS_SMOKE: 'maybe': true or false is needed"),
        ("", {"FLOPS_SMOKE_SECONDS": "1e3"}, r"FLOPS_SMOKE_SECONDS: '1e3': a whole number of at least 1"),
        ("", {**GIVEN, "DOCKER_REGISTRY": "https://h"}, r"DOCKER_REGISTRY: 'https://h': a host .* without https://"),
        ("", {**GIVEN, "IMAGE_REPO": "FLOps"}, r"IMAGE_REPO: 'FLOps': a project's name in small letters"),
        ("", {**GIVEN, "IMAGE_REPO": "a:b"}, r"IMAGE_REPO: 'a:b': a project's name"),
        ("", {**GIVEN, "FLOPS_ENVIRONMENT": "../x"}, r"FLOPS_ENVIRONMENT: '\.\./x': a folder's name"),
        ("", {**GIVEN, "FLOPS_AUTHOR": "me"}, r"FLOPS_AUTHOR: 'me': a name and an address"),
        ("", {**GIVEN, "FLOPS_CONFIG_KEY": "/none"}, r"FLOPS_CONFIG_KEY: /none: no such file"),
        ("[build]\nwheels = 'none'", GIVEN, r"flops\.toml: build\.wheels: none: no such folder"),
        ("", {**GIVEN, "FLOPS_BASE_IMAGE": "A B"}, r"FLOPS_BASE_IMAGE: 'A B' is no image's name"),
        ("[build", {}, r"flops\.toml: is not TOML"),
        (
            "",
            {**GIVEN, "FLOPS_CONFIG_KEY": "~nobody-here/key"},
            r"FLOPS_CONFIG_KEY: what stands there is no file's name",
        ),
        ("", {**GIVEN, "FLOPS_CONFIG_KEY": "k" * 300}, r"FLOPS_CONFIG_KEY: what stands there is no file's name"),
        ("", {**GIVEN, "FLOPS_KNOWN_HOSTS": "a ssh-ed25519 A\nb"}, r"holds a text, .* goes to SSH_KNOWN_HOSTS$"),
        ("", {**GIVEN, "FLOPS_CONFIG_BRANCH": "ma*"}, r"FLOPS_CONFIG_BRANCH: 'ma\*': a branch's name, such as main"),
        ("", {**GIVEN, "FLOPS_CONFIG_BRANCH": "main~1"}, "a branch's name"),
        ("", {**GIVEN, "FLOPS_CONFIG_BRANCH": "a..b"}, "a branch's name"),
        ("", {**GIVEN, "FLOPS_CONFIG_BRANCH": "-x"}, "a branch's name"),
        (
            "",
            {**GIVEN, "FLOPS_CONFIG_REPOSITORY": "ext::sh -c true"},
            "FLOPS_CONFIG_REPOSITORY: is no repository's addr",
        ),
        (
            '[config]\nrepository = "a\\u0000b"',
            {"DOCKER_REGISTRY": "h.example.org", "IMAGE_REPO": "p"},
            r"flops\.toml: config\.repository: is no repository's address",
        ),
        ("", {**GIVEN, "FLOPS_AUTHOR": "... <a@b>"}, r"FLOPS_AUTHOR: '\.\.\. <a@b>': a name and an address"),
    ],
)
def test_a_wrong_setting_is_named_with_its_place(
    here: Path, text: str, environment: dict[str, str], message: str
) -> None:
    here.joinpath("flops.toml").write_text(text)
    with pytest.raises(SettingsError, match=message):
        read_settings(None, environment, needs=NEEDS)


def test_a_key_in_the_wrong_variable_is_not_shown(here: Path) -> None:
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\ns3cret\n-----END OPENSSH PRIVATE KEY-----\n"
    for text in (key, key.replace("\n", " ")):
        with pytest.raises(SettingsError, match=r"FLOPS_CONFIG_KEY: .* goes to SSH_PRIVATE_KEY$") as caught:
            read_settings(None, {**GIVEN, "FLOPS_CONFIG_KEY": text})
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("name", ["Ö", "A", "flops[bot]", "🤖", "🚀 A", "The FLOps authors"])
def test_authors_have_many_names(here: Path, name: str) -> None:
    assert read_settings(None, {**GIVEN, "FLOPS_AUTHOR": f"{name} <a@b>"}).author == (name, "a@b")


@pytest.mark.parametrize("branch", ["main", "release/2.x", "größe", "a-b_c@d"])
def test_branches_have_many_names(here: Path, branch: str) -> None:
    assert read_settings(None, {**GIVEN, "FLOPS_CONFIG_BRANCH": branch}).branch == branch


def test_a_named_file_must_be_there(here: Path) -> None:
    with pytest.raises(SettingsError, match=r"other\.toml: no such file"):
        read_settings(here / "other.toml", GIVEN)


def test_every_option_is_documented_with_its_variable_and_default() -> None:
    text = (Path(__file__).parents[2] / "docs" / "releases.md").read_text()
    for option in OPTIONS:
        default = str(option.default).lower() if isinstance(option.default, bool) else option.default
        shown = "needed" if default is None else f"`{default}`" if default else ""
        assert f"| `{option.name}` | `{option.variable}` | {shown} | {option.about} |\n" in text
