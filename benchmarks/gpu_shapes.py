"""What the gpu_*.py scripts share: random weights of real shapes, on a GPU where there is one and small on the CPU elsewhere."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # must be set before torch is imported

import argparse
from dataclasses import dataclass
from typing import Any

import torch

from rlvr.trainers.sizing.devices import Device, machine_at_hand
from rlvr.trainers.sizing.shape import ModelShape, shape_of

# Source: config.json of the models. hidden, intermediate, layers, heads, kv heads, head dim, vocabulary
SHAPES = {
    "small": ModelShape(64, 192, 2, 4, 2, 16, 512, has_query_key_norm=True, is_tied=True),
    "qwen3-0.6b": ModelShape(1024, 3072, 28, 16, 8, 128, 151_936, has_query_key_norm=True, is_tied=True),
    "qwen3-1.7b": ModelShape(2048, 6144, 28, 16, 8, 128, 151_936, has_query_key_norm=True, is_tied=True),
    "qwen3-4b": ModelShape(2560, 9728, 36, 32, 8, 128, 151_936, has_query_key_norm=True, is_tied=True),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a script runs."""

    device: torch.device
    hardware: Device
    is_small: bool

    @property
    def precision(self) -> str:
        return "fp32" if self.device.type == "cpu" else "bf16"

    @property
    def autocast(self) -> torch.dtype | None:
        return None if self.device.type == "cpu" else torch.bfloat16

    def wait(self) -> None:
        """Until what was started has ended: kernels of a GPU run on after their call."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--small", action="store_true", help="a tiny model and little work; always so without a GPU")
    parser.add_argument("--shape", choices=list(SHAPES), default="qwen3-0.6b")


def place(args: argparse.Namespace) -> Place:
    has_gpu = torch.cuda.is_available()
    if not has_gpu and not args.small:
        print("no CUDA device here: the small setting runs on the CPU, and its figures say nothing about a GPU")
    device = torch.device("cuda" if has_gpu else "cpu")
    return Place(device, machine_at_hand(device.type).device, args.small or not has_gpu)


def build(shape: ModelShape, place: Place, context: int) -> Any:
    """A Qwen3 model with random float32 weights, made on the device."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=context,
        tie_word_embeddings=shape.is_tied,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    with place.device:
        model = Qwen3ForCausalLM(config).eval()
    found = shape_of(model)
    assert found == shape, f"the model was built as {found}"
    return model


def chosen(args: argparse.Namespace, place: Place) -> ModelShape:
    return SHAPES["small" if place.is_small else args.shape]
