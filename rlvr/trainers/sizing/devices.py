"""What a device can hold and do: from data sheets, from the device at hand, or from a short measurement of the CPU."""

from __future__ import annotations

import difflib
import os
import re
import time
from dataclasses import dataclass

import torch

from rlvr.errors import ConfigError

_GB = 10**9
_FORM = re.compile(r"(?:(\d+)x)?([a-z0-9.-]+)")


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator, or the CPU of a machine."""

    name: str
    memory: int  # bytes
    flops: float  # of dense matrix products, per second; 0: unknown
    bandwidth: float  # bytes of its memory per second; 0: unknown
    is_gpu: bool = True
    is_measured: bool = False  # flops and bandwidth were measured, and not read in a data sheet


@dataclass(frozen=True, slots=True)
class Machine:
    """Equal devices, a process on each."""

    device: Device
    count: int = 1


def _gpu(name: str, gigabytes: float, teraflops: float, terabytes: float) -> Device:
    return Device(name, int(gigabytes * _GB), teraflops * 1e12, terabytes * 1e12)


# Memory, dense bf16 products with float32 sums, bandwidth. Source: NVIDIA's data sheets; figures "with sparsity" are halved.
KNOWN = {
    device.name: device
    for device in (
        _gpu("rtx-3090", 24, 71, 0.936),
        _gpu("rtx-4090", 24, 165, 1.008),
        _gpu("a10", 24, 125, 0.6),
        _gpu("l4", 24, 121, 0.3),
        _gpu("l40s", 48, 362, 0.864),
        _gpu("a100-40gb", 40, 312, 1.555),
        _gpu("a100-80gb", 80, 312, 2.039),
        _gpu("h100-80gb", 80, 989, 3.35),
        _gpu("h200", 141, 989, 4.8),
        _gpu("b200", 180, 2250, 8.0),
    )
}


def machine_named(text: str) -> Machine:
    """`h200` or `8xa100-80gb`.

    Raises:
        ConfigError: there is no such device in the table.
    """
    found = _FORM.fullmatch(text.lower())
    name = found[2] if found else text
    if found is None or name not in KNOWN or found[1] == "0":
        close = difflib.get_close_matches(name, KNOWN, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(KNOWN)}, also as 8x{next(iter(KNOWN))}"
        raise ConfigError(f"device {text!r} is not known here; {hint}")
    return Machine(KNOWN[name], int(found[1] or 1))


def machine_at_hand(device: str) -> Machine:
    """The device that a run would use here, as often as a launcher says; `device` is the recipe's `load.device`."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    is_gpu = device != "cpu" and torch.cuda.is_available()
    return Machine(_gpu_at_hand(device) if is_gpu else cpu_at_hand(), count)


def _gpu_at_hand(device: str) -> Device:
    index = torch.device("cuda" if device == "auto" else device).index or 0
    properties = torch.cuda.get_device_properties(index)
    words = re.sub(r"[^a-z0-9]", "", properties.name.lower())
    same = [known for known in KNOWN.values() if known.name.split("-80gb")[0].split("-40gb")[0].replace("-", "") in words]
    near = min(same, key=lambda known: abs(known.memory - properties.total_memory), default=None)
    flops, bandwidth = (near.flops, near.bandwidth) if near else (0.0, 0.0)
    return Device(properties.name, properties.total_memory, flops, bandwidth)


def cpu_at_hand() -> Device:
    """This machine's memory, and its speed in matrix products and copies, measured in a quarter of a second."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    one, other = torch.ones(512, 512), torch.ones(512, 512)
    flops = 2 * 512**3 * _per_second(lambda: one @ other)
    block = torch.ones(1 << 24)  # 64 MB: more than caches hold
    bandwidth = block.nbytes * _per_second(block.sum)
    return Device("cpu", memory, flops, bandwidth, is_gpu=False, is_measured=True)


def _per_second(work: object) -> float:
    assert callable(work)
    work()
    count, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < 0.1:
        work()
        count += 1
    return count / elapsed
