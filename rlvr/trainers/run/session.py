"""What every training run owns: the model, its optimizer, its folder, and the step it has reached."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from rlvr.config import Recipe
from rlvr.engines.load import LoadedModel
from rlvr.engines.shards import gathered
from rlvr.envs.renderer import Renderer
from rlvr.evaluation.observer import Observer
from rlvr.progress import PROGRESS
from rlvr.trainers.model.distributed import World
from rlvr.trainers.model.moments import MOMENTS
from rlvr.trainers.model.parallel import Way, parallel_of
from rlvr.trainers.model.policy import Policy, unwrap
from rlvr.trainers.model.update import Updater
from rlvr.trainers.run.checkpoint import (
    checkpoint_at,
    checkpoints,
    drafted,
    is_whole,
    load_state,
    save_checkpoint,
    tidy,
    write_model,
)
from rlvr.trainers.run.metrics import MetricWriters
from rlvr.trainers.run.rundir import RunFolder


class Session:
    """One run in one process. `step` counts finished steps; a checkpoint holds all that the next step depends on.

    Nothing random is kept between steps: every draw is seeded by what it is for, so weights, optimizer state, the step
    and the curriculum's state are the whole state of a run.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        loaded: LoadedModel,
        world: World,
        observer: Observer,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.recipe = recipe
        self.folder = folder
        self.world = world
        self.observer = observer
        self.loaded = loaded
        self.tokenizer = loaded.tokenizer
        self.renderer = Renderer(loaded.tokenizer, recipe.template, end_ids=loaded.end_ids)
        self.policy = Policy(
            loaded.model,
            autocast=torch.bfloat16 if loaded.precision == "bf16" else None,
            checkpoint_layers=recipe.load.gradient_checkpointing,
        )
        parallel = parallel_of(recipe.load.parallel)
        if parallel.way is not Way.DEEPSPEED:  # which shares out the policy together with the optimizer
            self.share_out(self.policy)
        self.updater = Updater(self.policy, recipe.optim, recipe.steps, world, parallel)
        self.step = 0
        self.clock = clock  # seconds that the run took so far, those of earlier processes included
        self.extra_state: dict[str, Any] = {}
        self.own_state: dict[str, Any] = {}  # of this rank; those of all ranks are in a checkpoint, as `parts`
        self.parts: list[dict[str, Any]] = []
        self.results: dict[str, Any] = {}  # what summary.json will say beside paths and times
        self._writers: MetricWriters | None = None
        self._saved_step: int | None = None

    def share_out(self, policy: Policy) -> None:
        """Leave of a policy's weights what is this process's own, where the recipe wants that and there are several.

        Raises:
            TrainingError: the model cannot be shared out.
        """
        parallel = parallel_of(self.recipe.load.parallel)
        if self.world.size == 1 or not parallel.shares_weights:
            return
        if parallel.way is Way.FSDP:
            from rlvr.trainers.model.fsdp import shard

            shard(policy, parallel, self.loaded.precision, self.world)
        else:
            from rlvr.trainers.model.zero import share_out

            share_out(policy, self.world, parallel)

    @property
    def max_context(self) -> int:
        """Tokens that the model can attend to, prompt and answer together."""
        config = unwrap(self.loaded.model).config
        return int(getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 1 << 30)

    @property
    def latest_checkpoint(self) -> Path | None:
        return next(reversed(checkpoints(self.folder.checkpoints)), None)

    def restore(self, checkpoint: Path) -> None:
        """Continue from a checkpoint, whose weights are those of `loaded`.

        Raises:
            CheckpointError: its state cannot be read.
        """
        state = load_state(checkpoint)
        self.step = state["step"]
        if "optimizer" in state:
            self.updater.load_state_dict(state["optimizer"])
        else:
            self.updater.moments.load(checkpoint / MOMENTS, state["updates"])
        self.extra_state = state["extra"]
        self.parts = state.get("parts", [])
        self._saved_step = self.step

    def finish_step(self, metrics: Mapping[str, Any]) -> None:
        """Count the step and write its metrics (on the first rank alone)."""
        self.step += 1
        if not self.world.is_main:
            return
        line = {"step": self.step, **metrics, "time_total_s": self.clock()}
        self.folder.log(line)
        if self._writers is None:
            config = self.recipe.model_dump(mode="json")
            self._writers = MetricWriters(self.folder.path, self.recipe.wandb, config, self.step)
        self._writers.write(line)

    def checkpoint_if_due(self) -> bool:
        """Save where the recipe says so, and whether it did."""
        every = self.recipe.checkpoint.every
        is_due = every > 0 and self.step % every == 0
        if is_due:
            self.save()
        return is_due

    def save(self) -> None:
        """Checkpoint the present step, unless that was done.

        Raises:
            CheckpointError: the disk refuses; earlier checkpoints are untouched.
        """
        if self._saved_step == self.step:
            return
        parts = [part for found in self.world.gather_lists([self.own_state]) for part in found]
        with PROGRESS.uncounted():
            self._save({"step": self.step, "extra": self.extra_state, "parts": parts})
        self.world.wait("waiting for the checkpoint")
        self._saved_step = self.step

    def _save(self, state: dict[str, Any]) -> None:
        if self.updater.is_in_parts:
            self._save_in_parts(state)
        elif self.world.is_main:
            state["optimizer"] = self.updater.state_dict()
            save_checkpoint(
                self.folder.checkpoints, self.step, self.loaded.model, self.tokenizer, state, keep=self.recipe.checkpoint.keep
            )

    def _save_in_parts(self, state: dict[str, Any]) -> None:
        """Every rank writes its moments; the first gathers the weights, one tensor at a time, and makes it a checkpoint."""
        world, target, keep = self.world, checkpoint_at(self.folder.checkpoints, self.step), self.recipe.checkpoint.keep
        if world.broadcast(is_whole(target)):
            return
        moments = self.updater.moments
        if world.is_main:
            tidy(target.parent, keep=keep)
        with drafted(target) if world.is_main else nullcontext() as own:
            draft = world.broadcast(own)
            assert draft is not None
            with world.together(f"saving the checkpoint of step {self.step}"):
                moments.save(draft / MOMENTS)
                tensors = gathered(self.loaded.model, is_kept=world.is_main)
            if world.is_main:
                write_model(draft, self.loaded.model, self.tokenizer, {**state, "updates": moments.steps()}, tensors)
        if world.is_main:
            tidy(target.parent, keep=keep)

    def close(self) -> None:
        if self._writers is not None:
            self._writers.close()
