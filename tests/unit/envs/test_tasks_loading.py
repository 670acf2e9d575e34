from __future__ import annotations

from pathlib import Path

import pytest

from rlvr.envs.tasks import Task, load_task, task_names
from rlvr.errors import ConfigError, TaskError

ADAPTER = """
from rlvr.envs.tasks import Draft, Generator, RowReader, first_of
from rlvr.registry import register

class Adapter({base}):
{body}
"""
DRAWS = """    size: int
    def draw(self, rng):
        number = rng.randrange(self.size)
        return Draft(f"say {number}", str(number), content=str(number))
"""
SPEC = """
description = "Says numbers."
max_tokens = 8
sizes = {{ train = 20, test = 5 }}
args = {{ size = {size} }}
[prompt]
system = "Be brief."
suffix = "Now."
[[verifiers]]
name = "exact"
"""


def write_task(folder: Path, spec: str, adapter: str) -> str:
    folder.mkdir()
    (folder / "task.toml").write_text(spec)
    (folder / "adapter.py").write_text(adapter)
    return str(folder)


@pytest.fixture
def drawn(tmp_path: Path) -> str:
    return write_task(tmp_path / "sayer", SPEC.format(size=1000), ADAPTER.format(base="Generator", body=DRAWS))


def test_every_built_in_task_loads() -> None:
    names = task_names()
    assert {"chains", "countdown", "knights_knaves", "linear_equations", "gsm8k", "math", "aime"} <= set(names)
    for name in names:
        task = load_task(name)
        assert isinstance(task, Task)
        assert task.name == name
        assert task.description
        assert task.verifiers
        assert (task.folder / "README.md").is_file()


def test_folder_with_task_toml_is_a_task(drawn: str) -> None:
    task = load_task(drawn)
    problem = task.problems("train", limit=1)[0]
    assert [message.role for message in problem.prompt] == ["system", "user"]
    assert problem.prompt[1].content == f"say {problem.answer}\n\nNow."
    assert len(task.problems("train")) == 20
    assert len(task.problems("test")) == 5


def test_arguments_override_the_defaults_of_task_toml(drawn: str) -> None:
    assert load_task(drawn).args == {"size": 1000}
    assert {int(problem.answer) for problem in load_task(drawn, {"size": 40}).problems("train")} <= set(range(40))


def test_unknown_argument_names_the_known_ones(drawn: str) -> None:
    with pytest.raises(TaskError, match=r"no argument 'sise'; its arguments are: size"):
        load_task(drawn, {"sise": 3})


def test_argument_of_a_wrong_type_names_key_and_value(drawn: str) -> None:
    with pytest.raises(TaskError, match=r"size = 'big'"):
        load_task(drawn, {"size": "big"})


def test_unknown_task_suggests_the_closest() -> None:
    with pytest.raises(TaskError, match=r"did you mean 'chains'"):
        load_task("chain")


def test_folder_without_task_toml_says_so(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"has no task.toml"):
        load_task(str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("max_tokens = 8", "max_tokens = 0"), r"max_tokens = 0"),
        (("max_tokens = 8", "max_token = 8"), r"unknown key 'max_token'"),
        (('name = "exact"', ""), r"verifiers.0.name is missing"),
        (("sizes", "sizes2"), r"unknown key 'sizes2'"),
        (("test = 5", "tests = 5"), r"sizes for train and test"),
        (("[prompt]", "[prompt"), r"not valid TOML"),
    ],
)
def test_wrong_task_toml_is_refused_with_its_key(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    spec = SPEC.format(size=9).replace(*change)
    with pytest.raises(TaskError, match=message):
        load_task(write_task(tmp_path / "wrong", spec, ADAPTER.format(base="Generator", body=DRAWS)))


def test_adapter_of_another_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"must be a Generator or a RowReader"):
        load_task(write_task(tmp_path / "wrong", SPEC.format(size=9), "class Adapter:\n    pass\n"))


def test_plugin_function_makes_a_task(tmp_path: Path, drawn: str) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        f"from rlvr.envs.tasks import load_task\n"
        f"folder = {drawn!r}\n"
        f"def small(args):\n    return load_task(folder, {{'size': 30, **args}})\n"
        f"def broken(args):\n    return 3\n"
    )
    assert load_task(f"{plugin}:folder").args == {"size": 1000}
    assert load_task(f"{plugin}:small").args == {"size": 30}
    with pytest.raises(TaskError, match=r"returned 3, but a Task is needed"):
        load_task(f"{plugin}:broken")


def test_unknown_split_names_the_known_ones(drawn: str) -> None:
    with pytest.raises(TaskError, match=r"no split 'dev'; it has train, test"):
        load_task(drawn).problems("dev")


def test_limit_below_one_is_refused(drawn: str) -> None:
    with pytest.raises(TaskError, match=r"limit = 0"):
        load_task(drawn).problems("train", limit=0)


def test_exhausted_space_says_how_many_problems_there_are(drawn: str) -> None:
    task = load_task(drawn, {"size": 10})
    with pytest.raises(TaskError, match=r"split train: [6-9]|10 distinct problems were found"):
        task.problems("train", limit=11)


def test_task_without_expert_says_what_to_do(drawn: str) -> None:
    with pytest.raises(TaskError, match=r"no demonstrations.*data="):
        load_task(drawn).demonstration("train", 0, 0)


def test_recipes_of_the_tasks_are_valid() -> None:
    from rlvr.config import load_recipe

    recipes = [path for name in task_names() for path in load_task(name).folder.glob("*.toml") if path.name != "task.toml"]
    assert recipes
    for path in recipes:
        recipe = load_recipe(path)
        load_task(recipe.task, recipe.task_args)
    with pytest.raises(ConfigError):
        load_recipe(recipes[0], ["no_such_key=1"])
