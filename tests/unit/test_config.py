from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.config import EvalConfig, OptimConfig, Recipe, RunConfig, SftConfig, env_config, leaves, load_recipe, to_toml
from rlvr.errors import ConfigError

BASE = {"model": "new:tiny", "task": "chains"}
RECIPES = sorted(Path(__file__).parents[2].glob("tasks/*/*.toml"))
RECIPES = [path for path in RECIPES if path.name != "task.toml"]


def load(*overrides: str, **keys: Any) -> Recipe:
    return load_recipe({**BASE, **keys}, overrides)


def run_config(*overrides: str, **keys: Any) -> RunConfig:
    recipe = load(*overrides, **keys)
    assert isinstance(recipe, RunConfig)
    return recipe


# The recipe file


def test_a_recipe_needs_a_model_and_a_task_and_has_a_default_for_all_else() -> None:
    recipe = run_config()
    assert (recipe.model, recipe.task) == ("new:tiny", "chains")
    assert recipe == RunConfig(model="new:tiny", task="chains")


def test_kind_chooses_the_schema() -> None:
    assert isinstance(load(), RunConfig)
    assert isinstance(load(kind="sft"), SftConfig)
    with pytest.raises(ConfigError, match="unknown key 'rollout'"):
        load("rollout.group_size=4", kind="sft")


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        run_config().steps = 3  # type: ignore[misc]


def test_loading_leaves_the_callers_mapping_alone() -> None:
    mine = {**BASE, "rollout": {"group_size": 4}}
    load_recipe(mine, ["rollout.group_size=8", "optim.lr=1e-4"])
    assert mine == {**BASE, "rollout": {"group_size": 4}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"recipe .*x\.toml cannot be read: No such file or directory"),
        (b"model = \nx = 1", r"recipe .*x\.toml is not valid TOML: .*line 1"),
        (b"\xff\xfe", r"recipe .*x\.toml is not valid TOML: .*utf-8"),
        (b"model = 'm'", r"x\.toml: task is missing; set it in the recipe or as task=\.\.\."),
        (b"", r"model is missing.*task is missing"),
    ],
)
def test_a_file_that_is_no_recipe_says_so_with_its_name(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "x.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_recipe(path)


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_recipe(tmp_path)


@pytest.mark.parametrize("path", RECIPES, ids=[f"{path.parent.name}/{path.name}" for path in RECIPES])
def test_every_recipe_in_tasks_loads_and_is_short(path: Path) -> None:
    load_recipe(path, ["model=any"])
    assert len(path.read_text().splitlines()) <= 60


# Overrides


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("steps=7", None, "steps", 7),
        ("model=Qwen/Qwen3-0.6B", None, "model", "Qwen/Qwen3-0.6B"),
        ('model="1e5"', None, "model", "1e5"),
        ("out=a=b", None, "out", "a=b"),
        ("out=runs/a#b", None, "out", "runs/a#b"),
        ("optim.lr=1e-5", "optim", "lr", 1e-5),
        ("optim.lr=auto", "optim", "lr", "auto"),
        ("optim.betas=[0.8, 0.9]", "optim", "betas", (0.8, 0.9)),
        ("load.gradient_checkpointing=true", "load", "gradient_checkpointing", True),
        ('rollout.stop=["\\n\\n", "</answer>"]', "rollout", "stop", ("\n\n", "</answer>")),
        ("task_args={length = 4}", None, "task_args", {"length": 4}),
        ("task_args.length=4", None, "task_args", {"length": 4}),
    ],
)
def test_an_override_sets_one_key(override: str, section: str | None, key: str, value: object) -> None:
    recipe = run_config(override)
    assert getattr(getattr(recipe, section) if section else recipe, key) == value


def test_a_later_override_wins() -> None:
    assert run_config("steps=1", "steps=2").steps == 2


def test_an_override_keeps_its_siblings() -> None:
    assert run_config("rollout.top_k=5", rollout={"group_size": 4}).rollout.group_size == 4


def test_a_new_algorithm_drops_the_arguments_of_the_old_one() -> None:
    old = {"name": "cispo", "ratio_max": 5.0}
    for override in ("algorithm=gspo", "algorithm.name=gspo"):
        assert run_config(override, algorithm=old).algorithm.arguments == {}
    assert run_config("algorithm.name=cispo", algorithm=old).algorithm.arguments == {"ratio_max": 5.0}


def test_arguments_given_beside_a_new_algorithm_are_kept_in_any_order() -> None:
    overrides = ["algorithm.ratio_max=4.0", "algorithm=cispo"]
    for order in (overrides, overrides[::-1]):
        algorithm = run_config(*order, algorithm={"name": "grpo", "clip": 0.1}).algorithm
        assert (algorithm.name, algorithm.arguments) == ("cispo", {"ratio_max": 4.0})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps", r"override 'steps' is not of the form key=value, e\.g\. optim\.lr=1e-5"),
        ("=3", r"not of the form key=value"),
        ("steps.x=1", r"steps is a value, not a section"),
        ("data.keep=[.2,.8]", r"\[\.2,\.8\] is not a TOML value"),
    ],
)
def test_an_override_that_cannot_be_read_says_so(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(override, steps=3)


# Wrong keys and values: what, got, do


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stpes=3", r"unknown key 'stpes'; did you mean 'steps'\?"),
        ("rolout.group_size=3", r"unknown key 'rolout'; did you mean 'rollout'\?"),
        ("rollout.group_sise=3", r"unknown key 'rollout.group_sise'; did you mean 'rollout.group_size'\?"),
        ("lr=1e-5", r"unknown key 'lr'; did you mean 'optim.lr'\?"),
        ("rollout.lr=1e-5", r"unknown key 'rollout.lr'; did you mean 'optim.lr'\?"),
        ("optim.learning_rate=1e-5", r"unknown key 'optim.learning_rate'; optim has lr, schedule, "),
        ("qqq=1", r"unknown key 'qqq'; a recipe has model, task, "),
        ("verifiers=[{nme='x'}]", r"verifiers.0.name is missing; unknown key 'verifiers.0.nme'"),
        ("steps=0", r"steps = 0, but it should be: greater than 0"),
        ("steps=many", r"steps = 'many', but it should be: a valid integer"),
        ("optim.lr=-1", r"optim.lr = -1, but it should be: greater than 0 or 'auto'"),
        ("optim.betas=[0.9, 1.0]", r"optim.betas.1 = 1.0, but it should be: less than 1"),
        ("optim.schedule=step", r"optim.schedule = 'step', but it should be: 'constant', 'linear' or 'cosine'"),
        ("rollout.temperature=nan", r"rollout.temperature = nan, but it should be: a finite number"),
        ("rollout.temperature=inf", r"rollout.temperature = inf, but it should be: a finite number"),
        ("rollout.top_p=0", r"rollout.top_p = 0, but it should be: greater than 0"),
        ("rollout=5", r"rollout = 5, but rollout is a section; set its keys, as in rollout.KEY=VALUE"),
        ("eval.k=[1, 16]", r"eval.k = \[1, 16\], but eval.n = 8: pass@k needs n >= k"),
        ("eval.k=[]", r"eval.k = \[\], but pass@k needs one k or more"),
        ("data.keep=[0.8, 0.2]", r"data.keep = \[0.8, 0.2\], but the lower pass rate comes first"),
        ("kind=rll", r"kind = 'rll', but a recipe is of kind 'rl' or 'sft'"),
        ("kind=[1]", r"kind = \[1\], but a recipe is of kind"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_what_is_allowed(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^recipe: {message}"):
        load(override)


def test_all_mistakes_are_reported_at_once() -> None:
    with pytest.raises(ConfigError, match=r"stpes.*rollout.top_p.*steps = 0|steps = 0.*rollout.top_p"):
        load("stpes=3", "steps=0", "rollout.top_p=2")


def test_an_algorithms_own_arguments_pass_through() -> None:
    assert run_config("algorithm=cispo", "algorithm.ratio_max=5.0").algorithm.arguments == {"ratio_max": 5.0}


# Size


def test_the_budget_of_about_80_leaves_of_a_recipe_is_kept() -> None:
    assert len({*leaves(RunConfig), *leaves(SftConfig)}) <= 84


def test_leaves_are_dotted_names_that_an_override_can_set() -> None:
    assert {"model", "optim.lr", "eval.k", "rollout.group_size", "verifiers"} <= set(leaves(RunConfig))
    assert not {"optim", "rollout"} & set(leaves(RunConfig))


# TOML


text = st.text(st.characters(codec="utf-8"), max_size=8)
scalars = text | st.booleans() | st.integers() | st.floats(allow_nan=False)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3), max_leaves=8)


@given(st.dictionaries(text, values, max_size=4))
def test_toml_comes_back_exactly(table: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml(table)) == table


@given(st.dictionaries(text, st.dictionaries(text, st.none() | st.integers(), max_size=3), max_size=3))
def test_missing_values_are_left_out_of_toml(table: dict[str, Any]) -> None:
    expected = {key: {k: v for k, v in inner.items() if v is not None} for key, inner in table.items()}
    assert tomllib.loads(to_toml(table)) == expected


def test_toml_reads_like_a_recipe() -> None:
    recipe = {
        "model": "m",
        "optim": {"lr": 1e-5},
        "verifiers": [{"name": "math", "args": {"x": 1}}],
        "eval": {"extra": {"hard": {}}},
    }
    assert to_toml(recipe) == (
        'model = "m"\n\n[optim]\nlr = 1e-05\n\n[[verifiers]]\nname = "math"\n\n[verifiers.args]\nx = 1\n\n'
        "[eval]\n\n[eval.extra]\nhard = {}\n"
    )


def test_a_resolved_recipe_comes_back_from_its_file(tmp_path: Path) -> None:
    recipe = run_config(
        "algorithm=dapo",
        "algorithm.clip_high=0.28",
        "eval.variants=true",
        'rollout.stop=["\\n", "\\u007f\\"\\\\"]',
        "verifiers=[{name='math'}, {name='format', weight=0.1, args={style='think'}}]",
        task_args={"spaces and.dots": [1, {"a": 2}], "none": {}, "nested": {}},
    )
    path = tmp_path / "config.toml"
    path.write_text(to_toml(recipe.model_dump()), encoding="utf-8")
    assert load_recipe(path) == recipe


def test_what_toml_cannot_say_is_an_error() -> None:
    with pytest.raises(ConfigError, match="of type object cannot be written as TOML"):
        to_toml({"a": object()})


# The Python door


def test_sections_check_their_values_in_python_too() -> None:
    with pytest.raises(ValueError, match="lr"):
        OptimConfig(lr=-1.0)
    with pytest.raises(ValueError, match="pass@k needs n >= k"):
        EvalConfig(n=2, k=(4,))


@pytest.mark.parametrize(
    "env",
    [
        {"tools": ["calculator"], "format": "code", "args": {"describe": False}, "limits": {"calls": 2, "wall_s": 1.5}},
        {"tools": ["calculator", {"name": "mcp", "command": ["a", "b"], "env": {"K": "v"}}]},
        {"tools": [{"name": "search", "corpus": "wiki.jsonl"}, {"name": "python"}]},
        {"name": "multi_turn", "args": {"partner": "feedback", "settings": {"which": "public"}}},
    ],
)
def test_an_environment_survives_the_resolved_recipe(env: dict[str, Any], tmp_path: Path) -> None:
    recipe = load_recipe({"model": "m", "task": "gsm8k", "env": env})
    path = tmp_path / "config.toml"
    path.write_text(to_toml(recipe.model_dump(exclude_none=True)))
    assert load_recipe(path) == recipe


def test_an_environment_may_be_a_name_and_a_tool_may_stand_alone() -> None:
    recipe = load_recipe({"model": "m", "task": "gsm8k"}, ["env=multi_turn", "env.tools=calculator", "env.limits.calls=3"])
    assert isinstance(recipe, RunConfig)
    assert recipe.env is not None
    assert (recipe.env.plugin, recipe.env.tools, recipe.env.limits.calls) == ("multi_turn", ("calculator",), 3)
    assert env_config(["tool_use", "tools=python", "limits.call_s=5"]).limits.call_s == 5
    for wrong, reason in [
        ("limits.call=1", "unknown key 'limits.call'; did you mean 'limits.calls'"),
        ("limits.calls=0", "limits.calls = 0"),
    ]:
        with pytest.raises(ConfigError, match=reason):
            env_config([wrong])
