"""What doors ask of the hub is there, whoever does it."""

import inspect

import pytest

from switchboard_server.core.groups.hub import GroupHub
from switchboard_server.core.groups.letters import DeadLetters
from switchboard_server.core.groups.serving import Groups, Letters
from switchboard_server.core.use_cases import UseCases


@pytest.mark.parametrize(("made", "port"), [(GroupHub, Groups), (DeadLetters, Letters)])
def test_whoever_does_it_takes_what_the_port_names(made: type, port: type) -> None:
    asked = {name: each for name, each in vars(port).items() if not name.startswith("_")}
    assert asked
    for name, method in asked.items():
        done = getattr(made, name)
        assert inspect.iscoroutinefunction(done) is inspect.iscoroutinefunction(method), name
        wanted = inspect.signature(method).parameters
        assert set(wanted) <= set(inspect.signature(done).parameters), name


def test_doors_are_given_everything_that_the_hub_does() -> None:
    assert list(inspect.signature(UseCases).parameters) == [
        "events",
        "groups",
        "letters",
        "calls",
        "realtime",
        "registry",
    ]
