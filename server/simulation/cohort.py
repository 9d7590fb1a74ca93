"""Training many sites at once by stacking their models.

Small models leave a processor idle between many tiny operations. Sites that start from the same weights are
stacked along a new first axis and trained by one set of larger operations (`torch.func.vmap`): the same
steps on the same batches as one site after another, up to rounding.

Stacks are bounded, because beyond the processor's cache they are slower than no stack: docs/benchmarks.md has
the measurements. Models whose layers depend on other examples of the batch, or draw at random, are not
stacked, nor models with buffers or shared weights, nor anything that `vmap` cannot express.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.func import functional_call, vmap
from torch.optim.sgd import sgd

from fl.data.dataset import concatenate
from fl.model import FROZEN, ModelState, load_state
from fl.training import TrainResult
from fl.training.batches import example_order
from fl.training.sequential import SequentialTrainer, score_examples, summarise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from fl.data.dataset import Dataset, Site
    from fl.tasks.base import Task
    from fl.training import Evaluation, TrainRequest, TrainSettings

_log = logging.getLogger("flops.cohort")

STACKED_PARAMETERS = {"cpu": 1_250_000, "cuda": 250_000_000}
"""How many parameters one stack may hold."""

_UNSTACKABLE = (
    torch.nn.modules.batchnorm._BatchNorm,
    torch.nn.modules.dropout._DropoutNd,
    torch.nn.RNNBase,
    torch.nn.MultiheadAttention,
)


class CohortTrainer:
    """A trainer that knows which requests come next, and trains them together.

    Announce a round's requests with `announce`; `train` then gives each one's result when it is asked for.
    A request that was not announced is trained alone.

    Args:
        task: what is learned.
        sites: all sites there are.
        device: a torch device.
    """

    def __init__(self, task: Task, sites: Sequence[Site], device: str = "cpu") -> None:
        self.task = task
        self._alone = SequentialTrainer(task, device)
        self._device = torch.device(device)
        with torch.random.fork_rng(devices=[]):
            self._model = task.model().to(self._device)
        self._site = {id(site.train): index for index, site in enumerate(sites)}
        self._offset = np.cumsum([0] + [len(site.train) for site in sites])
        everything = concatenate([site.train for site in sites])
        self._x = torch.from_numpy(everything.x).to(self._device)
        self._y = torch.from_numpy(everything.y).to(self._device)
        parameters = sum(p.numel() for p in self._model.parameters())
        self._most = STACKED_PARAMETERS[self._device.type] // max(parameters, 1)
        self._stackable = self._most > 1 and _can_stack(self._model)
        self._announced: dict[tuple[str, int], tuple[TrainRequest, TrainResult]] = {}
        self._evaluated: dict[int, tuple[ModelState, Evaluation]] = {}

    def announce(self, requests: Sequence[TrainRequest]) -> None:
        """Train a round's requests together; their results wait for `train`.

        Where that fails nothing is announced: each request then fails, or not, when its own turn comes.
        """
        self._announced = {}
        try:
            results = self.train_all(requests)
        except Exception:
            _log.debug("the cohort could not be trained together", exc_info=True)
            return
        for request, result in zip(requests, results, strict=True):
            self._announced[request.site.name, request.settings.round] = (request, result)

    def train(self, request: TrainRequest) -> TrainResult:
        """Return the announced request's result, or train it alone."""
        announced = self._announced.pop((request.site.name, request.settings.round), None)
        if announced is not None:
            known, result = announced
            if known.settings == request.settings and known.state.shares_arrays_with(request.state):
                return result
        return self._alone.train(request)

    def train_all(self, requests: Sequence[TrainRequest]) -> list[TrainResult]:
        """Train requests that share weights and settings, in their order."""
        if not self._stackable or len(requests) < 2:
            return [self._alone.train(request) for request in requests]
        # Sites of like size side by side: then few rows of a stack wait for the longest.
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i].site.train))
        stacks = -(-len(order) // self._most)
        results: dict[int, TrainResult] = {}
        for chunk in np.array_split(np.array(order), stacks):
            group = [requests[i] for i in chunk]
            try:
                trained = self._train_stack(group)
            except Exception:
                # vmap refuses what it cannot express, at the first call; the plain way can, or says what is wrong.
                _log.debug("the model cannot be stacked", exc_info=True)
                self._stackable = False
                trained = [self._alone.train(request) for request in group]
            results.update(zip(chunk.tolist(), trained, strict=True))
        return [results[i] for i in range(len(requests))]

    def announce_evaluation(self, state: ModelState, data: Sequence[Dataset]) -> None:
        """Evaluate one state on several data sets in one pass; results wait for `evaluate`."""
        self._evaluated = {}
        filled = [part for part in data if len(part)]
        if not filled:
            return
        load_state(self._model, state)
        self._model.eval()
        rows = score_examples(self._model, self.task, concatenate(filled), self._device)
        start = 0
        for part in filled:
            piece = {name: scores[start : start + len(part)] for name, scores in rows.items()}
            self._evaluated[id(part)] = (state, summarise(self.task, piece))
            start += len(part)

    def evaluate(self, state: ModelState, data: Dataset) -> Evaluation:
        """Return the announced evaluation, or evaluate now."""
        announced = self._evaluated.pop(id(data), None)
        if announced is not None and announced[0].shares_arrays_with(state):
            return announced[1]
        return self._alone.evaluate(state, data)

    def _train_stack(self, requests: Sequence[TrainRequest]) -> list[TrainResult]:
        """Train requests stacked, longest first."""
        state, settings = requests[0].state, requests[0].settings
        losses = [
            self._alone.evaluate(r.state, r.site.train).loss if settings.report_initial_loss else None
            for r in requests
        ]
        plan = _Plan(requests, [int(self._offset[self._site[id(r.site.train)]]) for r in requests])
        load_state(self._model, state)
        self._model.train()
        stacked = {
            name: p.detach().expand(len(requests), *p.shape).clone()
            for name, p in self._model.named_parameters()
            if p.requires_grad
        }
        fixed = dict(self._model.named_buffers())
        fixed |= {name: p.detach() for name, p in self._model.named_parameters() if not p.requires_grad}
        total = self._steps(plan, stacked, fixed, settings)
        arrays = {name: value.cpu().numpy() for name, value in stacked.items()}
        seen = settings.local_epochs
        return [
            TrainResult(
                ModelState(
                    {name: arrays[name][i] if name in arrays else old for name, old in state.arrays.items()},
                    state.frozen,
                ),
                len(request.site.train),
                float(total[i]) / (seen * max(len(request.site.train), 1)),
                losses[i],
            )
            for i, request in enumerate(requests)
        ]

    def _steps(
        self, plan: _Plan, stacked: dict[str, Tensor], fixed: dict[str, Tensor], settings: TrainSettings
    ) -> NDArray[np.float64]:
        """Run the plan's steps on the stacked parameters, in place; return each site's summed loss."""
        task, model = self.task, self._model

        def site_loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
            losses = task.loss(functional_call(model, (parameters, fixed), (x,)), y)
            return (losses * weight).sum()

        batched = vmap(site_loss)
        values = list(stacked.values())
        momenta: list[Tensor | None] = [torch.zeros_like(v) if settings.momentum else None for v in values]
        start = [v.clone() for v in values] if settings.proximal_mu else []
        total = torch.zeros(len(plan.sites), dtype=torch.float64, device=self._device)
        for indices, weights, sizes in plan.steps(self._device):
            count, width = indices.shape
            rows = indices.reshape(-1)
            x = self._x[rows].reshape(count, width, *self._x.shape[1:])
            y = self._y[rows].reshape(count, width, *self._y.shape[1:])
            active = [v[:count].detach().requires_grad_() for v in values]
            losses = batched(dict(zip(stacked, active, strict=True)), x, y, weights)
            gradients = torch.autograd.grad(losses.sum(), active, allow_unused=True)
            # A parameter that the loss does not depend on is left alone, as torch's own optimizer does.
            used = [i for i, gradient in enumerate(gradients) if gradient is not None]
            with torch.no_grad():
                step = [gradients[i] for i in used]
                if start:
                    step = [
                        g + settings.proximal_mu * (active[i] - start[i][:count])
                        for i, g in zip(used, step, strict=True)
                    ]
                sgd(
                    [active[i].detach() for i in used],
                    step,
                    [None if (m := momenta[i]) is None else m[:count] for i in used],
                    weight_decay=settings.weight_decay,
                    momentum=settings.momentum,
                    lr=settings.lr,
                    dampening=0.0,
                    nesterov=False,
                    maximize=False,
                    foreach=True,
                )
                total[:count] += losses.detach().double() * sizes
        return total.cpu().numpy()


def _can_stack(model: torch.nn.Module) -> bool:
    """Tell whether examples and sites are independent in a model, and its state is its parameters alone."""
    modules = any(isinstance(module, _UNSTACKABLE) for module in model.modules())
    buffers = any(not name.startswith(FROZEN) for name, _ in model.named_buffers())
    every = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    shared = len(every) != len(list(model.named_parameters()))
    return not (modules or buffers or shared)


class _Plan:
    """Which examples each step of a stack takes.

    Sites come longest first, so that those still training are always the first ones; a short batch is padded
    with examples of weight 0.
    """

    def __init__(self, requests: Sequence[TrainRequest], offsets: Sequence[int]) -> None:
        settings = requests[0].settings
        self.sites = [request.site.name for request in requests]
        self._batch = settings.batch_size
        self._epochs = settings.local_epochs
        self._examples = np.array([len(request.site.train) for request in requests])
        self._orders = [
            example_order(request.site.name, len(request.site.train), settings) + offset
            for request, offset in zip(requests, offsets, strict=True)
        ]

    def steps(self, device: torch.device) -> Any:
        """Yield for each step: indices ``(sites, width)``, weights alike (1 / batch, or 0), sizes ``(sites,)``."""
        per_epoch = -(-self._examples // self._batch)
        steps = per_epoch * self._epochs
        for step in range(int(steps.max(initial=0))):
            active = int(np.count_nonzero(steps > step))
            epoch, position = np.divmod(np.full(active, step), per_epoch[:active])
            start = position * self._batch
            sizes = np.minimum(self._examples[:active] - start, self._batch)
            indices = np.zeros((active, int(sizes.max())), dtype=np.int64)
            weights = np.zeros(indices.shape, dtype=np.float32)
            for row in range(active):
                size, first = sizes[row], start[row]
                chosen = self._orders[row][epoch[row], first : first + size]
                indices[row, :size] = chosen
                indices[row, size:] = chosen[0]
                weights[row, :size] = 1.0 / size
            yield (
                torch.from_numpy(indices).to(device),
                torch.from_numpy(weights).to(device),
                torch.from_numpy(sizes).to(device),
            )
