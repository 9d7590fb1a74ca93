"""Demo hospitals: containers of the release's client image, each with a key and a part of a built-in task's data."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fl.errors import FlopsError, SettingsError
from pipeline.loop.plan import Files, PodPlan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.loop.desired import Desired
    from pipeline.loop.pods import Pods

ROLE = "hospital"

HOME = "/home/flops"
"""The only folder that the images' user owns; a volume there is the user's, too."""

_CA = "/etc/flops/ca"


@dataclass
class Hospitals:
    """Hospitals of one loop; keys and data are made once, and outlive it."""

    pods: Pods
    count: int
    keys: dict[str, str] = field(default_factory=dict)
    _dealt: str = ""

    @property
    def names(self) -> list[str]:
        """Their names."""
        return [f"demo-{number}" for number in range(1, self.count + 1)]

    def prepare(self, image: str, desired: Desired) -> None:
        """Make keys and data where they are missing.

        Args:
            image: the client's.
            desired: the environment: its federation file says the task.

        Raises:
            FlopsError: a command of the image failed.
        """
        task = task_of(desired)
        if self._dealt != task:
            # What is there already somebody may be training on.
            last = f"{HOME}/data/{self._file(task, self.count)}"
            deal = f"flops deal {task} --clients {self.count} --out {HOME}/data --force"
            data = self.pods.volume(f"data-{task}-{self.count}")
            self.pods.once(image, ["-c", f"test -e {last} || {deal}"], {data: HOME}, entrypoint=("sh",))
            self._dealt = task
        for name in self.names:
            if name in self.keys:
                continue
            home = self.pods.volume(name)
            # The key is there from an earlier time, or is made now: keygen never overwrites one.
            read = "cat client/hospital.pub 2>/dev/null || { flops client keygen >&2 && cat client/hospital.pub; }"
            told = self.pods.once(
                image,
                ["-c", f"cd {HOME} && {read}"],
                {home: HOME},
                entrypoint=("sh",),
                environment={"FLOPS_CLIENT_HOME": f"{HOME}/client"},
            )
            self.keys[name] = told

    def ready(self, desired: Desired) -> bool:
        """Tell whether keys and data are there.

        Raises:
            SettingsError: the task has no data of its own.
        """
        return not self.count or (len(self.keys) == self.count and self._dealt == task_of(desired))

    def _file(self, task: str, number: int) -> str:
        """Return the name that `flops deal` gives a hospital's file."""
        return f"hospital-{number:0{len(str(self.count))}d}.{'npz' if task == 'digits' else 'csv'}"

    def plans(self, image: str, desired: Desired, server: str, ca: str) -> dict[str, PodPlan]:
        """Return what each of them runs, by name.

        Args:
            image: the client's.
            desired: the environment.
            server: host and port.
            ca: the server's CA certificate, PEM.
        """
        task = task_of(desired)
        data = self.pods.volume(f"data-{task}-{self.count}")
        return {
            name: PodPlan(
                role=ROLE,
                owner=name,
                image=image,
                environment={
                    "FLOPS_SERVER": server,
                    "FLOPS_TASK": task,
                    "FLOPS_DATA": f"/srv/flops/data/{self._file(task, number)}",
                    "FLOPS_CA": f"{_CA}/ca.pem",
                    "FLOPS_CLIENT_HOME": f"{HOME}/client",
                },
                files=(Files(_CA, {"ca.pem": ca}),),
                scratch={"/tmp": "1g"},  # noqa: S108 - the container's own
                volumes={self.pods.volume(name): HOME, data: "/srv/flops"},
                read_only=True,
                drop=("ALL",),
                escalates=False,
                checks=True,
                grace=10,
            )
            for number, name in enumerate(self.names, start=1)
        }


def allowed(maps: Mapping[str, Mapping[str, str]], keys: Mapping[str, str]) -> dict[str, Mapping[str, str]]:
    """Return config maps with the demo hospitals' keys on the allow-list, here alone."""
    added = {f"{name}.pub": key for name, key in keys.items()}
    return {
        name: {**data, **added} if name.rpartition("-")[0] == "hospitals" or name == "hospitals" else data
        for name, data in maps.items()
    }


def task_of(desired: Desired) -> str:
    """Return the task that an environment's federation file names.

    Raises:
        SettingsError: it names none, or one without data of its own.
    """
    for name, data in desired.config_maps.items():
        if name.partition("-")[0] == "federation" and "federation.toml" in data:
            try:
                task = tomllib.loads(data["federation.toml"]).get("task")
            except tomllib.TOMLDecodeError as error:
                raise SettingsError(f"federation.toml is not TOML: {error}") from error
            if task in ("digits", "breast-cancer"):
                return str(task)
            raise SettingsError(f"demo hospitals know the tasks digits and breast-cancer, and not '{task}'")
    raise FlopsError("the environment has no federation.toml")
