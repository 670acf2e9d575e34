"""`rlvr sandbox`: the image, what is on the engine, leftovers, a self-test, and a service for other machines."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rlvr.errors import ConfigError

if TYPE_CHECKING:
    from rlvr.sandbox.health import HostStatus
    from rlvr.sandbox.image import Image, Layer

HELP = "Where code is verified: make its image, show and remove what it left, test that it holds, or serve it to other machines."
PIPE_WIDTH = 240  # characters
DEFAULT_PORT = 8322


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    build = actions.add_parser("build", help="make the image")
    build.add_argument(
        "--layers", default="science,cpp", help="science (numpy, sympy), cpp (g++), both (the default), or '' for none"
    )
    build.add_argument(
        "--from",
        dest="origin",
        default="auto",
        choices=("auto", "registry", "host", "debian"),
        help="what Python comes from: a registry's image, this machine's Python, Debian's packages; auto: the first that works",
    )
    build.add_argument("--base", default="python:3.12-slim", help="the registry's image (python:3.12-slim)")

    status = actions.add_parser("status", help="the engine, the image, and containers with their owners")
    prune = actions.add_parser("prune", help="remove what crashed runs left behind")
    prune.add_argument("--images", action="store_true", help="also images of other versions of rlvr")
    test = actions.add_parser("test", help="attempt to break out, and see it fail; exit code 1 if one attempt gets through")
    test.add_argument("--kind", help="docker or bubblewrap, or the address of a service (RLVR_SANDBOX, else what there is)")

    serve = actions.add_parser("serve", help="run jobs of other machines: RLVR_SANDBOX=http://HOST:PORT there")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    serve.add_argument("--port", type=int, default=DEFAULT_PORT, help=f"port to listen on; 0 takes a free one ({DEFAULT_PORT})")
    serve.add_argument("--slots", type=int, help="jobs at a time (twice the cores)")
    serve.add_argument("--max-body-mb", type=float, default=32.0, help="largest request body in MiB (32)")
    for action in (build, status, prune, test, serve):
        action.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    actions = {"build": _build, "status": _status, "prune": _prune, "test": _test, "serve": _serve}
    return actions[args.action](args)


def _build(args: argparse.Namespace) -> int:
    from rlvr.sandbox.engine import connect_engine, engine_addresses
    from rlvr.sandbox.image_build import Origin, build_image, one_at_a_time

    layers = _layers(args.layers)
    images = []
    for host in engine_addresses():
        with closing(connect_engine(host)) as client, one_at_a_time():
            made = build_image(
                client, layers, origin=Origin(args.origin), base=args.base, is_fresh=True, is_chosen=True, progress=_say(host)
            )
            images.append(made)
    if args.json:
        _print_json([_image_json(image) for image in images])
    else:
        for image in images:
            print(f"{image.tag}  {image.size_mb:.0f} MB  {_versions(image)}  {image.digest}")
    return 0


def _status(args: argparse.Namespace) -> int:
    from rlvr.sandbox.engine import engine_addresses
    from rlvr.sandbox.health import host_status

    hosts = [host_status(host) for host in engine_addresses()]
    if args.json:
        _print_json([_host_json(host) for host in hosts])
    else:
        for host in hosts:
            _print_host(host)
    return 3 if any(host.error for host in hosts) else 0


def _prune(args: argparse.Namespace) -> int:
    from rlvr.sandbox.engine import connect_engine, engine_addresses
    from rlvr.sandbox.leftovers import remove_leftovers

    removed: list[str] = []
    unnamed = 0
    for host in engine_addresses():
        with closing(connect_engine(host)) as client:
            gone = remove_leftovers(client, images=args.images)
            removed += [*gone.containers, *gone.images]
            unnamed += gone.unnamed
    if args.json:
        _print_json({"removed": removed, "unnamed": unnamed})
        return 0
    for name in removed:
        print(f"removed {name}")
    if unnamed:
        print(f"removed {unnamed} images and layers that had no name")
    if not removed and not unnamed:
        print("nothing was left behind")
    return 0


def _test(args: argparse.Namespace) -> int:
    from rlvr.sandbox.escapes import Outcome, run_escapes
    from rlvr.sandbox.shared import make_sandbox

    def show(outcome: Outcome) -> None:
        if not args.json:
            verdict = "stopped" if outcome.is_contained else f"GOT THROUGH: {outcome.detail}"
            print(f"{outcome.name:<16} {outcome.words:<58} {verdict}", flush=True)

    with closing(make_sandbox(args.kind or os.environ.get("RLVR_SANDBOX", "auto"), slots=2)) as sandbox:
        outcomes = run_escapes(sandbox, on_outcome=show)
    escaped = [outcome for outcome in outcomes if not outcome.is_contained]
    if args.json:
        _print_json({"ok": not escaped, "escapes": [asdict(outcome) for outcome in outcomes]})
    else:
        print(f"\n{len(outcomes) - len(escaped)} of {len(outcomes)} attempts were stopped")
    return 1 if escaped else 0


def _serve(args: argparse.Namespace) -> int:
    import secrets

    from rlvr.integrations.gate import ServerLimits
    from rlvr.integrations.listen import BoundServer
    from rlvr.integrations.sandbox_server import SandboxService
    from rlvr.sandbox.shared import make_sandbox

    kind = os.environ.get("RLVR_SANDBOX", "auto")
    if kind == "unsafe" or kind.startswith(("http://", "https://")):
        raise ConfigError(f"RLVR_SANDBOX = {kind!r} cannot be served to other machines; use docker or bubblewrap")
    given = os.environ.get("RLVR_SANDBOX_TOKEN", "")
    token = given or secrets.token_urlsafe(24)

    def announce() -> None:
        if args.json:
            print(json.dumps({"url": server.url, "capacity": sandbox.capacity, "token": None if given else token}), flush=True)
        shown = "the token of RLVR_SANDBOX_TOKEN" if given else f"RLVR_SANDBOX_TOKEN={token}"
        print(f"{sandbox.capacity} slots at {server.url}, with {shown}; Ctrl-C ends it", file=sys.stderr, flush=True)

    with closing(make_sandbox(kind, slots=args.slots)) as sandbox:
        limits = ServerLimits(body_mb=args.max_body_mb)
        service = SandboxService(sandbox, token=token, limits=limits)
        server = BoundServer(service.app(), host=args.host, port=args.port, token=token, limits=limits, on_start=announce)
        sandbox.warm_up()
        server.run_to_end()
    return 0


def _layers(text: str) -> list[Layer]:
    from rlvr.sandbox.image import Layer

    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in tuple(Layer)]
    if unknown:
        raise ConfigError(f"unknown layer {unknown[0]!r}; known: {', '.join(Layer)}")
    return [Layer(name) for name in names]


def _say(host: str) -> Any:
    return lambda words: print(f"{host}: {words}", file=sys.stderr, flush=True)


def _print_host(host: HostStatus) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True, highlight=False)
    console = console if console.is_terminal else Console(soft_wrap=True, highlight=False, width=PIPE_WIDTH)
    if host.engine is None:
        console.print(f"engine      {host.host}: {host.error}", markup=False)
        return
    engine = host.engine
    lacks = f", cannot enforce {', '.join(engine.lacks)}" if engine.lacks else ""
    rootless = ", rootless" if engine.is_rootless else ""
    rows = [
        ("engine", f"Docker {engine.version} (API {engine.api}, {engine.architecture}) at {host.host}"),
        ("isolation", f"cgroup v{engine.cgroup_version}{rootless}{lacks}; storage {engine.storage} in {engine.root_folder}"),
        *((("image" if image.is_current else "old image"), _image_words(image)) for image in host.images),
    ]
    if not any(image.is_current for image in host.images):
        rows.append(("image", "none of this rlvr yet; `rlvr sandbox build` makes it, and so does its first use"))
    for name, words in rows:
        console.print(f"{name:<11} {words}", markup=False)
    if not host.containers:
        console.print("containers  none", markup=False)
        return
    table = Table("container", "state", "for", "slots", "owner", "age", box=None, pad_edge=False, header_style="bold")
    for container in host.containers:
        state = "[red]leftover[/red]" if container.is_left else f"[green]{container.status}[/green]"
        owner = f"process {container.owner.partition(':')[0]}" if container.owner else "unknown"
        table.add_row(container.name, state, container.purpose, str(container.slots or ""), owner, _age(container.age_s))
    console.print()
    console.print(table)
    left = sum(container.is_left for container in host.containers)
    if left:
        console.print(f"\n{left} left behind; `rlvr sandbox prune` removes them", markup=False)


def _image_words(image: Image) -> str:
    layers = ", ".join(image.layers) or "no layers"
    return f"{image.tag} ({image.size_mb:.0f} MB; {layers}; {_versions(image)}; {image.origin}) {image.digest[:19]}"


def _versions(image: Image) -> str:
    return ", ".join(f"{name} {version}" for name, version in image.versions.items())


def _age(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _image_json(image: Image) -> dict[str, Any]:
    return {**asdict(image), "layers": list(image.layers)}


def _host_json(host: HostStatus) -> dict[str, Any]:
    return {**asdict(host), "images": [_image_json(image) for image in host.images]}


def _print_json(value: dict[str, Any] | Iterable[Any]) -> None:
    print(json.dumps(value, indent=2))
