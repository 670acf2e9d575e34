from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rlvr.errors import SandboxError
from rlvr.sandbox.jobs import Cell, Failure, Status
from rlvr.sandbox.shared import make_sandbox, use_sandbox
from rlvr.tools.parse import Asked
from rlvr.tools.python import PythonTool
from rlvr.tools.toolbox import CallLimits, Toolbox
from rlvr.types import CallStatus


def run(cells: list[str], tool: PythonTool | None = None, *, rollouts: int = 1) -> list[Any]:
    async def one(box: Toolbox) -> Any:
        scope = box.open_scope()
        found = await box.run([Asked("python", {"code": cell}) for cell in cells], scope)
        await scope.close()
        return found

    async def main() -> list[Any]:
        async with Toolbox([tool or PythonTool()], CallLimits(call_s=5.0)) as box:
            return list(await asyncio.gather(*(one(box) for _ in range(rollouts))))

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (Cell(Status.EXITED, "printed\n", "42"), "printed\n42"),
        (Cell(Status.EXITED, "", "42"), "42"),
        (Cell(Status.EXITED, "printed\n"), "printed"),
        (Cell(Status.EXITED), ""),
        (
            Cell(Status.EXITED, "x" * 10, "42", is_truncated=True),
            "xxxxxxxxxx\n[... the sandbox kept only a part of the output ...]\n42",
        ),
    ],
)
def test_a_cell_is_shown_as_in_a_notebook(sandbox: Any, cell: Cell, text: str) -> None:
    sandbox.answer = lambda code: cell
    [[called]] = run(["whatever"])
    assert (called.record.status, called.answer.text) == (CallStatus.OK, text)


@pytest.mark.parametrize(
    ("cell", "status", "text"),
    [
        (
            Cell(Status.EXITED, "so far\n", failure=Failure("ValueError", "no"), traceback="Traceback ...\nValueError: no\n"),
            CallStatus.FAILED,
            "so far\nTraceback ...\nValueError: no",
        ),
        (
            Cell(Status.TIMED_OUT, "so far", failure=Failure("TimeoutError", "the cell ran for more than 5 s")),
            CallStatus.TIMED_OUT,
            "so far\nTimeoutError: the cell ran for more than 5 s",
        ),
        (
            Cell(Status.KILLED, failure=Failure("SessionEnded", "the interpreter ended"), is_alive=False),
            CallStatus.FAILED,
            "SessionEnded: the interpreter ended\nThe session was lost: its variables are gone, a new one is ready.",
        ),
    ],
)
def test_what_went_wrong_in_the_cell_is_the_models_and_told(sandbox: Any, cell: Cell, status: CallStatus, text: str) -> None:
    sandbox.answer = lambda code: cell
    [[called]] = run(["whatever"])
    assert (called.record.status, called.answer.text) == (status, text)


def test_cells_of_a_rollout_share_a_session_in_their_order_and_rollouts_do_not(sandbox: Any) -> None:
    run(["a", "b", "c"], rollouts=3)
    assert [session.log for session in sandbox.sessions] == [["a", "b", "c"]] * 3
    assert all(session.is_closed for session in sandbox.sessions)


def test_rollouts_wait_for_a_free_session(sandbox: Any) -> None:
    found = run(["a", "b"], PythonTool(sessions=2), rollouts=10)
    assert len(found) == 10
    assert sandbox.most_open == 2


def test_a_rollout_without_calls_takes_no_session(sandbox: Any) -> None:
    run([])
    assert sandbox.sessions == []


def test_a_sandbox_that_fails_is_our_fault(sandbox: Any) -> None:
    sandbox.is_broken = True
    with pytest.raises(SandboxError, match="the engine is gone"):
        run(["1"])
    sandbox.is_broken = False
    assert run(["1"])[0][0].answer.text == "1"


@pytest.mark.processes
def test_a_real_session_lives_through_errors_and_time_outs() -> None:
    cells = ["x = 6\nx * 7", "print(x)\nx + 1", "1 / 0", "while True: pass", "x", "print('a' * 100_000)"]
    cells.append("import sys\nsys.stdout.buffer.write(b'\\xff\\x1b[31mred')\nNone")

    async def main() -> list[Any]:
        async with Toolbox([PythonTool()], CallLimits(call_s=0.5, output_tokens=100)) as box:
            scope = box.open_scope()
            found = [(await box.run([Asked("python", {"code": cell})], scope))[0] for cell in cells]
            await scope.close()
            return found

    sandbox = make_sandbox("unsafe")  # plain processes: enough for code of our own
    try:
        with use_sandbox(sandbox):
            product, both, error, late, alive, long, raw = asyncio.run(main())
    finally:
        sandbox.close()
    assert (product.answer.text, both.answer.text) == ("42", "6\n7")
    assert "ZeroDivisionError: division by zero" in error.answer.text
    assert (late.record.status, late.answer.text) == (
        CallStatus.TIMED_OUT,
        "TimeoutError: the cell ran for more than 0.5 s",
    )
    assert alive.answer.text == "6"
    assert long.record.is_truncated
    assert raw.answer.text == "\ufffdred"
