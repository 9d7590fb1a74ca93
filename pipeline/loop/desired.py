"""What an environment shall be: the objects of a commit."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from cronsim import CronSim

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from pipeline.loop.objects import CronJob, Deployment, PodTemplate, Service


@dataclass(frozen=True)
class Desired:
    """What shall be.

    Attributes:
        commit: of the config repository.
        cron_jobs: by name.
        deployments: by name.
        services: all of them.
        config_maps: files by name, by the config map's name.
    """

    commit: str = ""
    cron_jobs: Mapping[str, CronJob] = field(default_factory=dict)
    deployments: Mapping[str, Deployment] = field(default_factory=dict)
    services: Sequence[Service] = ()
    config_maps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def images(self) -> list[str]:
        """The images that it takes, in order."""
        pods = [one.pod for one in self.cron_jobs.values()] + [one.pod for one in self.deployments.values()]
        return list(dict.fromkeys(pod.spec.container.image for pod in pods))

    def reached_by(self, pod: PodTemplate) -> list[Service]:
        """Return the services that lead to a pod."""
        labels = pod.metadata.labels.items()
        return [service for service in self.services if service.spec.selector.items() <= labels]


def next_times(cron_job: CronJob, after: datetime) -> Iterator[datetime]:
    """Yield the times at which a CronJob is due after a moment, in UTC."""
    zone = ZoneInfo(cron_job.spec.time_zone)
    for moment in CronSim(cron_job.spec.schedule, after.astimezone(zone)):
        yield moment.astimezone(UTC)
