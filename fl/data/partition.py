"""Partitions for research: how one data set is dealt to many hospitals.

Sources: label skew after Hsu, Qi, Brown, "Measuring the effects of non-identical data distribution for
federated visual classification" (2019), section 3, with the classes drawn per class as in Yurochkin et al.,
"Bayesian nonparametric federated learning of neural networks" (2019), section 4; log-normal sizes as in
Li et al., "Federated optimization in heterogeneous networks" (2020), appendix C.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from fl.errors import SettingsError, nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

Kind = Literal["iid", "dirichlet", "unequal", "natural"]
_DEFAULTS: dict[Kind, float | None] = {"iid": None, "dirichlet": 0.5, "unequal": 1.0, "natural": None}
_PARAMETERS: dict[Kind, str] = {"dirichlet": "alpha", "unequal": "sigma"}
_MOST: dict[Kind, float] = {"dirichlet": 1e6, "unequal": 10.0}
"""Larger numbers deal as these do, and leave the finite numbers sooner or later."""


@dataclass(frozen=True)
class Partition:
    """A way to deal out examples: its kind and, for some kinds, one number above 0."""

    kind: Kind
    parameter: float | None = None

    def __str__(self) -> str:
        return self.kind if self.parameter is None else f"{self.kind}:{self.parameter:g}"


def parse_partition(text: str) -> Partition:
    """Read ``iid``, ``dirichlet[:ALPHA]``, ``unequal[:SIGMA]`` or ``natural``.

    Raises:
        SettingsError: unknown kind, or a number that is missing, superfluous or not above 0.
    """
    kind, colon, number = text.strip().lower().partition(":")
    if kind not in _DEFAULTS:
        raise SettingsError(
            f"unknown partition '{text}'{nearest(kind, _DEFAULTS)}; "
            "known: iid, dirichlet:ALPHA, unequal:SIGMA, natural"
        )
    if not colon:
        return Partition(kind, _DEFAULTS[kind])
    if kind not in _PARAMETERS:
        raise SettingsError(f"partition '{kind}' takes no number, got '{number}'")
    name = _PARAMETERS[kind]
    try:
        value = float(number)
    except ValueError:
        value = float("nan")
    if not 0 < value <= _MOST[kind]:
        raise SettingsError(
            f"partition '{text}': {name} must be a number above 0 and at most {_MOST[kind]:g}, for example {kind}:0.3"
        )
    return Partition(kind, value)


def deal(partition: Partition, labels: NDArray[np.int64], clients: int, seed: int) -> list[NDArray[np.int64]]:
    """Deal examples to clients; everyone gets at least one and every example has one owner.

    Args:
        partition: iid, dirichlet or unequal; natural sites come from the data instead.
        labels: class indices, shape ``(examples,)``.
        clients: how many to deal to.
        seed: the same seed deals the same way.

    Returns:
        For each client the indices of its examples, ascending.

    Raises:
        SettingsError: fewer examples than clients.
    """
    if clients > len(labels):
        raise SettingsError(
            f"{clients} clients cannot share {len(labels)} examples: each needs at least one; lower --clients"
        )
    rng = np.random.default_rng([seed, clients])
    if partition.kind == "dirichlet":
        parts = _by_label(labels, clients, partition.parameter or 0.5, rng)
    elif partition.kind == "unequal":
        parts = _by_size(len(labels), clients, partition.parameter or 1.0, rng)
    else:
        parts = np.array_split(rng.permutation(len(labels)), clients)
    return [np.sort(part) for part in _nobody_empty(parts)]


def _by_label(
    labels: NDArray[np.int64], clients: int, alpha: float, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    shares: list[list[NDArray[np.int64]]] = [[] for _ in range(clients)]
    for label in np.unique(labels):
        owners = rng.permutation(np.flatnonzero(labels == label))
        # A tiny alpha underflows to all zeros: then one client owns the class.
        weights = np.nan_to_num(rng.dirichlet(np.full(clients, alpha)))
        if weights.sum() <= 0:
            weights[rng.integers(clients)] = 1.0
        cuts = (np.cumsum(weights / weights.sum())[:-1] * len(owners)).round().astype(np.int64)
        for client, piece in enumerate(np.split(owners, cuts)):
            shares[client].append(piece)
    return [np.concatenate(pieces) for pieces in shares]


def _by_size(examples: int, clients: int, sigma: float, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    weights = rng.lognormal(0.0, sigma, clients)
    cuts = (np.cumsum(weights / weights.sum())[:-1] * examples).round().astype(np.int64)
    return list(np.split(rng.permutation(examples), cuts))


def _nobody_empty(parts: list[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Give each client that drew nothing one example of whoever then has most."""
    parts = list(parts)
    for client in range(len(parts)):
        if len(parts[client]) == 0:
            rich = max(range(len(parts)), key=lambda i: len(parts[i]))
            parts[client], parts[rich] = parts[rich][-1:], parts[rich][:-1]
    return parts
