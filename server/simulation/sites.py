"""The hospitals of a federation on one machine: data read or loaded, dealt, and split."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fl.data.dataset import Dataset, Site, concatenate, split_site
from fl.data.dealing import deal_examples, load_examples
from fl.data.schema import TableSchema
from fl.data.table import read_sites
from fl.errors import SettingsError

if TYPE_CHECKING:
    from fl.tasks.base import Task
    from server.simulation.settings import RunSettings


def make_sites(task: Task, settings: RunSettings, split_seed: int | None = None) -> list[Site]:
    """Return the hospitals, in the order of their names' first appearance.

    Args:
        task: what is learned.
        settings: how the data is dealt.
        split_seed: decides what is held out; by default the settings' seed.

    Raises:
        DataError: a data file does not fit its schema.
        SettingsError: the partition does not fit the data.
    """
    seed = settings.seed if split_seed is None else split_seed
    sites = [split_site(name, data, seed) for name, data in _shares(task, settings).items()]
    if not any(len(site.holdout) for site in sites):
        raise SettingsError(
            f"none of the {len(sites)} hospitals has two examples, so nothing is left to evaluate on; lower --clients"
        )
    return sites


def _shares(task: Task, settings: RunSettings) -> dict[str, Dataset]:
    natural: dict[str, Dataset] = {}
    if settings.data and isinstance(task.schema, TableSchema):
        natural = read_sites(settings.data, task.schema)
    if settings.partition.kind == "natural":
        return _natural(task, settings, natural)
    if natural:
        whole = concatenate(list(natural.values()))
        clients = settings.clients or len(natural)
    elif task.load is not None:
        whole = load_examples(task)
        clients = settings.clients or task.clients
    else:
        raise SettingsError(f"task '{settings.task}' has no data to deal")
    return deal_examples(whole, settings.partition, clients, settings.seed)


def _natural(task: Task, settings: RunSettings, natural: dict[str, Dataset]) -> dict[str, Dataset]:
    if not natural:
        raise SettingsError(
            f"partition 'natural': task '{settings.task}' does not say which hospital an example is from; "
            "use iid, dirichlet:ALPHA or unequal:SIGMA"
        )
    if len(settings.data) == 1 and isinstance(task.schema, TableSchema) and task.schema.site is None:
        raise SettingsError(
            "one data file without a site column is one hospital: give --data once for each hospital, "
            "set 'site' in the schema, or deal the file out with --partition iid --clients N"
        )
    if settings.clients is not None and settings.clients != len(natural):
        raise SettingsError(
            f"--clients {settings.clients}: the data has {len(natural)} hospitals "
            f"({', '.join(list(natural)[:5])}{', …' if len(natural) > 5 else ''}); leave --clients out, or "
            "choose --partition iid"
        )
    return natural
