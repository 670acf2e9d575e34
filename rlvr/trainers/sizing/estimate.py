"""Whether a recipe fits a machine, how long a step would take there, and what to change where it does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from rlvr.config import RunConfig
from rlvr.trainers.model.parallel import Way, parallel_of
from rlvr.trainers.sizing.devices import Device, Machine
from rlvr.trainers.sizing.memory import Memory, Workload, estimate_memory
from rlvr.trainers.sizing.shape import ModelShape
from rlvr.trainers.sizing.speed import DECODE_SHARE, StepTime, StepWork, estimate_time, update_share

# Of a device's memory, what is left for our tensors. On a GPU CUDA's context, workspaces and gaps between blocks take the rest.
# The C library's allocator leaves larger gaps: processes held up to 1.4 times what was in use (`benchmarks/memory_estimate.py`).
_USABLE_GPU, _USABLE_CPU = 0.9, 0.65


def usable(device: Device) -> int:
    """Bytes of a device that our tensors can have."""
    return int(device.memory * (_USABLE_GPU if device.is_gpu else _USABLE_CPU))


@dataclass(frozen=True, slots=True)
class Advice:
    """A change of the recipe, and what the peak would then be, in bytes."""

    change: str
    peak: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of each process of a run. `time` is None where the device's speed is not known."""

    machine: Machine
    work: Workload
    memory: Memory
    time: StepTime | None
    advice: tuple[Advice, ...]

    @property
    def fits(self) -> bool:
        return self.memory.peak <= usable(self.machine.device)

    def as_json(self) -> dict[str, Any]:
        """Memory in GB, time in seconds."""
        memory = {f"{name}_gb": _gb(value) for name, value in asdict(self.memory).items()}
        return {
            "device": self.machine.device.name,
            "devices": self.machine.count,
            "device_memory_gb": _gb(self.machine.device.memory),
            "fits": self.fits,
            "memory": {
                **memory,
                "update_peak_gb": _gb(self.memory.update),
                "generation_peak_gb": _gb(self.memory.generation),
                "peak_gb": _gb(self.memory.peak),
            },
            "time": None if self.time is None else {**_seconds(self.time), **self._assumed()},
            "advice": [{"change": advice.change, "peak_gb": _gb(advice.peak)} for advice in self.advice],
        }

    def sentences(self) -> Iterator[str]:
        """The same for people."""
        device, memory = self.machine.device, self.memory
        count = f"{self.machine.count} processes, each with " if self.machine.count > 1 else ""
        yield f"estimate for {count}{device.name} with {_said(device.memory)}, if every rollout takes all its tokens:"
        for name, value in asdict(memory).items():
            if value:
                yield f"  {name.replace('_', ' '):<15} {_said(value):>9}"
        yield f"  peak of an update {_said(memory.update)}, of generation {_said(memory.generation)}"
        if self.time is None:
            yield f"  no estimate of the time: the speed of {device.name!r} is not known here"
        else:
            time, how = self.time, "measured here just now" if device.is_measured else "of its data sheet"
            generation = f"generation {time.generation:.3g}" if self.work.is_native else "generation (elsewhere) not counted"
            yield f"  a step takes about {time.total:.3g} s: {generation}, scoring {time.scoring:.3g}, update {time.update:.3g}"
            yield f"  (assumed: {update_share(device):.0%} of the arithmetic and {DECODE_SHARE:.0%} of the bandwidth {how})"
        yield from self._verdict()

    def _verdict(self) -> Iterator[str]:
        device, peak = self.machine.device, self.memory.peak
        if self.fits:
            yield f"it fits: {_said(peak)} of {_said(device.memory)}"
            return
        room = usable(device)
        has = f"{device.name} has {_said(device.memory)} ({_said(room)} of them usable)"
        yield f"IT DOES NOT FIT: it needs {_said(peak)}, and {has}"
        for advice in self.advice:
            enough = "" if advice.peak <= room else ", not enough alone"
            yield f"  {advice.change}: {_said(advice.peak)}{enough}"
        if not self.advice:
            yield "  take a smaller model or a larger device"

    def _assumed(self) -> dict[str, Any]:
        device = self.machine.device
        return {
            "peak_flops": device.flops,
            "bandwidth": device.bandwidth,
            "is_measured": device.is_measured,
            "assumed_update_share": update_share(device),
            "assumed_decode_share": DECODE_SHARE,
        }


@dataclass(frozen=True, slots=True)
class Subject:
    """What a recipe leaves open and an estimate needs."""

    shape: ModelShape
    adapter: int  # parameters of the adapter that the recipe asks for
    adapter_of_16: int  # and of one of rank 16, for advice
    prompt: int  # tokens of the longest prompt
    has_reference: bool  # the algorithm compares with a reference
    scoring_passes: int


def estimate_run(recipe: RunConfig, subject: Subject, machine: Machine) -> Estimate:
    """Of a checked recipe (its `rollout.max_tokens` is set), on each of the machine's devices."""
    work = workload(recipe, subject, machine)
    memory = estimate_memory(subject.shape, work)
    is_tight = memory.peak > usable(machine.device)
    advice = tuple(_advice(recipe, subject, machine, work, memory)) if is_tight else ()
    time = estimate_time(subject.shape, _step(recipe, subject, work, machine), machine.device)
    return Estimate(machine, work, memory, time, advice)


def workload(recipe: RunConfig, subject: Subject, machine: Machine) -> Workload:
    """What one of the machine's processes holds at once."""
    rollout, optim = recipe.rollout, recipe.optim
    length = subject.prompt + (rollout.max_tokens or 0)
    rollouts = rollout.group_size * rollout.problems_per_step
    is_adapter = recipe.load.lora_rank > 0
    is_gpu = machine.device.is_gpu
    precision = recipe.load.precision
    mine = -(-rollouts // machine.count)
    parallel = parallel_of(recipe.load.parallel)
    is_split = parallel.way is not Way.DDP and machine.count > 1
    tokens = min(max(optim.tokens_per_microbatch, length), mine * length)
    return Workload(
        tokens=tokens,
        trained=subject.adapter if is_adapter else subject.shape.parameters,
        rows=min(recipe.engine.max_rows, mine),
        length=length,
        prefilled=subject.prompt * -(-min(recipe.engine.max_rows, mine) // rollout.group_size),
        element=2 if precision == "bf16" or (precision == "auto" and is_gpu) else 4,
        is_checkpointed=recipe.load.gradient_checkpointing,
        is_adapter=is_adapter,
        has_reference=subject.has_reference and not is_adapter,
        is_native=recipe.engine.name == "native",
        is_static_cache=is_gpu,
        shards=machine.count if is_split else 1,
        stage=3 if parallel.shares_weights else parallel.stage,
        is_deepspeed=parallel.way is Way.DEEPSPEED,
        is_offloaded=is_split and parallel.offload,
    )


def _step(recipe: RunConfig, subject: Subject, work: Workload, machine: Machine) -> StepWork:
    rollout = recipe.rollout
    rollouts = -(-rollout.group_size * rollout.problems_per_step // machine.count)
    return StepWork(
        rollouts=rollouts,
        prompts=-(-rollouts // rollout.group_size),
        rows=work.rows if work.is_native else 0,
        prompt=subject.prompt,
        completion=rollout.max_tokens or 0,
        passes=recipe.optim.epochs,
        scoring_passes=subject.scoring_passes,
        element=work.element,
        is_checkpointed=work.is_checkpointed,
        is_adapter=work.is_adapter,
    )


def _advice(recipe: RunConfig, subject: Subject, machine: Machine, work: Workload, memory: Memory) -> Iterator[Advice]:
    """Single changes that lower the peak, the mildest first."""

    def changed(change: str, other: Workload) -> Iterator[Advice]:
        peak = estimate_memory(subject.shape, other).peak
        if peak < 0.99 * memory.peak:
            yield Advice(change, peak)

    if work.element == 4 and machine.device.is_gpu:
        yield from changed("load.precision=bf16", replace(work, element=2))
    if work.is_native:
        rows = max(1, work.rows // 4)
        yield from changed(f"engine.max_rows={rows}", replace(work, rows=rows))
    if machine.count > 1 and work.shards == 1:
        yield from changed("load.parallel=fsdp", replace(work, shards=machine.count, stage=3, is_deepspeed=False))
    if work.shards > 1 and work.stage < 3:
        yield from changed("load.parallel.stage=3", replace(work, stage=3))
    if not work.is_checkpointed:
        yield from changed("load.gradient_checkpointing=true", replace(work, is_checkpointed=True))
    tokens = max(work.length, work.tokens // 4)
    yield from changed(f"optim.tokens_per_microbatch={tokens}", replace(work, tokens=tokens))
    if not work.is_adapter:
        adapted = replace(work, is_adapter=True, has_reference=False, trained=subject.adapter_of_16)
        yield from changed("load.lora_rank=16", adapted)
        both = replace(adapted, is_checkpointed=True, rows=max(1, work.rows // 4))
        yield from changed(f"load.lora_rank=16 load.gradient_checkpointing=true engine.max_rows={both.rows}", both)
    # A micro-batch holds as many tokens as before, of shorter sequences.
    answer = max(1, (recipe.rollout.max_tokens or 2) // 2)
    shorter = replace(work, length=subject.prompt + answer)
    yield from changed(f"rollout.max_tokens={answer}", shorter)


def _seconds(time: StepTime) -> dict[str, float]:
    return {**{f"{name}_s": value for name, value in asdict(time).items()}, "total_s": time.total}


def _gb(count: int) -> float:
    return round(count / 1e9, 3)


def _said(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
