"""The plain way to train: one site, one model, PyTorch's own SGD."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch.optim.sgd import sgd

from fl.data.dataset import site_key
from fl.model import ModelState, load_state, read_state
from fl.training import Evaluation, TrainResult
from fl.training.batches import example_order

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor
    from torch.nn import Parameter

    from fl.data.dataset import Dataset
    from fl.tasks.base import Task
    from fl.training import TrainRequest, TrainSettings

EVALUATION_BATCH = 1024
"""Examples a step in evaluation."""


class SequentialTrainer:
    """Trains one site after another with one model that is kept and refilled.

    Args:
        task: what is learned.
        device: a torch device, such as "cpu" or "cuda".
        on_epoch: called after each pass over the data.
    """

    def __init__(self, task: Task, device: str = "cpu", on_epoch: Callable[[], None] | None = None) -> None:
        self.task = task
        self._device = torch.device(device)
        self._on_epoch = on_epoch or (lambda: None)
        with torch.random.fork_rng(devices=[]):
            self._model = task.model().to(self._device)
        norms = torch.nn.modules.batchnorm._BatchNorm
        # Batch normalisation has no variance over a single example: a last batch of one is left out.
        self._least = 2 if any(isinstance(m, norms) for m in self._model.modules()) else 1

    def train(self, request: TrainRequest) -> TrainResult:
        """Train the received weights on the site's training data.

        Sources: McMahan et al. (2017), algorithm 1, ClientUpdate; the proximal term after Li et al. (2020),
        "Federated optimization in heterogeneous networks", algorithm 2.
        """
        settings, data = request.settings, request.site.train
        initial = self.evaluate(request.state, data).loss if settings.report_initial_loss else None
        load_state(self._model, request.state)
        self._model.train()
        parameters = list(self._model.parameters())
        received = [p.detach().clone() for p in parameters] if settings.proximal_mu else []
        momenta: list[Tensor | None] = [None] * len(parameters)
        x = torch.from_numpy(data.x).to(self._device)
        y = torch.from_numpy(data.y).to(self._device)
        order = torch.from_numpy(example_order(request.site.name, len(data), settings)).to(self._device)
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        seen = 0
        with torch.random.fork_rng(devices=[]):
            # Models that draw at random, as dropout does, draw the same for the same round and site.
            torch.manual_seed(hash((settings.seed, settings.round, site_key(request.site.name))) & (2**63 - 1))
            for epoch in order:
                for batch in epoch.split(settings.batch_size):
                    if len(batch) < self._least:
                        continue
                    self._model.zero_grad()
                    loss = self.task.loss(self._model(x[batch]), y[batch]).mean()
                    loss.backward()  # type: ignore[no-untyped-call]
                    for parameter, start in zip(parameters, received, strict=False):
                        if parameter.grad is not None:
                            parameter.grad.add_(parameter.detach() - start, alpha=settings.proximal_mu)
                    _step(parameters, momenta, settings)
                    total += loss.detach() * len(batch)
                    seen += len(batch)
                self._on_epoch()
        trained = read_state(self._model)
        return TrainResult(
            ModelState(trained.arrays, request.state.frozen, trained.buffers),
            len(data),
            total.item() / seen if seen else float("nan"),
            initial,
        )

    def evaluate(self, state: ModelState, data: Dataset) -> Evaluation:
        """Evaluate weights on a data set."""
        load_state(self._model, state)
        self._model.eval()
        rows = score_examples(self._model, self.task, data, self._device)
        return summarise(self.task, rows)


def _step(parameters: Sequence[Parameter], momenta: list[Tensor | None], settings: TrainSettings) -> None:
    """Take one step of SGD, in place.

    This is the function behind ``torch.optim.SGD``. The class itself would import PyTorch's compiler, which no task
    needs, and every process that trains would start 1.7 s later.

    Args:
        parameters: with their gradients; those without one are left alone.
        momenta: each parameter's momentum, None before its first step; replaced in place.
        settings: learning rate, momentum and weight decay.
    """
    used = [i for i, parameter in enumerate(parameters) if parameter.grad is not None]
    gradients = [cast("Tensor", parameters[i].grad) for i in used]
    stepped = [momenta[i] for i in used]
    with torch.no_grad():
        sgd(
            [parameters[i] for i in used],
            gradients,
            stepped,
            has_sparse_grad=any(gradient.is_sparse for gradient in gradients),
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
            lr=settings.lr,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
    for i, momentum in zip(used, stepped, strict=True):
        momenta[i] = momentum


def score_examples(
    model: torch.nn.Module, task: Task, data: Dataset, device: torch.device
) -> dict[str, torch.Tensor]:
    """Return each example's loss (under "loss") and metrics, float64 tensors of shape ``(examples,)``."""
    parts: dict[str, list[torch.Tensor]] = {"loss": [], **{name: [] for name in task.metrics}}
    with torch.inference_mode():
        for start in range(0, len(data), EVALUATION_BATCH):
            x = torch.from_numpy(data.x[start : start + EVALUATION_BATCH]).to(device)
            y = torch.from_numpy(data.y[start : start + EVALUATION_BATCH]).to(device)
            outputs = model(x)
            parts["loss"].append(task.loss(outputs, y).double())
            for name, metric in task.metrics.items():
                parts[name].append(metric(outputs, y).double())
    return {
        name: torch.cat(rows).cpu() if rows else torch.zeros(0, dtype=torch.float64) for name, rows in parts.items()
    }


def summarise(task: Task, rows: dict[str, torch.Tensor]) -> Evaluation:
    """Average examples' scores into an evaluation; no examples give NaN."""
    means = {name: scores.mean().item() if len(scores) else float("nan") for name, scores in rows.items()}
    return Evaluation(len(rows["loss"]), means["loss"], {name: means[name] for name in task.metrics})
