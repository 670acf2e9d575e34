"""Options that `eval` and `filter` share: which model answers, and how it samples."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlvr.cli.live import LiveView
    from rlvr.engines.subject import Subject


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task-args", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="arguments of the task")
    parser.add_argument("--temperature", type=float, default=1.0, help="1.0")
    parser.add_argument("--top-p", type=float, default=1.0, help="1.0: off")
    parser.add_argument("--top-k", type=int, default=0, help="0: off")
    parser.add_argument("--min-p", type=float, default=0.0, help="0: off")
    parser.add_argument("--max-tokens", type=int, help="new tokens of a response (the task's suggestion)")
    parser.add_argument("--tools", nargs="+", action="extend", default=[], metavar="NAME", help="tools that the model may call")
    parser.add_argument(
        "--env",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="keys of a recipe's [env]: name, tools, format, args.KEY, limits.KEY (the task's suggestion)",
    )
    parser.add_argument("--engine", default="native", help="native, openai or another plugin")
    parser.add_argument("--url", help="of the server, for --engine openai (OPENAI_BASE_URL)")
    parser.add_argument("--template", default="auto", help="auto, chat, plain, or a Jinja file")
    parser.add_argument("--seed", type=int, default=0, help="equal seeds give equal samples (0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--max-rows", type=int, default=256, help="sequences that the engine decodes together (256)")
    parser.add_argument("--max-unscored", type=float, default=0.02, help="share of ungraded rollouts at which to stop (0.02)")
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else, on stdout")


def subject_of(args: argparse.Namespace, model: str, task: str) -> Subject:
    """
    Raises:
        ConfigError: an option is out of range.
    """
    from pydantic import ValidationError

    from rlvr.config import EngineConfig, ModelConfig, env_config
    from rlvr.engines.subject import Subject
    from rlvr.errors import ConfigError
    from rlvr.trainers.explain.algorithm import parse_settings

    try:
        engine = EngineConfig(name=args.engine, url=args.url, max_rows=args.max_rows)
    except ValidationError as error:
        raise ConfigError(f"--max-rows = {args.max_rows}, but at least 1 is needed") from error
    tools = [f"tools={json.dumps(args.tools)}"] if args.tools else []
    return Subject(
        model=model,
        task=task,
        task_args=parse_settings(args.task_args),
        max_tokens=args.max_tokens,
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=args.top_k,
        min_p=args.min_p,
        template=args.template,
        env=env_config([*args.env, *tools]) if args.env or tools else None,
        load=ModelConfig(device=args.device, precision=args.precision),
        engine=engine,
    )


def live_view(*, as_json: bool) -> LiveView:
    """Progress goes to stderr in any case; with `as_json`, stdout is left to JSON."""
    from rich.console import Console

    from rlvr.cli.live import LiveView

    return LiveView(out=Console(stderr=True) if as_json else None)
