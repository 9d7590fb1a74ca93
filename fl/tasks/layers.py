"""Layers for tasks' models. Importing this imports torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Statistics(nn.Module):
    """An input layer that fills missing features and scales all, with federated statistics.

    Takes float64 of shape ``(examples, features)``, NaN where missing; gives float32 of the same shape. The
    arithmetic is float64, so that large values with a small spread keep it.
    """

    fill: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("fill", torch.zeros(features, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(features, dtype=torch.float64))
        self.register_buffer("std", torch.ones(features, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Fill and scale."""
        filled = torch.where(torch.isnan(x), self.fill, x)
        return ((filled - self.mean) / self.std).float()
