import pytest

from client.policy import Policy, read_policy
from fl.errors import SettingsError

DIGEST = "sha256:" + "ab" * 32
COMMIT = "0ab35c0" + "0" * 33


def policy(folder, text):
    path = folder / "policy.toml"
    path.write_text(text, encoding="utf-8")
    return read_policy(path)


def join(policy, task="digits", commit=COMMIT, image=DIGEST, examples=100):
    return policy.refuse_join(task, commit, image, examples)


def test_reads_every_key(tmp_path):
    read = policy(
        tmp_path,
        f'tasks = ["tabular"]\nreleases = ["{DIGEST}", "0ab35c0"]\nmin_examples = 5\nmax_rounds_a_day = 7\n'
        "evaluation_only = true",
    )

    assert read == Policy(("tabular",), (DIGEST, "0ab35c0"), 5, 7, True)


@pytest.mark.parametrize("text", ["", 'releases = "any"', "min_examples = 0\nevaluation_only = false"])
def test_what_is_not_said_is_allowed(tmp_path, text):
    read = policy(tmp_path, text)

    assert read == Policy()
    assert join(read, commit="", image="", examples=0) is None
    assert read.refuse_training(10**6) is None


def test_a_task_that_is_not_listed_is_refused():
    read = Policy(tasks=("tabular",))

    assert join(read) == "policy: task 'digits' is not allowed here (tasks = [\"tabular\"])"
    assert join(read, task="tabular") is None


def test_a_reason_is_one_line_whatever_the_server_calls_its_task():
    assert "\n" not in join(Policy(tasks=("tabular",)), task="a\nflops: all is well")


@pytest.mark.parametrize(
    ("release", "commit", "image"),
    [
        (COMMIT[:7], COMMIT, ""),
        (COMMIT, COMMIT, "sha256:" + "00" * 32),
        (DIGEST, "", DIGEST),
        (DIGEST, "", f"registry.example/flops/server@{DIGEST}"),
        (DIGEST, "f" * 40, DIGEST),
    ],
)
def test_a_release_is_known_by_commit_or_image(release, commit, image):
    assert join(Policy(releases=("1234567", release)), commit=commit, image=image) is None


@pytest.mark.parametrize(
    ("commit", "image", "said"),
    [
        ("f" * 40, "", f"commit '{'f' * 40}'"),
        ("", "sha256:" + "00" * 32, "image 'sha256:0000"),
        ("", "", "names neither commit nor image"),
        (COMMIT[:6], "", "commit '0ab35c'"),
        (f"{COMMIT[:12]}-dirty", "", "-dirty'"),
        ("", f"{DIGEST}0", f"image '{DIGEST}0'"),
    ],
)
def test_a_release_that_is_not_listed_is_refused(commit, image, said):
    reason = join(Policy(releases=("0ab35c0", DIGEST)), commit=commit, image=image)

    assert said in reason
    assert f'(releases = ["0ab35c0", "{DIGEST}"])' in reason


def test_too_few_examples_are_refused():
    read = Policy(min_examples=100)

    assert join(read, examples=99) == "policy: 99 training examples are too few (min_examples = 100)"
    assert join(read, examples=100) is None


def test_a_day_has_so_many_rounds():
    read = Policy(max_rounds_a_day=3)

    assert read.refuse_training(2) is None
    assert "3 rounds trained today" in read.refuse_training(3)
    assert "(max_rounds_a_day = 3)" in read.refuse_training(4)


def test_evaluation_only_joins_but_never_trains():
    read = Policy(evaluation_only=True)

    assert join(read) is None
    assert read.refuse_training(0) == "policy: training is not allowed here (evaluation_only = true)"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('task = ["digits"]', "task: unknown key (did you mean 'tasks'?); known: tasks, releases"),
        ("[training]", "training: unknown key"),
        ('tasks = "digits"', "tasks: a list of at least one text is needed, got 'digits'"),
        ("tasks = []", "tasks: a list of at least one text"),
        ("tasks = [1]", "tasks: a list of at least one text"),
        ('releases = "latest"', "releases: a list of at least one text is needed, got 'latest'"),
        ('releases = ["v1.2"]', "releases: 'v1.2' is neither an image's digest"),
        ('releases = ["sha256:abcdef0"]', "releases: 'sha256:abcdef0' is neither"),
        ('releases = ["0ab35c"]', "releases: '0ab35c' is neither"),
        ("min_examples = -1", "min_examples: a whole number of at least 0 is needed, got -1"),
        ("min_examples = 1.5", "min_examples: a whole number"),
        ("min_examples = true", "min_examples: a whole number of at least 0 is needed, got True"),
        ("max_rounds_a_day = 0", "max_rounds_a_day: a whole number of at least 1"),
        ('max_rounds_a_day = "3"', "max_rounds_a_day: a whole number"),
        ('evaluation_only = "yes"', "evaluation_only: true or false is needed, got 'yes'"),
        ("evaluation_only = 1", "evaluation_only: true or false"),
        ("tasks = [", "policy.toml: "),
    ],
)
def test_wrong_input_names_its_key(tmp_path, text, said):
    with pytest.raises(SettingsError) as raised:
        policy(tmp_path, text)

    assert said in str(raised.value)
    assert str(raised.value).startswith(f"policy {tmp_path / 'policy.toml'}: ")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "latin1.toml").write_bytes(b"# \xe9")

    with pytest.raises(SettingsError, match=r"gone\.toml: cannot be read: No such file"):
        read_policy(tmp_path / "gone.toml")
    with pytest.raises(SettingsError, match=r"latin1\.toml: cannot be read: not UTF-8"):
        read_policy(tmp_path / "latin1.toml")
