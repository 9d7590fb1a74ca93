import inspect

import pytest
from flwr.serverapp import strategy as flower

from fl.errors import SettingsError
from fl.tasks.base import Hyperparameters
from server.strategies import STRATEGIES, check_cohort, find_strategy, make_strategy, parse_options

PLUMBING = set(inspect.signature(flower.FedAvg).parameters) | {
    "client_learning_rate",  # Ours to set, from --lr.
    "train_loss_key",
    "eta_l",  # Flower's adaptive strategies take it and do not use it.
    "selection_rule",
}
OTHER_MODELS = {"FedXgbBagging", "FedXgbCyclic"}


def test_every_strategy_of_flower_that_fits_is_here():
    shipped = {
        name
        for name in flower.__all__
        if inspect.isclass(found := getattr(flower, name)) and issubclass(found, flower.FedAvg)
    }

    assert {spec.flower for spec in STRATEGIES.values()} == shipped - OTHER_MODELS


@pytest.mark.parametrize("spec", STRATEGIES.values(), ids=lambda spec: spec.name)
def test_options_are_those_of_flowers_class_and_reach_it(spec):
    parameters = set(inspect.signature(getattr(flower, spec.flower)).parameters) - PLUMBING
    assert set(spec.options) == parameters

    made = make_strategy(spec, parse_options(spec, []), Hyperparameters())

    for name, option in spec.options.items():
        assert getattr(made, name) == option.default


def test_names_are_forgiving_and_unknown_ones_suggest():
    assert find_strategy("FedAdam").name == "fedadam"
    assert find_strategy("multi-krum").name == "multikrum"
    with pytest.raises(SettingsError, match=r"unknown strategy 'fedadm' \(did you mean 'fedadam'\?\)"):
        find_strategy("fedadm")


@pytest.mark.parametrize(
    ("name", "pair", "said"),
    [
        ("fedadam", "etta=1", "has no option 'etta' (did you mean 'eta'?); it takes: eta, beta_1, beta_2, tau"),
        ("fedadam", "eta", "write name=value"),
        ("fedadam", "eta=fast", "eta=fast: a number is needed"),
        ("fedadam", "eta=0", "out of range (above 0)"),
        ("fedadam", "eta=nan", "out of range"),
        ("fedtrimmedavg", "beta=0.5", "out of range (0 to below 0.5)"),
        ("krum", "num_malicious_nodes=1.5", "a whole number is needed"),
        ("fedavg", "eta=1", "it takes: none"),
    ],
)
def test_a_wrong_option_is_one_line(name, pair, said):
    with pytest.raises(SettingsError) as caught:
        parse_options(find_strategy(name), [pair])

    assert said in str(caught.value)


def test_dashes_in_option_names_do():
    assert parse_options(find_strategy("fedprox"), ["proximal-mu=0.3"]) == {"proximal_mu": 0.3}


@pytest.mark.parametrize(
    ("name", "options", "cohort", "said"),
    [
        ("bulyan", {"num_malicious_nodes": 1}, 6, "needs at least 7"),
        ("krum", {"num_malicious_nodes": 2}, 6, "needs at least 7"),
        ("multikrum", {"num_malicious_nodes": 0, "num_nodes_to_select": 5}, 4, "num_nodes_to_select=5 of 4"),
    ],
)
def test_too_few_hospitals_for_the_guarantee_are_refused(name, options, cohort, said):
    with pytest.raises(SettingsError, match=said):
        check_cohort(find_strategy(name), options, cohort)
