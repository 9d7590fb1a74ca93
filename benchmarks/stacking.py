"""When does stacking many models beat training them one by one?

One training step (forward, backward) of K models: one after another, and stacked with `torch.func.vmap`. The ratio
says which bound `server.simulation.cohort.STACKED_PARAMETERS` should have.

    python benchmarks/stacking.py
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = 1.5
"""How long each side is repeated."""


def cnn(channels: int, hidden: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(channels, 2 * channels, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * channels * 49, hidden),
        nn.ReLU(),
        nn.Linear(hidden, 10),
    )


def perceptron(inputs: int, hidden: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(inputs, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, 10),
    )


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "perceptron 30-32-32-10": (lambda: perceptron(30, 32), (30,), 16),
    "CNN 16-32 on 28 by 28": (lambda: cnn(16, 64), (1, 28, 28), 16),
    "perceptron 784-200-200-10": (lambda: perceptron(784, 200), (784,), 32),
    "CNN 32-64 on 28 by 28": (lambda: cnn(32, 512), (1, 28, 28), 32),
    "perceptron 784-1000-1000-10": (lambda: perceptron(784, 1000), (784,), 32),
}


def milliseconds(step: Callable[[], object]) -> float:
    step()
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < SECONDS:
        step()
        count += 1
    return (time.perf_counter() - started) / count * 1000


def compare(model: nn.Module, shape: tuple[int, ...], batch: int, count: int) -> tuple[float, float]:
    x, y = torch.randn(count, batch, *shape), torch.randint(0, 10, (count, batch))
    stacked = {
        name: p.detach().expand(count, *p.shape).clone().requires_grad_() for name, p in model.named_parameters()
    }

    def loss(parameters: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(functional_call(model, parameters, (inputs,)), targets)

    batched = vmap(loss)

    def one_by_one() -> None:
        for i in range(count):
            model.zero_grad()
            functional.cross_entropy(model(x[i]), y[i]).backward()

    def together() -> None:
        torch.autograd.grad(batched(stacked, x, y).sum(), list(stacked.values()))

    return milliseconds(one_by_one), milliseconds(together)


def main() -> None:
    print(f"{'model':<28} {'parameters':>10} {'K':>4} {'one by one':>11} {'stacked':>9} {'ratio':>6}")
    for name, (make, shape, batch) in CASES.items():
        for count in (4, 10, 50):
            model = make()
            parameters = sum(p.numel() for p in model.parameters())
            alone, together = compare(model, shape, batch, count)
            times = f"{alone:>8.1f} ms {together:>6.1f} ms {together / alone:>6.2f}"
            print(f"{name:<28} {parameters:>10,} {count:>4} {times}")


if __name__ == "__main__":
    main()
