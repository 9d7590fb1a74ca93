"""The federation's file and the place a job runs in."""

from pathlib import Path

import pytest

from fl.errors import SettingsError
from server.certificates import make_certificates
from server.gate import Gate
from server.settings import Place, check_list, parse_port, read_federation, settle_place
from tests.server.hospitals import SCHEMA


def read(folder, text):
    path = folder / "federation.toml"
    path.write_text(text)
    return read_federation(path)


def test_a_task_is_all_that_is_needed(tmp_path):
    settings = read(tmp_path, 'task = "digits"')

    assert (settings.model, settings.rounds, settings.spec.name) == ("flops-digits", 1, "fedavg")
    assert (settings.min_hospitals, settings.gate) == (2, None)
    assert settings.hyperparameters.lr == settings.task.hyperparameters.lr
    assert all(isinstance(value, int | float | str) for value in settings.as_parameters().values())


def test_everything_can_be_said(tmp_path):
    (tmp_path / "schema.toml").write_text(SCHEMA)

    settings = read(
        tmp_path,
        """
        task = "tabular"
        schema = "schema.toml"
        model = "sepsis"
        rounds = 3
        strategy = "FedAdam"
        min_hospitals = 4
        join_timeout = 30
        join_grace = 0
        round_deadline = 600
        fraction = 0.5
        seed = 7
        norm_ratio = 5
        [strategy_options]
        eta = 0.02
        [training]
        local_epochs = 2
        lr = 0.5
        [gate]
        metric = "accuracy"
        at_least = 0.8
        """,
    )

    assert settings.strategy_options["eta"] == 0.02
    assert (settings.hyperparameters.rounds, settings.hyperparameters.local_epochs) == (3, 2)
    assert settings.gate == Gate("accuracy", least=0.8)
    assert settings.join_timeout == 30.0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the key 'task' is missing"),
        ('task = "digit"', r"task: unknown task 'digit' \(did you mean 'digits'\?\)"),
        ('task = "tabular"', "task: task 'tabular' needs a schema"),
        ('task = "digits"\nround = 3', r"unknown key 'round' \(did you mean 'rounds'\?\)"),
        ('task = "digits"\nrounds = 0', "rounds: 0: a whole number of at least 1"),
        ('task = "digits"\nrounds = "3"', "rounds: '3'"),
        ('task = "digits"\nstrategy = "fedadm"', "strategy: unknown strategy 'fedadm'"),
        ('task = "digits"\n[strategy_options]\neta = 1', "strategy_options: strategy fedavg has no option 'eta'"),
        ('task = "digits"\nmin_hospitals = 0', "min_hospitals: 0"),
        ('task = "digits"\nstrategy = "bulyan"\nmin_hospitals = 2', "min_hospitals: strategy bulyan .* at least 3"),
        ('task = "digits"\nfraction = 2', "fraction: 2: a number above 0 and at most 1"),
        ('task = "digits"\nround_deadline = 0', "round_deadline: 0"),
        ('task = "digits"\nnorm_ratio = 1', "norm_ratio: 1"),
        ('task = "digits"\nseed = 9223372036854775808', "seed: 9223372036854775808: a whole number of at most"),
        ('task = "digits"\nrounds = 3000000000', "rounds: 3000000000: a whole number of at most"),
        ('task = "digits"\nmodel = "a/b"', "model: 'a/b'"),
        ('task = "digits"\n[training]\nlr = -1', "training.lr: -1"),
        (
            'task = "digits"\n[gate]\nat_least = 0.5\nmetric = "f1"',
            "gate.metric: 'f1': the task measures accuracy, loss",
        ),
        ('task = "digits"\n[gate]\nat_most = 0.5', "gate.at_most: more of accuracy is better; say at_least, or low"),
        ('task = "digits"\n[gate]\nmetric = "loss"\nat_least = 1', "gate.at_least: less of loss is better; say at_m"),
        (
            'task = "digits"\n[gate]\nleast_gain = 0.1\nallowed_loss = 0.1',
            "gate.allowed_loss: least_gain is there, too",
        ),
        ('task = "digits"\n[gate]\nallowed_loss = -1', "gate.allowed_loss: -1: a number at least 0 is needed"),
        (
            'task = "digits"\n[gate]\nallowed_hospital_loss = "no"',
            "gate.allowed_hospital_loss: 'no': a number at least 0",
        ),
        (
            'task = "digits"\n[gate]\nmin_hospitals = 0',
            "gate.min_hospitals: 0: a whole number of at least 1 is needed",
        ),
        (
            'task = "digits"\n[gate]\nallow_fewer_hospitals = 1',
            "gate.allow_fewer_hospitals: 1: true or false is needed",
        ),
        ("task = digits", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_key(tmp_path, text, problem):
    with pytest.raises(SettingsError, match=problem) as error:
        read(tmp_path, text)

    assert "federation.toml: " in str(error.value)
    assert "\n" not in str(error.value)


@pytest.fixture
def tls(tmp_path):
    make_certificates(tmp_path, ["localhost"], 1)
    return tmp_path / "server.pem", tmp_path / "server.key"


def test_with_tls_a_job_listens_everywhere(tls):
    place = settle_place(Path("h"), None, 8080, *tls, plain_text=False)

    assert (place.host, place.port) == ("0.0.0.0", 8080)  # noqa: S104


def test_plain_text_stays_on_this_machine(tls):
    assert settle_place(Path("h"), None, 0, None, None, plain_text=True).host == "127.0.0.1"
    with pytest.raises(SettingsError, match=r"0\.0\.0\.0 can be reached from other machines"):
        settle_place(Path("h"), "0.0.0.0", 0, None, None, plain_text=True)  # noqa: S104
    with pytest.raises(SettingsError, match="excludes"):
        settle_place(Path("h"), None, 0, *tls, plain_text=True)


def test_tls_and_the_allow_list_are_needed(tls, tmp_path):
    with pytest.raises(SettingsError, match="--hospitals is missing"):
        settle_place(None, None, 0, *tls, plain_text=False)
    with pytest.raises(SettingsError, match="--tls-cert and --tls-key are needed"):
        settle_place(Path("h"), None, 0, tls[0], None, plain_text=False)
    with pytest.raises(SettingsError, match=r"--tls-key .*none: cannot be read: No such file"):
        settle_place(Path("h"), None, 0, tls[0], tmp_path / "none", plain_text=False)


@pytest.mark.parametrize("text", ["abc", "-1", "65536", "80 80", "", "8e3", "٣"])
def test_a_port_that_is_none_is_named(text):
    assert parse_port("0") == 0
    with pytest.raises(SettingsError, match=r"--port '.*': a number from 0 to 65535 is needed"):
        parse_port(text)


def test_a_job_that_could_never_begin_does_not_wait(tmp_path):
    settings, place = read(tmp_path, 'task = "digits"\nmin_hospitals = 2'), Place(Path("h"), "", 0, None, None)

    check_list(settings, Path("f.toml"), place, 2)
    with pytest.raises(SettingsError, match=r"f.toml: min_hospitals: 2, and the allow-list h holds 1 key; lower it"):
        check_list(settings, Path("f.toml"), place, 1)
