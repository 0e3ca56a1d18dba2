"""The operator's flags: wrong ones exit 64 with the usage; the environment stands in for them."""

from __future__ import annotations

import pytest

from cachecluster_operator.options import parse_options

pytestmark = pytest.mark.t0

NEEDED = ["--image", "i:1", "--operator-namespace", "ops"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--operator-namespace", "ops"], "--image"),
        (["--image", "i:1"], "--operator-namespace"),
        ([*NEEDED, "--metrics-port", "x"], "--metrics-port"),
        ([*NEEDED, "--renew-deadline", "20"], "lease duration"),
        ([*NEEDED, "--no-such-flag"], "--no-such-flag"),
        ([*NEEDED, "surplus"], "surplus"),
    ],
)
def test_wrong_flags_exit_64_and_are_named(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_options(arguments, {})
    assert caught.value.code == 64
    text = capsys.readouterr().err
    assert text.startswith("usage: cachecluster-operator") and named in text.splitlines()[-1]


def test_flags_come_from_the_environment_and_the_command_line_wins() -> None:
    environment = {
        "CACHECLUSTER_OPERATOR_IMAGE": "env:1",
        "CACHECLUSTER_OPERATOR_OPERATOR_NAMESPACE": "ops",
        "CACHECLUSTER_OPERATOR_NAMESPACE": "a,b",
        "CACHECLUSTER_OPERATOR_LEADER_ELECTION": "false",
        "CACHECLUSTER_OPERATOR_METRICS_PORT": "0",
        "POD_NAME": "operator-7",
    }
    options = parse_options([], environment)
    assert (options.image, options.namespaces, options.leader_election) == ("env:1", ("a", "b"), False)
    assert (options.metrics_port, options.identity) == (0, "operator-7")
    options = parse_options(["--image", "flag:2", "--namespace", "c", "--leader-election"], environment)
    assert (options.image, options.namespaces, options.leader_election) == ("flag:2", ("c",), True)


def test_no_namespace_means_all() -> None:
    assert parse_options(NEEDED, {}).namespaces is None
    assert parse_options([*NEEDED, "--namespace", "a", "--namespace", "b"], {}).namespaces == ("a", "b")


def test_times_of_the_election_matter_only_with_an_election() -> None:
    assert not parse_options([*NEEDED, "--no-leader-election", "--renew-deadline", "99"], {}).leader_election
