"""What a researcher asks of `flops run`: checked once, passed down as a value."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fl.data.partition import Partition, parse_partition
from fl.data.schema import TableSchema
from fl.errors import SettingsError
from fl.tasks import find_task
from server.registry_names import default_model, is_model_name
from server.strategies import find_strategy, parse_options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fl.tasks.base import Hyperparameters, Task
    from server.strategies import StrategySpec

Engine = Literal["local", "ray"]


@dataclass(frozen=True)
class RunSettings:
    """One federation on one machine.

    Attributes:
        task: the task's name, as given.
        schema: the schema file, for tables.
        data: data files, for tables.
        clients: how many hospitals; None for as many as the data has.
        partition: how the data is dealt.
        hyperparameters: rounds and local training.
        fraction: the part of the hospitals that trains in a round.
        seed: fixes everything that is drawn.
        strategy: the strategy's name.
        strategy_options: its options, defaults included.
        engine: local or ray.
        device: cpu or cuda, settled.
        continued: start from the newest version.
        compare: also train each hospital alone, and all data pooled.
        model_name: the registered model.
        out: the output folder.
    """

    task: str
    schema: Path | None
    data: tuple[Path, ...]
    clients: int | None
    partition: Partition
    hyperparameters: Hyperparameters
    fraction: float
    seed: int
    strategy: str
    strategy_options: Mapping[str, float]
    engine: Engine
    device: str
    continued: bool
    compare: bool
    model_name: str
    out: Path

    @property
    def strategy_spec(self) -> StrategySpec:
        """The strategy."""
        return find_strategy(self.strategy)

    def as_parameters(self) -> dict[str, Any]:
        """Return flat plain values, for the registry."""
        import torch

        from fl import __version__

        values: dict[str, Any] = {
            name: value
            for name, value in asdict(self).items()
            if name not in ("hyperparameters", "strategy_options", "partition", "data", "schema", "out")
        }
        values |= asdict(self.hyperparameters)
        values |= {f"strategy.{name}": value for name, value in self.strategy_options.items()}
        values["partition"] = str(self.partition)
        # The same seed gives the same bits only with the same of these.
        values |= {"flops": __version__, "torch": torch.__version__}
        if self.schema is not None:
            values["schema"] = str(self.schema)
            values["data"] = ", ".join(str(path) for path in self.data)
        return values


def settle(  # noqa: PLR0913 - one argument an option
    task: str,
    *,
    schema: Path | None = None,
    data: Sequence[Path] = (),
    clients: int | None = None,
    partition: str | None = None,
    strategy: str = "fedavg",
    strategy_options: Sequence[str] = (),
    fraction: float = 1.0,
    seed: int = 0,
    engine: Engine = "local",
    device: str = "auto",
    continued: bool = False,
    compare: bool = False,
    model_name: str | None = None,
    out: Path | None = None,
    **training: float | None,
) -> tuple[Task, RunSettings]:
    """Check options, fill in the task's defaults, and return the task with the settled settings.

    Args:
        task: the task's name; the further arguments are `RunSettings`' attributes as texts or None.
        **training: `Hyperparameters` by name; None for the task's default.

    Raises:
        SettingsError: something does not fit; the message says what.
    """
    found = find_task(task, schema)
    if data and (found.load is not None or not isinstance(found.schema, TableSchema)):
        raise SettingsError(f"--data belongs to the task 'tabular'; '{task}' brings its own data")
    if not data and found.load is None:
        raise SettingsError(f"task '{task}' needs --data FILE, once for each hospital")
    if clients is not None and clients < 1:
        raise SettingsError(f"--clients {clients}: at least 1 hospital is needed")
    if not 0 < fraction <= 1:
        raise SettingsError(f"--fraction {fraction:g}: a number above 0 and up to 1 is needed")
    if not 0 <= seed < 2**63:
        raise SettingsError(f"--seed {seed}: a whole number from 0 to 2^63 - 1 is needed")
    spec = find_strategy(strategy)
    hyperparameters = replace(found.hyperparameters, **{k: v for k, v in training.items() if v is not None})  # type: ignore[arg-type]
    _check_training(hyperparameters)
    name = model_name or default_model(task)
    if not is_model_name(name):
        raise SettingsError(f"--model-name '{name}': letters, digits, spaces and '-_.' only")
    return found, RunSettings(
        task=task,
        schema=schema,
        data=tuple(data),
        clients=clients,
        partition=parse_partition(partition or ("natural" if data else "iid")),
        hyperparameters=hyperparameters,
        fraction=fraction,
        seed=seed,
        strategy=spec.name,
        strategy_options=parse_options(spec, strategy_options),
        engine=engine,
        device=settle_device(device),
        continued=continued,
        compare=compare,
        model_name=name,
        out=out or Path("flops-out") / name.removeprefix("flops-"),
    )


def settle_device(device: str) -> str:
    """Return cpu or cuda for auto, cpu or cuda.

    Raises:
        SettingsError: cuda is asked for and there is none.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("--device cuda: this machine has no usable CUDA device; use --device cpu")
    return device


def _check_training(h: Hyperparameters) -> None:
    for name, value in (
        ("rounds", h.rounds),
        ("local-epochs", h.local_epochs),
        ("batch-size", h.batch_size),
    ):
        if value < 1:
            raise SettingsError(f"--{name} {value}: at least 1 is needed")
    if not 0 < h.lr < float("inf"):
        raise SettingsError(f"--lr {h.lr:g}: a number above 0 is needed")
    if not 0 <= h.momentum < 1:
        raise SettingsError(f"--momentum {h.momentum:g}: a number from 0 to below 1 is needed")
