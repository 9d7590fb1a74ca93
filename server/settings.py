"""What a job is told: the federation's file, and the place it runs in."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from fl.console import count
from fl.errors import SettingsError
from fl.settings_file import SettingsFile
from server.certificates import check_pair
from server.gate import read_gate
from server.registry_names import default_model, is_model_name
from server.strategies import check_cohort, find_strategy, parse_options

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fl.tasks.base import Hyperparameters, Task
    from server.gate import Gate
    from server.strategies import StrategySpec

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class FederationSettings:
    """A federation's file, checked.

    Attributes:
        task: what is learned.
        task_name: as the file names it.
        model: the registered model's name.
        rounds: federated rounds in a job.
        spec: the strategy.
        strategy_options: its options.
        hyperparameters: how hospitals train.
        min_hospitals: how many must train, in every round.
        fraction: the part of the hospitals that trains in a round.
        seed: fixes the first weights, who is chosen, and how hospitals shuffle.
        join_timeout: seconds in which enough hospitals must come.
        join_grace: seconds without a newcomer after which a job with enough hospitals begins.
        round_deadline: seconds for a round's answers.
        norm_ratio: how many times the median of the others' a hospital's change may be; see `server.norms`.
        gate: what a version must reach to be served; None lets every version.
    """

    task: Task
    task_name: str
    model: str
    rounds: int
    spec: StrategySpec
    strategy_options: Mapping[str, float]
    hyperparameters: Hyperparameters
    min_hospitals: int
    fraction: float
    seed: int
    join_timeout: float
    join_grace: float
    round_deadline: float
    norm_ratio: float
    gate: Gate | None

    def as_parameters(self) -> dict[str, Any]:
        """Return the settings as plain values, for the registry."""
        return {
            "task": self.task_name,
            "rounds": self.rounds,
            "strategy": self.spec.name,
            **{f"strategy_{k}": v for k, v in self.strategy_options.items()},
            **{k: v for k, v in asdict(self.hyperparameters).items() if k != "rounds"},
            "min_hospitals": self.min_hospitals,
            "fraction": self.fraction,
            "seed": self.seed,
            "join_timeout": self.join_timeout,
            "round_deadline": self.round_deadline,
            "norm_ratio": self.norm_ratio,
            **({f"gate_{name}": value for name, value in asdict(self.gate).items()} if self.gate else {}),
        }


def read_federation(path: Path) -> FederationSettings:
    """Read a federation's file.

    Raises:
        SettingsError: a key or value cannot be used; the message names it.
    """
    from fl.tasks import find_task

    file = SettingsFile.read(path)
    name = file.text("task")
    schema = path.parent / file.text("schema") if file.has("schema") else None
    task = _named(file, "task", lambda: find_task(name, schema))
    model = file.text("model", default_model(name))
    if not is_model_name(model):
        raise file.wrong("model", f"'{model}': letters, digits, spaces and '-_.' only")
    spec = _named(file, "strategy", lambda: find_strategy(file.text("strategy", "fedavg")))
    options = file.table("strategy_options").items()
    pairs = [f"{key}={value}" for key, value in options.items()]
    strategy_options = _named(file, "strategy_options", lambda: parse_options(spec, pairs))
    rounds = file.whole("rounds", 1, least=1)
    hospitals = file.whole("min_hospitals", 2, least=1)
    fraction = file.number("fraction", 1.0, above=0, most=1)
    settings = FederationSettings(
        task=task,
        task_name=name,
        model=model,
        rounds=rounds,
        spec=spec,
        strategy_options=strategy_options,
        hyperparameters=_training(file.table("training"), task, rounds),
        min_hospitals=hospitals,
        fraction=fraction,
        seed=file.whole("seed", 0, most=2**63 - 1),
        join_timeout=file.number("join_timeout", 60.0, above=0),
        join_grace=file.number("join_grace", 5.0, least=0),
        round_deadline=file.number("round_deadline", 120.0, above=0),
        norm_ratio=file.number("norm_ratio", 20.0, above=1),
        gate=read_gate(file.table("gate"), task) if file.has("gate") else None,
    )
    file.finish()
    _named(file, "min_hospitals", lambda: check_cohort(spec, strategy_options, hospitals))
    return settings


def _named(file: SettingsFile, key: str, make: Any) -> Any:
    """Name the file and the key in an error that knows neither."""
    try:
        return make()
    except SettingsError as error:
        if str(error).startswith(file.where):
            raise
        raise file.wrong(key, str(error)) from error


def _training(table: SettingsFile, task: Task, rounds: int) -> Hyperparameters:
    h = task.hyperparameters
    return replace(
        h,
        rounds=rounds,
        local_epochs=table.whole("local_epochs", h.local_epochs, least=1),
        batch_size=table.whole("batch_size", h.batch_size, least=1),
        lr=table.number("lr", h.lr, above=0),
        momentum=table.number("momentum", h.momentum, least=0, most=0.999999),
        weight_decay=table.number("weight_decay", h.weight_decay, least=0),
    )


def parse_port(text: str) -> int:
    """Return a port's number; 0 stands for a free one.

    Raises:
        SettingsError: it is none.
    """
    if not (text.isdecimal() and text.isascii() and int(text) < 65536):
        raise SettingsError(f"--port '{text}': a number from 0 to 65535 is needed")
    return int(text)


@dataclass(frozen=True)
class Place:
    """Where a job runs.

    Attributes:
        hospitals: the allow-list folder.
        host: the address to listen on.
        port: the port; 0 takes a free one.
        certificate: the server's certificate chain, PEM; None for plain text.
        key: its private key.
    """

    hospitals: Path
    host: str
    port: int
    certificate: Path | None
    key: Path | None


def settle_place(
    hospitals: Path | None,
    host: str | None,
    port: int,
    certificate: Path | None,
    key: Path | None,
    *,
    plain_text: bool,
) -> Place:
    """Check where a job runs.

    Raises:
        SettingsError: something is missing, a certificate cannot be used, or plain text is wanted beyond this
            machine.
    """
    if hospitals is None:
        raise SettingsError(
            "--hospitals is missing: the folder with each hospital's NAME.pub; or set FLOPS_HOSPITALS"
        )
    if plain_text:
        if certificate is not None or key is not None:
            raise SettingsError("--plain-text excludes --tls-cert and --tls-key")
        host = host or "127.0.0.1"
        if host not in LOOPBACK:
            raise SettingsError(f"--plain-text: {host} can be reached from other machines; TLS is needed there")
        return Place(hospitals, host, port, None, None)
    if certificate is None or key is None:
        raise SettingsError(
            "--tls-cert and --tls-key are needed (or FLOPS_TLS_CERT and FLOPS_TLS_KEY); for a trial, "
            "'flops server certificate' makes them"
        )
    check_pair(certificate, key)
    return Place(hospitals, host or "0.0.0.0", port, certificate, key)  # noqa: S104 - a container's only address


def check_list(settings: FederationSettings, config: Path, place: Place, listed: int) -> None:
    """Find out whether as many hospitals may come as a job needs.

    Raises:
        SettingsError: no job could ever begin.
    """
    if settings.gate is not None and listed < settings.gate.hospitals:
        raise SettingsError(
            f"{config}: gate.min_hospitals: {settings.gate.hospitals}, and the allow-list {place.hospitals} holds "
            f"{count(listed, 'key')}; no version could ever pass: lower it, or list more hospitals"
        )
    if listed < settings.min_hospitals:
        raise SettingsError(
            f"{config}: min_hospitals: {settings.min_hospitals}, and the allow-list {place.hospitals} holds "
            f"{count(listed, 'key')}; lower it, or list more hospitals"
        )
