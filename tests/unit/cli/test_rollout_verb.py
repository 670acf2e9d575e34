"""`rlvr rollout` on a model that is scripted, so that what it says is known token by token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlvr.cli.main import main
from rlvr.evaluation.ledger import rollout_from_json

ENGINE = '''
from rlvr.testing import ScriptedEngine


class Scripted(ScriptedEngine):
    """Slips at its first call, corrects itself, answers."""

    max_context = 256
    SAYS = ("<code>134*</code>", "<code>134*339</code>", "<answer>45426</answer><eos>")

    def __init__(self, model, tokenizer, **settings):
        self._tokenizer = tokenizer
        super().__init__(lambda prompt, sampling: self.says[len(self.requests) - 1])
        self.says = [tokenizer.encode(text, add_special_tokens=False) for text in self.SAYS]

    async def close(self):
        return None


class Silent(Scripted):
    SAYS = ("<eos>",)
'''


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from rlvr.envs.tasks import load_task
    from rlvr.trainers.model.tiny import tiny_model

    folder = tmp_path_factory.mktemp("rollout")
    tiny = load_task("products").tiny
    assert tiny is not None
    model, tokenizer = tiny_model(tiny, seed=0)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "scripted.py").write_text(ENGINE)
    (folder / "problems.jsonl").write_text(
        json.dumps({"id": "one", "prompt": "134*339?", "answer": "45426"})
        + "\n"
        + json.dumps({"id": "two", "prompt": "2*3?", "answer": "6"})
        + "\n"
    )
    return folder


def run(workplace: Path, *arguments: str, engine: str = "Scripted") -> int:
    chosen = ["--model", str(workplace / "model"), "--engine", f"{workplace / 'scripted.py'}:{engine}"]
    return main(["rollout", *chosen, *arguments])


def of_file(workplace: Path) -> list[str]:
    return ["--task", str(workplace / "problems.jsonl"), "--split", "train", "--max-tokens", "64"]


def test_json_has_tokens_mask_logprobs_and_turns(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(workplace, "--task", "products", "--json")
    shown: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert code == 0
    rollout = rollout_from_json(shown)
    assert (rollout.stop, len(rollout.turns)) == ("stop", 3)
    assert [(call.status.value, call.arguments) for call in rollout.calls] == [
        ("failed", {"expression": "134*"}),
        ("ok", {"expression": "134*339"}),
    ]
    [segment] = shown["segments"]
    assert len(segment["token_ids"]) == len(segment["loss_mask"]) == len(segment["sampling_logprobs"])
    sampled = [token for token, is_sampled in zip(segment["token_ids"], segment["loss_mask"], strict=True) if is_sampled]
    assert sampled == [token for turn in rollout.turns for token in turn.completion.token_ids]
    assert shown["provenance"]["env"]["name"] == "tool_use"


def test_the_printed_rollout_has_calls_in_frames_and_every_masked_token(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(workplace, "--task", "products", "--problem", "3") == 0
    printed = capsys.readouterr().out
    assert 'calculator(expression="134*")  failed' in printed
    assert 'calculator(expression="134*339")  ok' in printed
    assert "│ Error: the expression ends too early" in printed
    assert "│ 45426" in printed
    assert "<answer>45426</answer><eos>" in printed
    assert "stop stop · 3 turns · 23 tokens sampled · " in printed
    assert "2 calls" in printed


def test_a_problem_is_chosen_by_number_by_id_or_by_a_part_of_it(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wanted, found in [("0", "one"), ("1", "two"), ("one", "one"), ("tw", "two")]:
        run(
            workplace,
            *of_file(workplace),
            "--tools",
            "calculator",
            "--env",
            "format=code",
            "args.describe=false",
            "--problem",
            wanted,
        )
        assert f"{found} ─" in capsys.readouterr().out
    assert run(workplace, *of_file(workplace), "--problem", "three") == 2
    assert "--problem 'three' is the id of 0 problems" in capsys.readouterr().err
    assert run(workplace, *of_file(workplace), "--problem", "9") == 2
    assert "--problem 9: problems train has 2 problems, counted from 0" in capsys.readouterr().err


def test_tools_and_environment_are_chosen_on_the_command_line(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tools = ["--tools", "calculator", "--env", "format=code", "limits.calls=1", "args.describe=false"]
    assert run(workplace, *of_file(workplace), *tools, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["stop"], len(shown["turns"])) == ("max_calls", 2)
    assert shown["provenance"]["env"]["limits"]["calls"] == 1
    assert run(workplace, *of_file(workplace), "--env", "format=xml") == 2
    assert "format = 'xml'" in capsys.readouterr().err
    assert run(workplace, *of_file(workplace), "--env", "limit=3") == 2
    assert "unknown key 'limit'; did you mean 'limits'" in capsys.readouterr().err


def test_what_is_said_about_tools_counts_as_prompt(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(workplace, *of_file(workplace), "--tools", "calculator", "--env", "format=code") == 2
    assert "do not fit into the model's context of 256" in capsys.readouterr().err


def test_without_tools_it_is_prompt_and_answer(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(workplace, *of_file(workplace), "--env", "single_turn", engine="Silent") == 0
    printed = capsys.readouterr().out
    assert "134*339?" in printed
    assert "unparsed" in printed
