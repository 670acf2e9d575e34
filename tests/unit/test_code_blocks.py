"""Every block of code that is shown works: a page is read from top to bottom in one folder, and what it says is done.

Python runs; recipes and tasks load; commands run on a model that knows nothing and on a few problems, `train` as a dry run. What
cannot be run here is checked against the command line's own parser; `PARSED`, `OTHERS` and `ELSEWHERE` say what that is, and why.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from rlvr.cli.main import VERBS, main, parse
from rlvr.config import load_recipe
from rlvr.envs.tasks.spec import read_spec
from rlvr.errors import SandboxError
from rlvr.sandbox.shared import shared_sandbox

ROOT = Path(__file__).parents[2]
PLACES = ("*.md", "docs/**/*.md", "benchmarks/*.md", "sandbox/*.md", "tasks/*/*.md", "rlvr/**/*.md")
PAGES = sorted(page for place in PLACES for page in ROOT.glob(place))
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<content>.*?)^(?P=indent)```[ ]*$", re.DOTALL | re.MULTILINE)
HEREDOC = re.compile(r"^cat > (\S+) <<'END'\n(.*?)^END$", re.DOTALL | re.MULTILINE)
FILE_NAME = re.compile(r"# ([\w/]+\.(?:py|toml))\n")

RUN = ("python", "toml", "json", "sh")
SHOWN = ("", "text")  # what a program prints, and settings of other programs
ELSEWHERE = {"python verifiers": "needs a package that the tests have apart: tests/unit/integrations/test_prime.py runs it"}

# Commands that are only checked against the parser, and why.
PARSED = {
    "--web": "serves until it is stopped; tests/browser looks at the page",
    "--serve": "serves until it is stopped; tests/unit/integrations asks it",
    "rlvr sandbox build": "makes an image; tests/docker does it",
    "rlvr sandbox status": "needs a container engine; tests/docker asks it",
    "--task humaneval": "needs the data set; tests/unit/tasks and tests/docker grade it",
    "tasks validate mbpp": "needs the data set; tests/unit/tasks and tests/docker grade it",
    "--engine openai": "asks a server that is not there; tests/unit/engines has one",
    "engine.name=vllm": "needs vLLM; tests/vllm has it",
    "parity --against verl": "needs verl; tests/unit/trainers/parity compares with it where it is installed",
    "rlvr shortest": "needs correct responses, which the stand-in has none of; tests/unit/evaluation has some",
    "data.pass_rates=": "needs problems that a model solves sometimes; tests/unit/trainers has some",
    "gsm8k-eval --resume": "goes on where an evaluation was interrupted; tests/unit/cli interrupts one",
    "examples/scale/": "names models that would be downloaded; tests/unit/examples reads every file and estimates",
    "lm-eval": "reads what lm-eval wrote; tests/unit/evaluation/lm_eval has it",
    "chains/concise_sft": "reads what `rlvr shortest` wrote",
}
# Words that begin a line and are no command of ours.
OTHERS = {
    "curl": "asks the server of the line before; tests/unit/integrations asks it the same",
    ".": "activates the environment that `make` made",
    "vllm": "starts a server, which needs vLLM; tests/vllm starts one",
}
COMMANDS = ("rlvr", "pip", "python", "make", "torchrun", "accelerate", "sbatch", "git", "docker", *OTHERS)
FEW = {"eval": ["--problems", "2", "--max-tokens", "8"], "filter": ["--limit", "12", "--max-tokens", "8"],
       "rollout": ["--max-tokens", "8"]}  # fmt: skip
MODELS = ("MODEL", "Qwen/Qwen3-0.6B")

# Rows as the data sets have them, for the tasks that guides name.
ROWS: dict[str, list[dict[str, str]]] = {
    "gsm8k": [
        {"question": f"Ann had {n} pens, bought {m}. Now?", "answer": f"{n}+{m}=<<{n}+{m}={n + m}>>{n + m}\n#### {n + m}"}
        for n, m in zip(range(13, 45, 2), range(4, 20), strict=True)
    ],
    "svamp": [{"prompt": f"Of {n} birds {n - 3} left. How many stayed?", "answer": "3"} for n in range(5, 21)],
    "math": [{"problem": f"Compute ${n}^2$.", "solution": f"$\\boxed{{{n * n}}}$.", "answer": str(n * n)} for n in range(11, 27)],
}


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: where it stands, what it is written in, and what it says."""

    place: str
    language: str
    content: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        indent = re.compile(rf"^{match['indent']}", re.MULTILINE)
        found.append(Block(f"{page.relative_to(ROOT)}:{line}", match["language"].strip(), indent.sub("", match["content"])))
    return found


def commands(content: str) -> Iterator[list[str]]:
    """The lines of a shell block as words; what is fed to a file comes as `cat > FILE <<END TEXT`."""
    rest = content.replace("\\\n", "")
    while rest:
        if heredoc := HEREDOC.match(rest):
            yield ["cat", heredoc[1], heredoc[2]]
            rest = rest[heredoc.end() :].lstrip("\n")
        else:
            line, _, rest = rest.partition("\n")
            if words := shlex.split(line, comments=True):
                yield words


def why_parsed(words: Sequence[str]) -> str | None:
    """Why a command of ours is only parsed; None: it runs."""
    line = " ".join(words)
    return next((reason for mark, reason in PARSED.items() if mark in line), None)


def is_ours(words: Sequence[str]) -> bool:
    return "rlvr" in words and words[0] not in ("pip", "cat")  # `torchrun ... -m rlvr` is


# What holds for all pages --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_block_is_of_a_kind_that_is_tested_here_or_named_with_a_reason(page: Path) -> None:
    found = blocks(page)
    fences = re.findall(r"^ *```", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(fences) == 2 * len(found), "a fence is not closed, or closed elsewhere than it began"
    for block in found:
        assert block.language in (*RUN, *SHOWN, *ELSEWHERE), f"{block.place}: nobody tests a block of {block.language!r}"
        if block.language in SHOWN:
            lines = [re.sub(r"^([A-Z_]+=\S+ )*", "", line).split() for line in block.content.splitlines()]
            typed = [" ".join(words) for words in lines if words and words[0] in COMMANDS]
            assert typed == [], f"{block.place}: a block with commands is one of `sh`, so that they are tested"


def test_every_exemption_is_used() -> None:
    every = [block for page in PAGES for block in blocks(page)]
    lines = [words for block in every if block.language == "sh" for words in commands(block.content)]
    ours = [" ".join(words) for words in lines if is_ours(words)]
    assert [mark for mark in PARSED if not any(mark in line for line in ours)] == []
    assert [word for word in OTHERS if not any(word in words[:2] for words in lines)] == []
    assert [language for language in ELSEWHERE if not any(block.language == language for block in every)] == []


# The folder in which a page is read ----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that can read everything and knows nothing, two runs and two evaluations of it, and rows of the data sets."""
    from rlvr.envs.tasks import TinyModel
    from rlvr.trainers.model.tiny import tiny_model

    folder = tmp_path_factory.mktemp("stand-ins")
    for name, rows in ROWS.items():
        for split in ("train", "test"):
            file = folder / "data" / name / f"{split}.jsonl"
            file.parent.mkdir(parents=True, exist_ok=True)
            half = rows[:12] if split == "train" else rows[12:]
            file.write_text("".join(json.dumps(row) + "\n" for row in half), encoding="utf-8")
    alphabet = "".join(map(chr, range(32, 127))) + "\n"
    spec = TinyModel(
        alphabet=alphabet, hidden=16, layers=1, heads=1, kv_heads=1, head_dim=16, intermediate=16, context=4096
    )  # fmt: skip
    model, tokenizer = tiny_model(spec)
    tokenizer.chat_template = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    for part in (model, tokenizer):
        part.save_pretrained(folder / "model")
    runs = {
        "run": {"task": "gsm8k", "steps": 20},
        "length-control": {"task": "length_target:chains", "steps": 2, "task_args": {"targets": [4, 8]}},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLVR_DATA", str(folder / "data"))
        for name, settings in runs.items():
            _train(folder / name, model=str(folder / "model"), **settings)
        words = ["eval", str(folder / "model"), "--task", "gsm8k", "-n", "16", "--max-tokens", "8", "--out"]
        assert main([*words, str(folder / "evaluation")]) == 0
    return folder


def _train(out: Path, **settings: object) -> None:
    import rlvr

    rollout = {"group_size": 2, "problems_per_step": 2, "max_tokens": 4, "patience": 100}
    rlvr.train(**settings, out=str(out), threads=1, rollout=rollout, eval={"problems": 2, "n": 4, "k": [1, 4]})


@pytest.fixture
def place(stand_ins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with the data of the guides' tasks."""
    monkeypatch.setenv("RLVR_DATA", str(stand_ins / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written_before(page: Path, place: Path) -> None:
    """The files that other guides, and above all the README, tell their readers to write."""
    for other in (*PAGES, ROOT / "README.md"):
        for block in blocks(other) if other != page else []:
            for file, text in files_of(block):
                if "/" not in file:
                    (place / file).write_text(text, encoding="utf-8")


def files_of(block: Block) -> Iterator[tuple[str, str]]:
    if block.language == "sh":
        yield from HEREDOC.findall(block.content)
    if block.language in ("python", "toml") and (name := FILE_NAME.match(block.content)):
        yield name[1], block.content


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    # The next command is another process in a terminal, and would read the new file.
    for name in [name for name, module in sys.modules.items() if getattr(module, "__file__", None) == str(file)]:
        del sys.modules[name]


# A page --------------------------------------------------------------------------------------------------------------------


def has_blocks(page: Path) -> bool:
    return any(block.language in RUN for block in blocks(page))


@pytest.mark.parametrize("page", [*filter(has_blocks, PAGES)], ids=lambda page: str(page.relative_to(ROOT)))
@pytest.mark.usefixtures("own_plugins")
def test_a_page_can_be_followed_from_top_to_bottom(
    page: Path, place: Path, stand_ins: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written_before(page, place)
    reader = Reader(place, stand_ins, monkeypatch, capsys)
    for block in blocks(page):
        for file, text in files_of(block):
            if block.language != "sh":
                write(place / file, text)
        match block.language:
            case "python":
                reader.runs_python(block)
            case "toml":
                reader.loads(block)
            case "json":
                json.loads(block.content)
            case "sh":
                for words in commands(block.content):
                    reader.types(words, block.place)


@dataclass(frozen=True, slots=True)
class Reader:
    """Somebody who does what a page says, in the folder `place`."""

    place: Path
    stand_ins: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def runs_python(self, block: Block) -> None:
        if "rlvr.sandbox" in block.content and not has_sandbox():
            pytest.skip("no sandbox here")
        environment = {**os.environ, "PYTHONPATH": str(self.place), "OMP_WAIT_POLICY": "PASSIVE"}
        answer = subprocess.run(
            [sys.executable, "-c", block.content], cwd=self.place, env=environment, capture_output=True, text=True, check=False
        )
        assert answer.returncode == 0, f"{block.place}: {answer.stderr}"

    def loads(self, block: Block) -> None:
        table = tomllib.loads(block.content)
        name = FILE_NAME.match(block.content)
        if name and name[1].endswith("task.toml"):
            read_spec(self.place / name[1])
        elif "project" in table:
            known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
            assert set(table["project"]["entry-points"]) <= set(known), block.place
        else:
            load_recipe({"model": "any", "task": "gsm8k", **table})

    def types(self, words: list[str], where: str) -> None:
        """One line of a shell."""
        while re.match(r"[A-Z_]+=", words[0]):
            name, _, value = words.pop(0).partition("=")
            self.monkeypatch.setenv(name, value)
        match words:
            case ["cat", file, text]:
                write(self.place / file, text)
            case ["mkdir", "-p", folder]:
                (self.place / folder).mkdir(parents=True, exist_ok=True)
            case ["cp", source, target]:
                shutil.copy(self.place / source, self.place / target)
            case ["make", target, *settings]:
                makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{where}: no target {target!r}"
                assert all(re.search(rf"^{name.partition('=')[0]} \?=", makefile, re.MULTILINE) for name in settings), where
            case ["pip", "install", *packages]:
                self._installs(packages, where)
            case ["python", "-m", module, *_]:
                assert importlib.util.find_spec(module), where
            case ["python", script, *arguments]:
                source = (ROOT / script).read_text(encoding="utf-8")
                assert all(f'"{word}"' in source for word in arguments if word.startswith("--")), where
            case ["torchrun", *arguments]:
                from torch.distributed.run import parse_args

                asked = parse_args(arguments)
                assert (asked.module, asked.training_script) == (True, "rlvr"), where
                self._asks(["rlvr", *asked.training_script_args], where)
            case ["accelerate", "launch", *arguments]:
                from accelerate.commands.launch import launch_command_parser

                asked = launch_command_parser().parse_args(arguments)
                assert (asked.module, asked.training_script) == (True, "rlvr"), where
                assert (ROOT / asked.config_file).is_file(), where
                self._asks(["rlvr", *asked.training_script_args], where)
            case ["sbatch", script] | [script] if script.startswith("examples/"):
                assert (ROOT / script).is_file(), where
            case ["rlvr", *_]:
                self._asks(words, where)
            case [word, *_]:
                assert word in OTHERS, f"{where}: nobody tests the command {word!r}"

    def _installs(self, packages: list[str], where: str) -> None:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
        if packages[0] == "-e":
            assert (self.place / packages[1] / "pyproject.toml").is_file(), where
            return
        for package in packages:
            asked = re.fullmatch(r"(?:rlvr|\.)(?:\[([\w,-]+)\])?", package)
            assert asked, f"{where}: {package!r} is not ours"
            assert set((asked[1] or "math").split(",")) <= set(extras), where

    def _asks(self, words: list[str], where: str) -> None:
        """A command of ours: as it stands it must be one that the parser takes; then it runs, on the stand-ins."""
        _, verb, *arguments = words
        assert verb in VERBS, where
        asked = parse(verb, arguments)
        model = None
        if verb == "train" and not asked.resume and not asked.recipe.startswith("runs/"):
            from rlvr.cli.train import recipe_path

            recipe = ROOT / asked.recipe if asked.recipe.startswith("examples/") else recipe_path(asked.recipe)
            model = load_recipe(recipe, asked.overrides).model
        if why_parsed(words) or ("--tools" in words and "python" in words and not has_sandbox()):
            return
        prepared = [self._stand_in(word, is_written=before == "--out") for before, word in pairwise(words[1:])]
        if model:
            prepared.append(self._stand_in(f"model={model}", is_written=False))
        if verb == "train" and not asked.resume:
            prepared = [f"out={self.place}/new" if word.startswith("out=") else word for word in prepared if word != "--continue"]
            prepared += [] if "--dry-run" in prepared else ["--dry-run"]
        self.capsys.readouterr()
        code = main([verb, *prepared, *FEW.get(verb, [])])
        printed = self.capsys.readouterr()
        assert code == 0, f"{where}: {' '.join(words)}\n{printed.err}"
        assert printed.out, f"{where}: {' '.join(words)} printed nothing"

    def _stand_in(self, word: str, *, is_written: bool) -> str:
        """The word with a model or a run in it that exists here."""
        key, equals, value = word.rpartition("=") if re.match(r"[\w.]+=[^\[{]", word) else ("", "", word)
        if value in MODELS:
            return f"{key}{equals}{self.stand_ins / 'model'}"
        if value.startswith("runs/") and not is_written and key != "out":
            folder = self.place / Path(value).parent if Path(value).suffix else self.place / value
            if not folder.exists() and Path(value).suffix != ".jsonl":
                shutil.copytree(self.stand_ins / self._kind(value), folder)
        return word

    def _kind(self, path: str) -> str:
        if path.endswith("-eval"):
            return "evaluation"
        return "length-control" if path == "runs/length-control" else "run"


def has_sandbox() -> bool:
    """Whether code can be run here; where a sandbox is required, its absence is an error."""
    try:
        shared_sandbox()
    except SandboxError:
        if os.environ.get("RLVR_REQUIRE_DOCKER") == "1":
            raise
        return False
    return True
