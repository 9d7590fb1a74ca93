"""What pods need and no manifest holds: secrets, the server's certificate, a tracking server, demo hospitals."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from fl.errors import FlopsError
from pipeline.loop.hospitals import HOME, Hospitals, allowed
from pipeline.loop.secrets import read_secrets
from pipeline.loop.tracking import TrackingServer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipeline.loop.desired import Desired
    from pipeline.loop.plan import PodPlan
    from pipeline.loop.pods import Pods
    from pipeline.loop.state import State
    from pipeline.loop.watch import Seen

TLS, TRACKING = "server-tls", "tracking"
"""The secrets that the loop makes where the user has none."""

_URI = "MLFLOW_TRACKING_URI"

SERVER = "global-server"
"""The service that hospitals reach."""


@dataclass
class Supplies:
    """All of it for one loop.

    Attributes:
        pods: the engine.
        state: the loop's folder.
        address: at which containers reach this machine.
        tracking: the address of a tracking server that there is; empty for one of the loop's own.
        hospitals: how many demo hospitals.
        ready: whether an image is here; asked, it is fetched.
    """

    pods: Pods
    state: State
    address: str
    tracking: str
    hospitals: int
    ready: Callable[[str], bool]
    ca: str = ""
    _own: TrackingServer | None = None
    _tls: dict[str, str] = field(default_factory=dict)
    _demo: Hospitals | None = None

    def start(self) -> None:
        """Start the tracking server, unless there is another one."""
        self._demo = Hospitals(self.pods, self.hospitals)
        told = read_secrets(self.state.folder).get(TRACKING, {}).get(_URI, "").strip()
        self.tracking = self.tracking or told
        if not self.tracking:
            self._own = TrackingServer(self.state.folder / "tracking", self.address)
            self.tracking = self._own.uri

    def stop(self) -> None:
        """End it."""
        if self._own is not None:
            self._own.stop()

    def keep(self) -> str:
        """Start the tracking server again where it ended; returns what is to be told of it."""
        return self._own.keep() if self._own is not None else ""

    def wants(self, seen: Seen) -> str:
        """Make what is missing and can be made; returns what is waited for, or an empty text.

        Raises:
            FlopsError: something could not be made.
        """
        desired = seen.desired
        image = next((job.pod.spec.container.image for job in desired.cron_jobs.values()), "")
        if image and not self._tls and TLS not in read_secrets(self.state.folder):
            if not self.ready(image):
                return f"image {image}"
            self._make_certificate(image, desired)
        if self._demo is None or self._demo.ready(desired):
            return ""
        if seen.release is None or "client" not in seen.release.images:
            return "a release with a client's image, for the demo hospitals"
        client = str(seen.release.images["client"])
        if not self.ready(client):
            return f"image {client}"
        self._demo.prepare(client, desired)
        return ""

    def secrets(self) -> dict[str, Mapping[str, str]]:
        """Return all secrets: the user's, and what the loop makes itself."""
        found: dict[str, Mapping[str, str]] = dict(read_secrets(self.state.folder))
        found[TRACKING] = {**found.get(TRACKING, {}), _URI: self.tracking}
        if self._tls:
            found.setdefault(TLS, {"tls.crt": self._tls["server.pem"], "tls.key": self._tls["server.key"]})
        return found

    def admit(self, desired: Desired) -> Desired:
        """Return an environment whose allow-list has the demo hospitals, too."""
        if self._demo is None or not self._demo.keys:
            return desired
        return replace(desired, config_maps=allowed(desired.config_maps, self._demo.keys))

    def hospital_plans(self, seen: Seen) -> dict[str, PodPlan]:
        """Return what the demo hospitals run, by name; nothing until they are prepared."""
        if self._demo is None or not self._demo.keys or seen.release is None or not self._demo.ready(seen.desired):
            return {}
        ca = self._tls.get("ca.pem") or read_secrets(self.state.folder).get(TLS, {}).get("ca.crt", "")
        if not ca:
            raise FlopsError(f"secret '{TLS}' has no ca.crt, which demo hospitals need to trust the server")
        port = next(
            (s.spec.ports[0].port for s in seen.desired.services if s.metadata.name == SERVER),
            8080,
        )
        return self._demo.plans(str(seen.release.images["client"]), seen.desired, f"{SERVER}:{port}", ca)

    def _make_certificate(self, image: str, desired: Desired) -> None:
        """Have the server's own command make a certificate; the CA stays from one time to the next."""
        names = [service.metadata.name for service in desired.services] + ["localhost", "127.0.0.1"]
        words = ["server", "certificate", "--out", f"{HOME}/tls"]
        for name in names:
            words += ["--host", name]
        self._tls = self.pods.files_of(image, words, {self.pods.volume("tls"): HOME}, f"{HOME}/tls")
