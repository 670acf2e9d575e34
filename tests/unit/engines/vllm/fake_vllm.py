"""A server of our own that has vLLM's endpoints for token ids and weights, and a real tiny model behind them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from safetensors.torch import load_file

from rlvr.engines.native import NativeEngine
from rlvr.engines.vllm.broadcast import Guest, Layout, Meeting
from rlvr.types import Completion, Sampling

from ....tiny_qwen import tiny_qwen

VOCABULARY, CONTEXT = 40, 128


def build(seed: int = 0) -> Any:
    return tiny_qwen(vocabulary=VOCABULARY, context=CONTEXT, seed=seed, tie_word_embeddings=True)


class FakeVllm:
    """`vllm serve`, as far as the engine uses it. Its attributes are what a test may change."""

    def __init__(self, *, port: int = 0) -> None:
        self.version = "0.32.0"
        self.context = CONTEXT
        self.vocabulary = VOCABULARY
        self.has_training_endpoints = True
        self.has_token_endpoint = True
        self.takes_updates = True
        self.raw_logprobs = False
        self.empties_its_cache = True
        self.refuses_updates = False  # after a few tensors
        self.refuses_to_join = False
        self.comes_to_join = True
        self.dies_after: int | None = None  # so many answers
        self.dies_in_updates = False
        self.is_paused = False
        self.is_updating = False
        self.problem = ""
        self.lacks_layers = False  # from the beginning of an update to its end; vLLM dies of a request then
        self.workers = 1
        self.weight_version = "default"
        self.answers = 0
        self.log: list[str] = []
        self.queries: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self._model = build(seed=99)
        self._native = NativeEngine(self._model, None)
        self._lock = threading.Lock()  # guards the model
        self._guests: list[Guest] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(*fake.get(self.path))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or "{}")
                with fake._lock:
                    fake.queries.append(self.path)
                    is_dead = fake.dies_after is not None and fake.answers >= fake.dies_after
                    found = None if is_dead else fake.post(self.path.partition("?")[0], body)
                if found is None:
                    self.close_connection = True
                else:
                    self._answer(*found)

            def _answer(self, status: int, row: Any) -> None:
                content = json.dumps(row).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: Any) -> None:
                return None

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                return None  # clients of a dead server go away

        self.http = Server(("127.0.0.1", port), Handler)
        self.port = self.http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def get(self, path: str) -> tuple[int, Any]:
        rows = {
            "/version": {"version": self.version},
            "/v1/models": {"data": [{"id": "tiny", "max_model_len": self.context}]},
            "/is_paused": {"is_paused": self.is_paused},
            "/get_world_size": {"world_size": self.workers},
        }
        if self.has_training_endpoints:
            rows["/weight_info"] = {"weight_version": self.weight_version}
        return (200, rows[path]) if path in rows else (404, {"detail": "Not Found"})

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any] | None:
        self.log.append(path)
        if path == "/inference/v1/generate" and self.has_token_endpoint:
            self.bodies.append(body)
            return None if self.lacks_layers else self._generate(body)
        steps = {
            "/pause": self._pause,
            "/resume": self._resume,
            "/init_weight_transfer_engine": self._join,
            "/start_weight_update": self._start_update,
            "/update_weights": self._update,
            "/finish_weight_update": self._finish_update,
            "/collective_rpc": self._rpc,
            "/update_weight_version": self._rename,
            "/reset_prefix_cache": lambda _: {"success": self.empties_its_cache},
        }
        if path not in steps:
            return 404, {"detail": "Not Found"}
        try:
            return 200, steps[path](body) or {}
        except RuntimeError as error:
            return (500, {"error": str(error)}) if str(error) != "dies" else None

    def _pause(self, _: Any) -> None:
        self.is_paused = True

    def _resume(self, _: Any) -> None:
        self.is_paused = False

    def _join(self, body: dict[str, Any]) -> None:
        self.problem = "no such backend here" if self.refuses_to_join else ""
        if self.refuses_to_join:
            return
        if not self.comes_to_join:
            threading.Event().wait(5)
            raise RuntimeError("there was no way to the trainer")
        meeting = Meeting(**body["init_info"])
        found: list[Guest] = []
        ranks = [threading.Thread(target=lambda rank=rank: found.append(self._guest(meeting, rank))) for rank in self._ranks()]
        for thread in ranks:
            thread.start()
        for thread in ranks:
            thread.join()
        self._guests = found

    def _ranks(self) -> range:
        return range(1, self.workers + 1)

    def _guest(self, meeting: Meeting, rank: int) -> Guest:
        return Guest(meeting, rank, torch.device("cpu"))

    def _start_update(self, _: Any) -> None:
        if self.is_updating:
            raise RuntimeError("start_weight_update called while a weight update is already active")
        self.is_updating = self.lacks_layers = True
        self.problem = ""

    def _update(self, body: dict[str, Any]) -> None:
        found = self._taken(body["update_info"])
        if self.takes_updates and not self.problem:
            self._model.load_state_dict(found, strict=False)
        self._native.update_weights()

    def _taken(self, info: dict[str, Any]) -> dict[str, torch.Tensor]:
        if "path" in info:
            return load_file(info["path"])
        layout = Layout(**info)
        found: list[dict[str, torch.Tensor]] = []
        ranks = [threading.Thread(target=lambda one=one: found.append(self._received(one, layout))) for one in self._guests]
        for thread in ranks:
            thread.start()
        for thread in ranks:
            thread.join()
        if self.dies_in_updates:
            raise RuntimeError("dies")
        self.problem = "shapes do not fit" if self.refuses_updates else ""
        assert all(torch.equal(tensor, found[0][name]) for one in found for name, tensor in one.items())
        return found[0]

    def _received(self, guest: Guest, layout: Layout) -> dict[str, torch.Tensor]:
        tensors: dict[str, torch.Tensor] = {}
        with contextlib.closing(guest) if self.dies_in_updates or self.refuses_updates else contextlib.nullcontext():
            for name, tensor in guest.receive(layout):
                tensors[name] = tensor
                if len(tensors) == 3 and (self.dies_in_updates or self.refuses_updates):
                    break
        return tensors

    def _finish_update(self, _: Any) -> None:
        if not self.is_updating:
            raise RuntimeError("finish_weight_update called without a matching start_weight_update")
        self.is_updating = self.lacks_layers = False

    def _rpc(self, body: dict[str, Any]) -> dict[str, Any]:
        if body["method"] == "rlvr_abandon":
            self.problem = ""
            self.is_updating = self.lacks_layers = False
        return {"results": [{"problem": self.problem}] * self.workers}

    def _rename(self, body: dict[str, Any]) -> None:
        self.weight_version = body["new_version"]

    def _generate(self, body: dict[str, Any]) -> tuple[int, Any]:
        settings = body["sampling_params"]
        if max(body["token_ids"]) >= self.vocabulary:
            return 400, {"error": {"message": f"Token id {max(body['token_ids'])} is out of vocabulary"}}
        if max(body["token_ids"]) >= VOCABULARY:
            body = {**body, "token_ids": [0]}
        sampling = Sampling(settings["max_tokens"], temperature=settings["temperature"], seed=settings.get("seed", 0))
        done: Completion = asyncio.run(self._native.generate(body["token_ids"], sampling))
        logprobs = done.logprobs
        if self.raw_logprobs and sampling.temperature:
            ids = torch.tensor([[*body["token_ids"], *done.token_ids]])
            with torch.no_grad():
                rows = self._model(ids).logits[0, len(body["token_ids"]) - 1 : -1].log_softmax(-1)
            logprobs = tuple(rows.gather(-1, torch.tensor(done.token_ids)[:, None])[:, 0].tolist())
        self.answers += 1
        choice = {
            "token_ids": list(done.token_ids),
            "finish_reason": str(done.finish_reason),
            "logprobs": {"content": [{"logprob": value} for value in logprobs]},
            "weight_versions": [{"version": self.weight_version, "start": 0, "end": len(done.token_ids)}],
        }
        return 200, {"choices": [choice]}

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()
