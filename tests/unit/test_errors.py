from __future__ import annotations

import asyncio

import pytest

from rlvr import errors
from rlvr.errors import ConfigError, EngineError, RlvrError, TaskError, VerifierError, boundary

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RlvrError)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_is_an_rlvr_error_and_says_what_it_means(kind: type[RlvrError]) -> None:
    assert kind.__doc__
    with pytest.raises(RlvrError, match="broken"):
        raise kind("broken")


def test_the_module_docstring_draws_the_whole_tree() -> None:
    assert all(kind.__name__ in (errors.__doc__ or "") for kind in KINDS)


def test_infrastructure_errors_of_a_rollout_share_a_base() -> None:
    assert {kind.__name__ for kind in errors.RolloutError.__subclasses__()} == {"EngineError", "ToolError", "SandboxError"}


def test_boundary_names_the_work_and_the_cause_and_keeps_the_cause() -> None:
    with (
        pytest.raises(VerifierError, match=r"grading row 3: ZeroDivisionError: division by zero") as caught,
        boundary(VerifierError, "grading row 3"),
    ):
        1 / 0  # noqa: B018
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_boundary_lets_our_own_errors_through_unchanged() -> None:
    original = ConfigError("steps = 0")
    with pytest.raises(ConfigError) as caught, boundary(TaskError, "loading"):
        raise original
    assert caught.value is original


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_boundary_never_swallows_a_request_to_stop(stop: type[BaseException]) -> None:
    with pytest.raises(stop), boundary(EngineError, "generating"):
        raise stop


def test_boundary_is_silent_when_nothing_is_wrong() -> None:
    with boundary(EngineError, "generating"):
        value = 1
    assert value == 1
