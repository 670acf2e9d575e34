"""The launch files in examples/scale are read by what reads them: bash, YAML, TOML, and our own command line."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from rlvr.cli import train as train_verb
from rlvr.cli.main import main
from rlvr.config import RunConfig, load_recipe, to_toml

ROOT = Path(__file__).parents[3]
SCALE = ROOT / "examples" / "scale"
SCRIPTS = sorted([*SCALE.glob("*.sh"), *SCALE.glob("*.sbatch")])
RECIPES = sorted(SCALE.glob("*.toml"))
CONFIGS = sorted(SCALE.glob("*.yaml"))


def commands(text: str) -> list[list[str]]:
    """The arguments of every `rlvr train` in a file: after `rlvr` or `-m rlvr`, up to a redirection or the end of the line."""
    joined = re.sub(r"\\\n\s*(# +)?", " ", text)
    found = re.findall(r"rlvr train ([^&|;\n']*)", joined)
    return [shlex.split(words) for words in found]


def test_there_are_files_for_one_gpu_for_eight_and_for_two_nodes() -> None:
    assert len(SCRIPTS) >= 4
    assert len(RECIPES) >= 3
    assert len(CONFIGS) >= 2


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_reads_the_script(script: Path) -> None:
    answer = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("file", [*SCRIPTS, *CONFIGS], ids=lambda path: path.name)
def test_commands_in_launch_files_are_understood(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    parser = argparse.ArgumentParser()
    train_verb.add_arguments(parser)
    for words in commands(file.read_text()):
        args = parser.parse_args(words)
        overrides = [override.replace("$urls", "http://one:8000,http://one:8001") for override in args.overrides]
        assert isinstance(load_recipe(train_verb.recipe_path(args.recipe), overrides), RunConfig)


def test_each_way_to_launch_starts_a_recipe() -> None:
    started = {path.name for path in [*SCRIPTS, *CONFIGS] if commands(path.read_text())}
    assert started >= {
        "slurm-ray.sbatch",
        "ray-cluster.yaml",
        "torchrun-8.sh",
        "slurm-2-nodes.sbatch",
        "slurm-servers.sbatch",
        "accelerate-8.yaml",
        "accelerate-16.yaml",
    }


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_the_recipes_pass_a_dry_run(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a model and a task that need no network; everything else is the file's."""
    asked = load_recipe(recipe, ["model=new:tiny", "task=chains", "engine.name=native", "load.lora_rank=0", "engine.args={}"])
    file = tmp_path / recipe.name
    data = asked.model_dump()
    data["engine"]["url"] = None
    file.write_text(to_toml(data))
    assert main(["train", str(file), "--dry-run", "--on", "8xa100-80gb"]) == 0
    assert "it fits" in capsys.readouterr().out


@pytest.mark.parametrize("config", sorted(SCALE.glob("accelerate-*.yaml")), ids=lambda path: path.name)
def test_the_yaml_says_how_many_processes_there_are(config: Path) -> None:
    found = yaml.safe_load(config.read_text())
    number = int(re.search(r"-(\d+)\.yaml", config.name)[1])  # type: ignore[index]
    assert found["num_processes"] == number
    assert found["num_machines"] == max(1, number // 8)
    from accelerate.commands.config.config_args import ClusterConfig

    assert ClusterConfig.from_yaml_file(str(config)).num_processes == number


def test_ray_knows_every_key_of_its_cluster_file() -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'rlvr[ray]'")
    import jsonschema

    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(yaml.safe_load((SCALE / "ray-cluster.yaml").read_text()), schema)
