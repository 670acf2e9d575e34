"""`rlvr merge`: the average of two models' weights."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

HELP = "Average the weights of two models of one architecture and vocabulary, e.g. a long-thinking and a short-thinking one."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", help="folder of a model or of a run, or a hub name; its config and tokenizer are kept")
    parser.add_argument("second", help="the other model")
    parser.add_argument("--weight", type=float, default=0.5, help="share of the first model, 0 to 1 (0.5)")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the new model; must not exist")
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else, on stdout")


def run(args: argparse.Namespace) -> int:
    from rlvr.engines.merge import merge_models

    merged = merge_models(args.first, args.second, args.out, weight=args.weight)
    if args.json:
        print(json.dumps({**asdict(merged), "path": str(merged.path)}))
    else:
        print(f"{merged.path}: {merged.parameters:,} parameters in {merged.averaged} averaged and {merged.copied} copied tensors")
    return 0
