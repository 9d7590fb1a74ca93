"""Aggregation strategies by name: those of Flower 1.41 that fit models made of arrays.

Not here: FedXgbBagging and FedXgbCyclic, which aggregate trees, and the differential-privacy wrappers, which
wrap one of these.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fl.errors import SettingsError, nearest, unknown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flwr.serverapp.strategy import FedAvg

    from fl.tasks.base import Hyperparameters


@dataclass(frozen=True)
class Option:
    """A number that a strategy takes.

    Attributes:
        default: its type is the option's type.
        help: what it does.
        low: the least value allowed.
        high: the greatest; not allowed itself where `below` is set.
        above: the low end is not allowed itself.
        below: the high end is not allowed itself.
    """

    default: float
    help: str
    low: float = 0.0
    high: float = float("inf")
    above: bool = False
    below: bool = False

    @property
    def range(self) -> str:
        """The values allowed, for people."""
        if self.high == float("inf"):
            return f"above {self.low:g}" if self.above else f"at least {self.low:g}"
        return f"{'above ' if self.above else ''}{self.low:g} to {'below ' if self.below else ''}{self.high:g}"

    def parse(self, name: str, text: str) -> float:
        """Read a value.

        Raises:
            SettingsError: not a number of the option's type, or out of range.
        """
        kind = "a whole number" if isinstance(self.default, int) else "a number"
        try:
            value = type(self.default)(text)
        except ValueError:
            raise SettingsError(f"strategy option {name}={text}: {kind} is needed") from None
        too_low = value <= self.low if self.above else value < self.low
        too_high = value >= self.high if self.below else value > self.high
        if too_low or too_high or not math.isfinite(value):
            raise SettingsError(f"strategy option {name}={text}: out of range ({self.range})")
        return value


@dataclass(frozen=True)
class StrategySpec:
    """A strategy: Flower's class, what it takes and where it comes from.

    Attributes:
        name: as the user types it.
        flower: the class in ``flwr.serverapp.strategy``.
        title: one line.
        paper: the source.
        options: by the name of Flower's own parameter.
        needs_all: it compares replies with each other, so all must be kept until the last has come.
        initial_loss: clients must also report the received weights' loss.
    """

    name: str
    flower: str
    title: str
    paper: str
    options: Mapping[str, Option] = field(default_factory=dict)
    needs_all: bool = False
    initial_loss: bool = False


def _adaptive(eta: float, *, momentum: bool) -> dict[str, Option]:
    options = {"eta": Option(eta, "server learning rate", above=True)}
    if momentum:
        options["beta_1"] = Option(0.9, "decay of the mean of updates", high=1.0, below=True)
        options["beta_2"] = Option(0.99, "decay of the mean of squared updates", high=1.0, below=True)
    options["tau"] = Option(1e-3, "degree of adaptivity; smaller adapts more", above=True)
    return options


_MALICIOUS = Option(0, "how many hospitals may send anything at all")

STRATEGIES: Mapping[str, StrategySpec] = {
    spec.name: spec
    for spec in (
        StrategySpec(
            "fedavg",
            "FedAvg",
            "mean of the models, weighted by examples",
            "McMahan et al. 2017, arXiv:1602.05629",
        ),
        StrategySpec(
            "fedprox",
            "FedProx",
            "FedAvg whose hospitals stay near the received weights",
            "Li et al. 2020, arXiv:1812.06127",
            {"proximal_mu": Option(0.1, "weight of the pull towards the received weights")},
        ),
        StrategySpec(
            "fedavgm",
            "FedAvgM",
            "FedAvg with momentum at the server",
            "Hsu et al. 2019, arXiv:1909.06335",
            {
                "server_learning_rate": Option(1.0, "step towards the mean", above=True),
                "server_momentum": Option(0.5, "part of the last step that is kept", high=1.0, below=True),
            },
        ),
        StrategySpec(
            "fedadam",
            "FedAdam",
            "Adam at the server",
            "Reddi et al. 2021, arXiv:2003.00295",
            _adaptive(0.01, momentum=True),
        ),
        StrategySpec(
            "fedyogi",
            "FedYogi",
            "Yogi at the server",
            "Reddi et al. 2021, arXiv:2003.00295",
            _adaptive(0.01, momentum=True),
        ),
        StrategySpec(
            "fedadagrad",
            "FedAdagrad",
            "Adagrad at the server",
            "Reddi et al. 2021, arXiv:2003.00295",
            _adaptive(0.1, momentum=False),
        ),
        StrategySpec(
            "qfedavg",
            "QFedAvg",
            "fairer: hospitals with a high loss weigh more",
            "Li et al. 2020, openreview.net/forum?id=ByexElSYDr",
            {"q": Option(0.1, "degree of fairness; 0 weighs all hospitals alike")},
            needs_all=True,
            initial_loss=True,
        ),
        StrategySpec(
            "fedmedian",
            "FedMedian",
            "median of each weight; withstands bad hospitals",
            "Yin et al. 2018, arXiv:1803.01498",
            needs_all=True,
        ),
        StrategySpec(
            "fedtrimmedavg",
            "FedTrimmedAvg",
            "mean of each weight without the extremes",
            "Yin et al. 2018, arXiv:1803.01498",
            {"beta": Option(0.2, "part that is cut off at each end", high=0.5, below=True)},
            needs_all=True,
        ),
        StrategySpec(
            "krum",
            "Krum",
            "the one model nearest to the others",
            "Blanchard et al. 2017, arXiv:1703.02757",
            {"num_malicious_nodes": _MALICIOUS},
            needs_all=True,
        ),
        StrategySpec(
            "multikrum",
            "MultiKrum",
            "mean of the models nearest to the others",
            "Blanchard et al. 2017, arXiv:1703.02757",
            {
                "num_malicious_nodes": _MALICIOUS,
                "num_nodes_to_select": Option(3, "how many models are averaged", low=1),
            },
            needs_all=True,
        ),
        StrategySpec(
            "bulyan",
            "Bulyan",
            "Krum's choice, then the values nearest the median",
            "El Mhamdi et al. 2018, arXiv:1802.07927",
            {"num_malicious_nodes": _MALICIOUS},
            needs_all=True,
        ),
    )
}


def find_strategy(name: str) -> StrategySpec:
    """Return the strategy of this name; upper case and dashes do not matter.

    Raises:
        SettingsError: no such strategy; suggests the nearest.
    """
    spec = STRATEGIES.get(name.lower().replace("-", "").replace("_", ""))
    if spec is None:
        raise unknown("strategy", name, STRATEGIES)
    return spec


def parse_options(spec: StrategySpec, pairs: Sequence[str]) -> dict[str, float]:
    """Read ``name=value`` pairs and add the defaults.

    Raises:
        SettingsError: unknown name, value out of range, or a pair that is none.
    """
    values: dict[str, float] = {name: option.default for name, option in spec.options.items()}
    given: set[str] = set()
    for pair in pairs:
        name, equals, text = pair.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise SettingsError(f"strategy option '{pair}': write name=value")
        if name not in spec.options:
            known = ", ".join(spec.options) or "none"
            raise SettingsError(
                f"strategy {spec.name} has no option '{name}'{nearest(name, spec.options)}; it takes: {known}"
            )
        if name in given:
            raise SettingsError(f"strategy option '{name}' is given twice")
        given.add(name)
        values[name] = spec.options[name].parse(name, text.strip())
    return values


def check_cohort(spec: StrategySpec, options: Mapping[str, float], cohort: int) -> None:
    """Check that a round has enough hospitals for the strategy's guarantee.

    Args:
        spec: the strategy.
        options: its options.
        cohort: how many hospitals take part in a round.

    Raises:
        SettingsError: too few; the message says how many are needed.
    """
    bad = int(options.get("num_malicious_nodes", 0))
    needed = {"bulyan": 4 * bad + 3, "krum": 2 * bad + 3, "multikrum": 2 * bad + 3}.get(spec.name, 1)
    if cohort < needed:
        raise SettingsError(
            f"strategy {spec.name} with num_malicious_nodes={bad} needs at least {needed} hospitals "
            f"in a round, there are {cohort}"
        )
    selected = int(options.get("num_nodes_to_select", 1))
    if selected > cohort:
        raise SettingsError(f"strategy {spec.name}: num_nodes_to_select={selected} of {cohort} hospitals in a round")


def make_strategy(spec: StrategySpec, options: Mapping[str, float], hyperparameters: Hyperparameters) -> FedAvg:
    """Make Flower's strategy object. Whom to ask in a round is not its business: it asks all it is given."""
    from flwr.serverapp import strategy

    from fl import messages

    arguments: dict[str, Any] = dict(options)
    if spec.initial_loss:
        arguments["client_learning_rate"] = hyperparameters.lr
        arguments["train_loss_key"] = messages.INITIAL_LOSS
    made: FedAvg = getattr(strategy, spec.flower)(
        min_train_nodes=1,
        min_evaluate_nodes=1,
        min_available_nodes=1,
        weighted_by_key=messages.EXAMPLES,
        arrayrecord_key=messages.ARRAYS,
        configrecord_key=messages.CONFIG,
        **arguments,
    )
    return made
