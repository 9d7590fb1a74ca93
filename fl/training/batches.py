"""The order in which a site's examples are seen: the same for every engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fl.data.dataset import site_key

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fl.training import TrainSettings


def example_order(site: str, examples: int, settings: TrainSettings) -> NDArray[np.int64]:
    """Return indices of shape ``(local_epochs, examples)``: a permutation for each epoch.

    Seed, round and the site's name fix it, so that it is the same in one process and in containers.
    """
    rng = np.random.default_rng([settings.seed, settings.round, site_key(site)])
    order = np.tile(np.arange(examples), (settings.local_epochs, 1))
    return rng.permuted(order, axis=1)
