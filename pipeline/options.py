"""What `flops.toml` may say: each key with its environment variable, its default, and a line that explains it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """A key of the settings file.

    Attributes:
        table: the table it stands in.
        key: its name there.
        variable: the environment variable that goes before the file.
        default: what holds where neither says anything; None where somebody must.
        about: what it is, for people; lines of at most 110 characters.
        example: what the example file shows.
    """

    table: str
    key: str
    variable: str
    default: str | int | bool | None
    about: str
    example: str = ""

    @property
    def name(self) -> str:
        """The key with its table."""
        return f"{self.table}.{self.key}"


TABLES = {
    "registry": "Where images go. The robot account comes from HARBOR_USERNAME and HARBOR_PASSWORD, never from here.",
    "config": "The separate config repository that Argo CD watches. A deploy key may come from SSH_PRIVATE_KEY too.",
    "build": "How both images are built.",
    "smoke": "The trial federation in the two new images, before anything is bumped.",
    "cluster": "The cluster that flops status asks, by the user's own kubeconfig.",
}
"""What each table is about."""

OPTIONS: tuple[Option, ...] = (
    Option(
        "registry",
        "host",
        "DOCKER_REGISTRY",
        None,
        "The registry's name, with its port if it has one.",
        "harbor.example.org",
    ),
    Option(
        "registry",
        "project",
        "IMAGE_REPO",
        None,
        "The project in it; images are HOST/PROJECT/server and /client.",
        "flops",
    ),
    Option(
        "config",
        "repository",
        "FLOPS_CONFIG_REPOSITORY",
        None,
        "Its address, as git clone takes it.",
        "git@git.example.org:flops/config.git",
    ),
    Option("config", "branch", "FLOPS_CONFIG_BRANCH", "main", "The branch that Argo CD watches."),
    Option(
        "config",
        "key",
        "FLOPS_CONFIG_KEY",
        "",
        "The deploy key's file; left out: SSH_PRIVATE_KEY, else what ssh finds.",
        "/etc/flops/deploy_key",
    ),
    Option(
        "config",
        "known_hosts",
        "FLOPS_KNOWN_HOSTS",
        "",
        "The file with the git server's host key; left out: SSH_KNOWN_HOSTS (its text), else what ssh finds.",
        "/etc/flops/known_hosts",
    ),
    Option("config", "environment", "FLOPS_ENVIRONMENT", "dev", "The folder that a release goes to."),
    Option(
        "config", "container", "FLOPS_CONTAINER", "global-server", "The container's name in ENVIRONMENT/cronjob.yaml."
    ),
    Option(
        "config",
        "author",
        "FLOPS_AUTHOR",
        "FLOps <flops@localhost>",
        "Who makes the commits there.",
        "FLOps <flops@example.org>",
    ),
    Option(
        "build",
        "base_image",
        "FLOPS_BASE_IMAGE",
        "python:3.11-slim-bookworm",
        "The image both start from; any with Python 3.11 or newer and its venv module.",
    ),
    Option(
        "build",
        "pip_flags",
        "FLOPS_PIP_FLAGS",
        "",
        "Further words for pip, such as another index.",
        "--index-url https://pypi.example.org/simple",
    ),
    Option(
        "build",
        "wheels",
        "FLOPS_WHEELS",
        "",
        "A folder of wheels that pip prefers to its index.",
        "/srv/flops/wheels",
    ),
    Option(
        "build",
        "network",
        "FLOPS_BUILD_NETWORK",
        "",
        "The network of a build's steps: host, none, or a network's name.",
        "host",
    ),
    Option("smoke", "enabled", "FLOPS_SMOKE", default=True, about="Run it. Without it, whatever builds is deployed."),
    Option("smoke", "seconds", "FLOPS_SMOKE_SECONDS", 180, "How long each step of the trial may take."),
    Option(
        "smoke",
        "tracking",
        "MLFLOW_TRACKING_URI",
        "",
        "The model registry in use; with it the new server must load its newest model, too.",
        "https://mlflow.example.org",
    ),
    Option(
        "cluster",
        "namespace",
        "FLOPS_NAMESPACE",
        "flops-ENV",
        "The namespace of an environment, whose name takes the place of ENV.",
    ),
)
"""All keys, in the order of the example."""


def example(values: dict[str, str]) -> str:
    """Write a settings file in which every key is explained, and those with a default are commented out.

    Args:
        values: what is known already, by the option's name.
    """
    lines = [
        "# Settings of `flops release` and its sisters. An environment variable goes before a key here.",
        "# No secret stands in this file.",
    ]
    for table, about in TABLES.items():
        lines += ["", f"# {about}", f"[{table}]"]
        for option in (o for o in OPTIONS if o.table == table):
            shown = values.get(option.name) or option.example or option.default
            needed = option.default is None or option.name in values
            lines += [
                f"# {option.about} ({option.variable})",
                f"{'' if needed else '# '}{option.key} = {_toml(shown)}",
            ]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    import json

    return str(value).lower() if isinstance(value, bool) else json.dumps(value, ensure_ascii=False)
