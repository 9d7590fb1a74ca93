"""The rounds over the local grid, with small client apps that do one thing each."""

import dataclasses

import numpy as np
import pytest
from flwr.app import Message
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from torch import nn

from client.app import create_client_app
from fl import messages
from fl.arrays import to_record
from fl.data.dataset import Dataset, Site
from fl.data.statistics import column_sums
from fl.errors import ClientFailure, DivergenceError, FlopsError
from fl.messages import SiteDescription
from fl.model import ModelState, initial_state
from fl.tasks import find_task
from fl.tasks.base import Hyperparameters
from fl.training import Evaluation, TrainResult
from fl.training.sequential import SequentialTrainer
from server.app import create_server_app
from server.grid import GridProxy
from server.plan import Plan, cohort_size
from server.records import pool_evaluations
from server.rounds import Federation
from server.simulation.local import run_local
from server.strategies import STRATEGIES, find_strategy, make_strategy, parse_options

pytestmark = pytest.mark.usefixtures("threads_of_small_models")

DIGITS = find_task("digits")
BREAST = find_task("breast-cancer")
START = ModelState({"w": np.zeros(3, np.float32), "n": np.array(0, np.int64)}, {})


class Watch:
    def __init__(self):
        self.sites, self.history = [], []

    def joined(self, sites):
        self.sites = list(sites)

    def round_done(self, record):
        self.history.append(record)


def name_of(context):
    return f"h{context.node_config['partition-id']}"


def fake_client(train, evaluate=lambda name: Evaluation(2, 0.5, {"accuracy": 0.5})):
    """A client that answers with what these functions of its name and the settings return."""
    app = ClientApp()

    @app.query("describe")
    def describe(message, context):
        return messages.describe_reply(message, SiteDescription(name_of(context), 10, 2))

    @app.train()
    def on_train(message, context):
        settings = messages.read_train_config(messages.read_config(message))
        name = name_of(context)
        return messages.train_reply(message, name, train(name, messages.read_state(message), settings))

    @app.evaluate()
    def on_evaluate(message, context):
        return messages.evaluate_reply(message, name_of(context), evaluate(name_of(context)))

    return app


def federation(strategy="fedavg", start=START, task=DIGITS, options=(), **plan):
    spec = find_strategy(strategy)
    hyperparameters = plan.pop("hyperparameters", Hyperparameters(rounds=plan.get("rounds", 1), lr=0.1))
    return Federation(
        Plan(task, **{"rounds": 1, "hyperparameters": hyperparameters, **plan}),
        make_strategy(spec, parse_options(spec, options), hyperparameters),
        start,
        Watch(),
        report_initial_loss=spec.initial_loss,
        keep_all=spec.needs_all,
    )


def run(job, client, clients=3):
    run_local(create_server_app(job), client, clients)
    return job


def result(w, examples=1, loss=0.1, n=0):
    return TrainResult(ModelState({"w": np.full(3, w, np.float32), "n": np.array(n)}, {}), examples, loss)


def test_fedavg_weighs_by_examples_and_keeps_dtypes():
    answers = {"h0": result(1.0, 1, n=2), "h1": result(4.0, 2, n=3)}

    job = run(federation(), fake_client(lambda name, state, settings: answers[name]), clients=2)

    np.testing.assert_allclose(job.state.arrays["w"], 3.0)
    assert job.state.arrays["w"].dtype == np.float32
    assert job.state.arrays["n"] == 3  # 8 / 3, rounded: a whole number stays one.


def test_a_round_gives_the_last_rounds_aggregate_and_settings_to_the_clients():
    seen = []

    def train(name, state, settings):
        seen.append((settings.round, name, float(state.arrays["w"][0]), settings.lr, settings.seed))
        return result(state.arrays["w"][0] + 1)

    job = run(federation(rounds=3, seed=9), fake_client(train), clients=2)

    assert seen == [(r, f"h{i}", r - 1.0, 0.1, 9) for r in (1, 2, 3) for i in (0, 1)]
    assert [record.round for record in job.observer.history] == [1, 2, 3]


def test_a_fraction_of_the_hospitals_trains_chosen_by_the_seed():
    def chosen(seed):
        asked = []
        job = federation(rounds=4, fraction=0.3, seed=seed)
        run(job, fake_client(lambda n, state, s: asked.append((s.round, n)) or result(1.0)), clients=10)
        assert all(len(record.sites) == 10 for record in job.observer.history)  # All evaluate.
        return asked

    first = chosen(1)

    assert len(first) == 4 * 3
    assert first == chosen(1)
    assert first != chosen(2)
    assert {name for _, name in first} != {name for number, name in first if number == 1}


@pytest.mark.parametrize(("sites", "fraction", "expected"), [(10, 0.25, 2), (10, 0.01, 1), (3, 1.0, 3), (7, 0.5, 4)])
def test_cohort_size_is_rounded_and_at_least_one(sites, fraction, expected):
    assert cohort_size(sites, fraction) == expected


@pytest.mark.parametrize(
    "bad", [result(np.nan), result(np.inf), result(1.0, loss=np.nan)], ids=["nan", "inf", "loss"]
)
def test_a_result_that_is_not_finite_stops_the_round_and_names_the_hospital(bad):
    job = federation(rounds=3)

    with pytest.raises(DivergenceError, match=r"round 2: h1 returned .* Lower the learning rate \(now 0.1\)"):
        run(job, fake_client(lambda n, state, s: bad if (s.round, n) == (2, "h1") else result(1.0)))

    assert len(job.observer.history) == 1


def test_a_global_model_whose_loss_overflows_stops_too():
    client = fake_client(lambda *_: result(1.0), lambda name: Evaluation(2, np.inf if name == "h2" else 1.0, {}))

    with pytest.raises(DivergenceError, match="round 1: the global model's loss at h2 is inf"):
        run(federation(), client)


@pytest.mark.parametrize(("factor", "left_out"), [(1.5, False), (1e6, True)])
def test_who_alone_still_learns_is_averaged_and_who_sends_nonsense_is_not(factor, left_out):
    job = federation(
        start=ModelState({"w": np.ones(3, np.float32), "n": np.array(0, np.int64)}, {}),
        rounds=3,
        tolerant=True,
        norm_ratio=20.0,
    )
    gone = []
    job.on_left_out = gone.append

    def train(name, state, settings):
        return result(state.arrays["w"][0] * (factor if name == "h1" else 1 + 1e-6))

    run(job, fake_client(train))

    assert {(left.hospital, left.step) for left in gone} == (
        {("h1", f"round {n}") for n in (1, 2, 3)} if left_out else set()
    )
    assert (job.state.arrays["w"][0] > 1.5) == (not left_out)


def test_a_client_that_raises_is_named_with_its_reason():
    def train(name, state, settings):
        if name == "h1":
            raise ValueError("the disk is full")
        return result(1.0)

    with pytest.raises(ClientFailure, match="h1 failed in round 1: ValueError: the disk is full"):
        run(federation(), fake_client(train))


def test_two_hospitals_of_one_name_are_refused():
    app = ClientApp()

    @app.query("describe")
    def describe(message: Message, context):
        return messages.describe_reply(message, SiteDescription("north", 1, 1))

    with pytest.raises(FlopsError, match="two hospitals have the same name"):
        run(federation(), app)


def test_evaluations_pool_as_if_the_examples_were_together():
    pooled = pool_evaluations(
        [
            Evaluation(1, 1.0, {"a": 0.0}),
            Evaluation(3, 3.0, {"a": 1.0}),
            Evaluation(0, float("nan"), {"a": float("nan")}),
        ]
    )

    assert (pooled.examples, pooled.loss, pooled.metrics) == (4, 2.5, {"a": 0.75})
    assert pool_evaluations([]).examples == 0


def breast_sites(parts=4):
    whole = BREAST.load()
    cuts = np.array_split(np.arange(len(whole)), parts)
    return [Site(f"s{i}", whole.take(cut[10:]), whole.take(cut[:10])) for i, cut in enumerate(cuts)]


def real_client(task, sites):
    trainer = SequentialTrainer(task)
    return create_client_app(lambda context: sites[int(context.node_config["partition-id"])], lambda: trainer)


def test_statistics_of_a_table_are_federated_and_do_not_change_in_training():
    sites = breast_sites()
    job = federation(task=BREAST, start=initial_state(BREAST, 0), rounds=2, settle_statistics=True)

    run(job, real_client(BREAST, sites), clients=4)

    pooled = np.concatenate([site.train.x for site in sites])
    np.testing.assert_allclose(job.state.frozen["statistics.mean"], pooled.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(job.state.frozen["statistics.std"], pooled.std(axis=0), rtol=1e-6)


def test_a_hospital_that_measures_in_another_unit_is_named_and_spoils_nothing():
    sites = breast_sites()
    inner = real_client(BREAST, sites)

    def client(message, context):
        reply = inner(message, context)
        if message.metadata.message_type == messages.DESCRIBE and context.node_config["partition-id"] == 3:
            reply.content[messages.SUMS] = to_record(dataclasses.asdict(column_sums(sites[3].train.x * 1e6)))
        return reply

    job, gone = federation(task=BREAST, start=initial_state(BREAST, 0), settle_statistics=True, tolerant=True), []
    job.on_left_out = gone.append

    run(job, client, clients=4)

    (left,) = gone
    assert (left.hospital, left.step) == ("s3", "the first question")
    assert "times as large as at the others" in left.reason
    assert set(job.observer.history[0].sites) == {"s0", "s1", "s2"}
    pooled = np.concatenate([site.train.x for site in sites[:3]])
    np.testing.assert_allclose(job.state.frozen["statistics.mean"], pooled.mean(axis=0), rtol=1e-9)


def test_of_a_part_of_the_hospitals_only_those_are_asked_that_are_here():
    gone = []

    class Leaving(GridProxy):
        def get_node_ids(self):
            return [node for node in super().get_node_ids() if node not in gone]

    job, asked = federation(rounds=20, fraction=0.5, hospitals=2, tolerant=True), []

    def train(name, state, settings):
        asked.append((settings.round, name))
        if settings.round == 2:
            gone[:] = sorted(job._sites)[:2]
        return result(1.0)

    app = ServerApp()

    @app.main()
    def main(grid, context):
        job.run(Leaving(grid))

    run_local(app, fake_client(train), 4)

    assert {name for number, name in asked if number > 2} == {"h2", "h3"}
    assert len(asked) == 40


FEW = ("fedavg", "fedadam", "bulyan")
"""One of each kind; the others train as long, and run where everything does."""

EACH = [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in STRATEGIES]


@pytest.mark.parametrize("name", EACH)
def test_every_strategy_learns(name):
    hyperparameters = dataclasses.replace(BREAST.hyperparameters, rounds=20)
    job = federation(
        name,
        task=BREAST,
        start=initial_state(BREAST, 0),
        rounds=20,
        hyperparameters=hyperparameters,
        settle_statistics=True,
    )
    signature = job.state.signature

    run(job, real_client(BREAST, breast_sites(8)), clients=8)

    assert job.state.signature == signature
    assert job.observer.history[-1].evaluation.metrics["accuracy"] > 0.9


def _normalised():
    return nn.Sequential(nn.Linear(30, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))


@pytest.mark.parametrize("name", EACH)
def test_batch_normalisation_keeps_its_averages_out_of_every_strategy(name):
    whole = BREAST.load()
    x = ((whole.x - whole.x.mean(0)) / whole.x.std(0)).astype(np.float32)
    cuts = np.array_split(np.arange(len(x)), 7)
    data = Dataset(x, whole.y)
    sites = [Site(f"s{i}", data.take(cut[10:]), data.take(cut[:10])) for i, cut in enumerate(cuts)]
    task = dataclasses.replace(BREAST, model=_normalised)
    job = federation(name, task=task, start=initial_state(task, 0), rounds=8, hyperparameters=BREAST.hyperparameters)

    run(job, real_client(task, sites), clients=7)

    assert job.state.buffers["1.num_batches_tracked"].dtype == np.int64
    assert job.state.buffers["1.num_batches_tracked"] > 0
    assert job.observer.history[-1].evaluation.metrics["accuracy"] > 0.85


@pytest.mark.parametrize("name", ["fedmedian", "fedtrimmedavg", "krum", "multikrum", "bulyan"])
def test_robust_strategies_withstand_a_hospital_that_sends_nonsense(name):
    options = ["num_malicious_nodes=1"] if "num_malicious_nodes" in STRATEGIES[name].options else []
    job = federation(name, options=options)

    run(job, fake_client(lambda n, state, s: result(1e6 if n == "h3" else 1.0 + 0.01 * int(n[1:]))), clients=7)

    assert np.all(np.abs(job.state.arrays["w"] - 1.0) < 0.1)


def test_qfedavg_gets_the_loss_of_the_received_weights():
    job = federation("qfedavg", task=BREAST, start=initial_state(BREAST, 0), settle_statistics=True)
    wanted = []
    inner = real_client(BREAST, breast_sites(2))

    def spy(message, context):
        reply = inner(message, context)
        if message.metadata.message_type == messages.TRAIN:
            wanted.append(messages.read_metrics(reply))
        return reply

    run(job, spy, clients=2)

    assert len(wanted) == 2
    assert all(0.5 < metrics[messages.INITIAL_LOSS] < 1.0 for metrics in wanted)  # About log 2: untrained.
    assert all(metrics[messages.INITIAL_LOSS] != metrics[messages.LOSS] for metrics in wanted)


def compare(measure, *, tolerant=False):
    """Run two rounds whose hospitals measure with a function of their name and a model; who was asked for both."""
    asked, plain, app = [], fake_client(lambda *_: result(1.0)), ClientApp()
    app.query("describe")(plain)
    app.train()(plain)

    @app.evaluate()
    def on_evaluate(message, context):
        name, champion = name_of(context), messages.read_champion(message)
        asked.append((name, champion is not None))
        compared = None if champion is None else measure(name, champion)
        return messages.evaluate_reply(message, name, measure(name, messages.read_state(message)), compared)

    job = federation(rounds=2, tolerant=tolerant)
    job.champion = lambda: ModelState({"w": np.full(3, 9, np.float32), "n": np.array(0, np.int64)}, {})
    run(job, app, clients=2)
    return job.observer.history, asked


def by_weight(name, state):
    accuracy = float(state.arrays["w"][0]) / 10
    return Evaluation(2, 1 - accuracy, {"accuracy": accuracy})


@pytest.mark.parametrize("tolerant", [False, True])
def test_the_last_round_measures_the_served_model_beside_the_candidate(tolerant):
    history, asked = compare(by_weight, tolerant=tolerant)

    assert sorted(asked) == [("h0", False), ("h0", True), ("h1", False), ("h1", True)]
    assert history[0].champion == {}
    assert {name: found.metrics["accuracy"] for name, found in history[1].champion.items()} == {"h0": 0.9, "h1": 0.9}
    assert history[1].sites["h0"].metrics["accuracy"] == pytest.approx(0.1)


def test_a_hospital_that_cannot_measure_the_served_model_still_counts_for_the_candidate():
    def measure(name, state):
        if name == "h1" and state.arrays["w"][0] == 9:
            return Evaluation(2, float("nan"), {"accuracy": 0.5})
        return by_weight(name, state)

    history, _ = compare(measure)

    assert list(history[1].champion) == ["h0"]
    assert list(history[1].sites) == ["h0", "h1"]


def test_a_client_that_does_not_know_of_comparisons_measures_the_candidate():
    job = federation()
    job.champion = lambda: START
    run(job, fake_client(lambda *_: result(1.0)), clients=2)

    assert job.observer.history[0].champion == {}
    assert list(job.observer.history[0].sites) == ["h0", "h1"]
