from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType

import pytest

import rlvr
from rlvr import errors
from rlvr.cli.main import VERBS, main
from rlvr.errors import RlvrError

HEAVY = ("pydantic", "rich", "numpy", "torch", "transformers", "asyncio")


def rlvr_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m rlvr ...` with a clean OMP_WAIT_POLICY."""
    inherited = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    command = [sys.executable, "-m", "rlvr", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**inherited, **environment})


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[argparse.Namespace], int]], None]:
    """Installs a verb called `try`."""

    def install(run: Callable[[argparse.Namespace], int]) -> None:
        module = ModuleType("rlvr.cli.try")
        module.HELP = "Try something."  # type: ignore[attr-defined]
        module.add_arguments = lambda parser: (
            parser.add_argument("words", nargs="*"),
            parser.add_argument("--json", action="store_true"),
        )  # type: ignore[attr-defined]
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(VERBS, "try", "try something")
        monkeypatch.setitem(sys.modules, "rlvr.cli.try", module)

    return install


def test_help_lists_every_verb_and_loads_nothing_heavy() -> None:
    code = (
        f"import sys; from rlvr.cli.main import main; main(['--help']); print([name for name in {HEAVY} if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(f"  {name} " in answer.stdout for name in VERBS)
    assert answer.stdout.endswith("[]\n")


def test_version_is_the_packages() -> None:
    answer = rlvr_command("--version")
    assert (answer.returncode, answer.stdout) == (0, f"rlvr {rlvr.__version__}\n")


def test_without_a_verb_the_usage_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("usage: rlvr VERB")


@pytest.mark.parametrize(("verb_name", "hint"), [("trian", "did you mean 'train'?"), ("zzz", "known: train, eval")])
def test_an_unknown_verb_is_a_usage_error_with_a_hint(verb_name: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb_name]) == 2
    assert capsys.readouterr().err.startswith(f"error: unknown verb {verb_name!r}; {hint}")


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_help_and_json_and_loads_no_torch_for_its_help(name: str) -> None:
    code = (
        f"import sys\nfrom rlvr.cli.main import main\n"
        f"try: main([{name!r}, '--help'])\nexcept SystemExit as stop: print(stop.code, 'torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.startswith(f"usage: rlvr {name}")
    assert answer.stdout.endswith("0 False\n")


def test_wrong_arguments_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["plugins", "--no-such-option"])
    assert stop.value.code == 2


def test_the_verbs_answer_is_the_exit_code(verb: Callable[..., None]) -> None:
    verb(lambda args: len(args.words))
    assert [main(["try"]), main(["try", "no"])] == [0, 1]


def test_options_may_stand_between_overrides(verb: Callable[..., None]) -> None:
    seen: list[argparse.Namespace] = []
    verb(lambda args: seen.append(args) or 0)
    main(["try", "a=1", "--json", "b=2"])
    assert (seen[0].words, seen[0].json) == (["a=1", "b=2"], True)


KINDS = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RlvrError) and kind is not RlvrError
]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_is_one_line_and_its_kind_decides_the_exit_code(
    kind: type[RlvrError], verb: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise kind("rollout.group_size = 1; set it to 2 or more")

    verb(fail)
    is_usage = kind.__name__ in ("ConfigError", "PluginError", "TaskError")
    assert main(["try"]) == (2 if is_usage else 3)
    assert capsys.readouterr() == ("", "error: rollout.group_size = 1; set it to 2 or more\n")


def test_a_bug_shows_its_traceback_and_is_never_taken_for_the_answer_no(
    verb: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    verb(lambda args: 1 // 0)
    assert main(["try"]) == 3
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.endswith("error: unexpected error: ZeroDivisionError: integer division or modulo by zero\n")


def test_a_missing_extra_is_one_line_that_says_how_to_install_it(
    verb: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise ModuleNotFoundError("No module named 'torch'", name="torch.nn")

    verb(fail)
    assert main(["try"]) == 3
    assert capsys.readouterr().err == "error: No module named 'torch'; install it with: pip install 'rlvr[train]'\n"


def test_ctrl_c_is_a_short_line_and_130(verb: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(args: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    verb(interrupted)
    assert main(["try"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_reader_that_leaves_early_is_no_error() -> None:
    code = (
        "import sys; from types import ModuleType; from rlvr.cli import main as m\n"
        "verb = ModuleType('rlvr.cli.flood'); verb.HELP = 'x'; verb.add_arguments = lambda parser: None\n"
        "verb.run = lambda args: [print('x' * 1000) for _ in range(1000)] and 0\n"
        "m.VERBS['flood'] = 'x'; sys.modules['rlvr.cli.flood'] = verb; sys.exit(m.main(['flood']))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize(("given", "seen"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_threads_wait_passively_unless_the_user_says_otherwise(given: dict[str, str], seen: str) -> None:
    checks = json.loads(rlvr_command("doctor", "--json", **given).stdout)["checks"]
    assert {check["name"]: check["value"] for check in checks}["OMP_WAIT_POLICY"] == seen
