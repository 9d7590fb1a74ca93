"""The Kubernetes objects that the loop understands, field by field: one that is not here is refused, not ignored.

What a field means is Kubernetes' definition (batch/v1, apps/v1, v1). Fields of `WITHOUT_EFFECT` are understood and
mean nothing on one machine.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

WITHOUT_EFFECT = (
    "resources.requests",
    "imagePullSecrets",
    "automountServiceAccountToken",
    "enableServiceLinks",
    "seccompProfile",
    "runAsNonRoot",
    "readinessProbe of a CronJob",
    "strategy and revisionHistoryLimit",
    "NetworkPolicy",
)
"""Fields and kinds that say something about a cluster and change nothing here."""

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)(|k|M|G|T|Ki|Mi|Gi|Ti)")
_CPU = re.compile(r"(\d+(?:\.\d+)?)(m?)")


def read_memory(text: str) -> int:
    """Return a quantity such as ``2Gi`` in bytes.

    Raises:
        ValueError: it is none.
    """
    found = _MEMORY.fullmatch(text)
    if found is None:
        raise ValueError(f"'{text}' is no amount of memory; 512Mi is one")
    return int(float(found[1]) * _UNITS[found[2]])


def read_cpu(text: str) -> float:
    """Return a quantity such as ``250m`` in cores.

    Raises:
        ValueError: it is none.
    """
    found = _CPU.fullmatch(text)
    if found is None:
        raise ValueError(f"'{text}' is no number of cores; 250m and 2 are")
    return float(found[1]) / (1000 if found[2] else 1)


def _checked_memory(text: str) -> str:
    read_memory(text)
    return text


def _checked_cpu(text: str) -> str:
    read_cpu(text)
    return text


def _as_text(value: Any) -> Any:
    """A quantity may be written as a number."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _plain(text: str) -> str:
    if "$(" in text:
        raise ValueError(f"'{text}': the loop does not replace $(NAME)")
    return text


Plain = Annotated[str, AfterValidator(_plain)]
Memory = Annotated[str, BeforeValidator(_as_text), AfterValidator(_checked_memory)]
Cores = Annotated[str, BeforeValidator(_as_text), AfterValidator(_checked_cpu)]
Seconds = Annotated[int, Field(ge=0, le=10**8)]


class _Object(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)


Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max_length=253)]


class Metadata(_Object):
    """An object's name and what is said about it."""

    name: Name = ""
    namespace: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class KeyRef(_Object):
    """A key of a config map or a secret."""

    name: Name
    key: str
    optional: bool = False


class FieldRef(_Object):
    """A field of the pod's own: one of its annotations or labels."""

    field_path: str = Field(pattern=r"^metadata\.(annotations|labels)\['[^']+'\]$")
    api_version: Literal["v1"] = "v1"


class ValueFrom(_Object):
    """Where a variable's value comes from."""

    field_ref: FieldRef | None = None
    config_map_key_ref: KeyRef | None = None
    secret_key_ref: KeyRef | None = None


class Variable(_Object):
    """A variable of a container."""

    name: str
    value: Plain = ""
    value_from: ValueFrom | None = None


class Reference(_Object):
    """A config map or secret as a whole."""

    name: Name
    optional: bool = False


class VariablesFrom(_Object):
    """Variables of all keys of a config map or secret."""

    config_map_ref: Reference | None = None
    secret_ref: Reference | None = None


class ContainerPort(_Object):
    """A port that a container listens on."""

    name: str = ""
    container_port: int
    protocol: Literal["TCP"] = "TCP"


class HttpGet(_Object):
    """A request that is answered with a 2xx or 3xx by what is well."""

    path: str = Field("/", pattern=r"^/[!-~]*$")
    port: int | str
    scheme: Literal["HTTP", "HTTPS"] = "HTTP"


class Probe(_Object):
    """How often a container is asked, and how many wrong answers count."""

    http_get: HttpGet
    initial_delay_seconds: Seconds = 0
    period_seconds: Seconds = 10
    timeout_seconds: int = Field(1, ge=1, le=60)
    failure_threshold: int = Field(3, ge=1)
    success_threshold: Literal[1] = 1


class Quantities(_Object):
    """Memory and cores."""

    memory: Memory | None = None
    cpu: Cores | None = None


class Resources(_Object):
    """What a container asks for, and what it may not exceed."""

    requests: Quantities = Quantities()
    limits: Quantities = Quantities()


class Capabilities(_Object):
    """Rights of root that are taken away."""

    drop: list[str] = []


class ContainerSecurity(_Object):
    """What a container may do."""

    allow_privilege_escalation: bool = True
    read_only_root_filesystem: bool = False
    capabilities: Capabilities = Capabilities()
    run_as_non_root: bool | None = None


class Mount(_Object):
    """Where a container sees a volume."""

    name: str
    mount_path: str = Field(pattern=r"^/[^:]*$")
    read_only: bool = False


class Container(_Object):
    """One program of a pod."""

    name: Name
    image: str
    command: list[Plain] | None = None
    args: list[Plain] | None = None
    env: list[Variable] = []
    env_from: list[VariablesFrom] = []
    ports: list[ContainerPort] = []
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None
    resources: Resources = Resources()
    security_context: ContainerSecurity = ContainerSecurity()
    volume_mounts: list[Mount] = []
    image_pull_policy: Literal["IfNotPresent", "Always"] | None = None
    working_dir: str | None = None


class KeyToPath(_Object):
    """A key of a config map or secret, as a file of another name."""

    key: str
    path: str
    mode: int | None = None


class ConfigMapVolume(_Object):
    """A config map as files."""

    name: Name
    default_mode: int = 0o644
    items: list[KeyToPath] | None = None
    optional: bool = False


class SecretVolume(_Object):
    """A secret as files."""

    secret_name: Name
    default_mode: int = 0o644
    items: list[KeyToPath] | None = None
    optional: bool = False


class EmptyDir(_Object):
    """A folder for as long as the pod lives; here it is in memory."""

    size_limit: Memory | None = None
    medium: Literal["", "Memory"] = ""


class Volume(_Object):
    """A folder that containers can mount."""

    name: str
    config_map: ConfigMapVolume | None = None
    secret: SecretVolume | None = None
    empty_dir: EmptyDir | None = None


class Seccomp(_Object):
    """Which calls of the system a pod may make: the engine's own choice."""

    type: Literal["RuntimeDefault"]


class PodSecurity(_Object):
    """Who a pod's programs are."""

    run_as_non_root: bool | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    fs_group: int | None = None
    seccomp_profile: Seccomp | None = None


class Named(_Object):
    """A reference by name."""

    name: str


class PodSpec(_Object):
    """What runs: one container with its volumes."""

    containers: list[Container] = Field(min_length=1, max_length=1)
    volumes: list[Volume] = []
    restart_policy: Literal["Always", "Never"] = "Always"
    termination_grace_period_seconds: Seconds = 30
    automount_service_account_token: bool | None = None
    enable_service_links: bool | None = None
    image_pull_secrets: list[Named] = []
    security_context: PodSecurity = PodSecurity()

    @property
    def container(self) -> Container:
        """The pod's one container."""
        return self.containers[0]


class PodTemplate(_Object):
    """A pod to be."""

    metadata: Metadata = Metadata()
    spec: PodSpec


class JobSpec(_Object):
    """A run to its end."""

    template: PodTemplate
    active_deadline_seconds: int | None = Field(None, ge=1, le=10**8)
    backoff_limit: int = Field(6, ge=0, le=1000)
    ttl_seconds_after_finished: Seconds | None = None


class JobTemplate(_Object):
    """A job to be."""

    metadata: Metadata = Metadata()
    spec: JobSpec


class CronJobSpec(_Object):
    """When jobs start, and how many of the past are kept."""

    schedule: str
    time_zone: str = "Etc/UTC"
    concurrency_policy: Literal["Forbid"]
    starting_deadline_seconds: int | None = Field(None, ge=10, le=10**8)
    suspend: bool = False
    successful_jobs_history_limit: int = Field(3, ge=0)
    failed_jobs_history_limit: int = Field(1, ge=0)
    job_template: JobTemplate


class CronJob(_Object):
    """A job on a schedule (batch/v1)."""

    api_version: Literal["batch/v1"]
    kind: Literal["CronJob"]
    metadata: Metadata
    spec: CronJobSpec

    @property
    def pod(self) -> PodTemplate:
        """The pod of its jobs."""
        return self.spec.job_template.spec.template


class Selector(_Object):
    """Pods by their labels."""

    match_labels: dict[str, str]


class RollingUpdate(_Object):
    """How many pods more or less there may be meanwhile."""

    max_surge: int | str | None = None
    max_unavailable: int | str | None = None


class Strategy(_Object):
    """How pods are replaced."""

    type: Literal["RollingUpdate", "Recreate"] = "RollingUpdate"
    rolling_update: RollingUpdate | None = None


class DeploymentSpec(_Object):
    """A pod that shall always run."""

    replicas: int = Field(1, ge=0, le=1)
    revision_history_limit: int | None = None
    selector: Selector
    strategy: Strategy = Strategy()
    template: PodTemplate


class Deployment(_Object):
    """A pod that is started again when it ends (apps/v1)."""

    api_version: Literal["apps/v1"]
    kind: Literal["Deployment"]
    metadata: Metadata
    spec: DeploymentSpec

    @property
    def pod(self) -> PodTemplate:
        """Its pod."""
        return self.spec.template


class ServicePort(_Object):
    """A port of a service, and which port of the pods it is."""

    name: str = ""
    port: int
    target_port: int | str | None = None
    node_port: int | None = None
    protocol: Literal["TCP"] = "TCP"


class ServiceSpec(_Object):
    """Which pods answer, and at which ports."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    selector: dict[str, str]
    ports: list[ServicePort] = Field(min_length=1)


class Service(_Object):
    """A name at which pods are reached (v1)."""

    api_version: Literal["v1"]
    kind: Literal["Service"]
    metadata: Metadata
    spec: ServiceSpec


class ConfigMap(_Object):
    """Plain files (v1)."""

    api_version: Literal["v1"]
    kind: Literal["ConfigMap"]
    metadata: Metadata
    data: dict[str, str] = {}
    immutable: bool = False


class NetworkPolicy(_Object):
    """Who may reach whom (networking.k8s.io/v1); understood, and without effect here."""

    api_version: Literal["networking.k8s.io/v1"]
    kind: Literal["NetworkPolicy"]
    metadata: Metadata
    spec: dict[str, Any]


KINDS: dict[str, type[_Object]] = {
    "CronJob": CronJob,
    "Deployment": Deployment,
    "Service": Service,
    "ConfigMap": ConfigMap,
    "NetworkPolicy": NetworkPolicy,
}
"""What an environment may consist of."""
