from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from rlvr.errors import ConfigError
from rlvr.evaluation.health.signals import rollout_id
from rlvr.evaluation.health.watch import Finding
from rlvr.evaluation.view.book import Book
from rlvr.evaluation.view.server import ViewServer
from rlvr.trainers.run.rundir import write_text
from rlvr.types import Verdict

from .conftest import HOSTILE, make_rollout, step_of, write_run, write_step

STATIC = files("rlvr.evaluation.view").joinpath("static")
FORBIDDEN = {"\x1b", "\x00", "\x9b", "\u202e", "\u202c", "\u200b", "\ud800"}


@dataclass(frozen=True, slots=True)
class Client:
    port: int

    def ask(self, target: str, method: str = "GET", **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.putrequest(method, target, skip_host="Host" in headers)
            for name, value in headers.items():
                connection.putheader(name.replace("_", "-"), value)
            connection.endheaders()
            reply = connection.getresponse()
            return reply.status, reply.headers, reply.read()
        finally:
            connection.close()

    def get(self, name: str, **asked: object) -> Any:
        status, _, body = self.ask(f"/api/{name}?{urlencode(asked)}")
        assert status == 200, body
        return json.loads(body)

    def error(self, target: str) -> tuple[int, str]:
        status, _, body = self.ask(target)
        return status, json.loads(body)["error"]


@pytest.fixture
def client(run: Path) -> Iterator[Client]:
    with_server = serving(run)
    yield next(with_server)
    next(with_server, None)


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server that no test changes anything for."""
    with_server = serving(write_run(tmp_path_factory.mktemp("steady") / "run"))
    yield next(with_server)
    next(with_server, None)


def serving(*runs: Path) -> Iterator[Client]:
    book = Book(runs)
    book.refresh()
    server = ViewServer(book)
    thread = server.start()
    try:
        yield Client(server.port)
    finally:
        server.stop()
        thread.join(timeout=10)
        server.close()
        book.close()


def test_state_says_how_far_the_run_is(steady: Client) -> None:
    (state,) = steady.get("state")["runs"]
    assert (state["name"], state["step"], state["steps"], state["is_finished"]) == ("run", 3, 5, False)
    assert (state["rollouts"], state["files"], state["files_indexed"], state["last_step"]) == (15, 3, 3, 3)
    assert state["about"] == ["sums", "base", "grpo"]
    assert state["notes"] == []


def test_curves_follow_a_file_that_grows_and_one_that_a_resumed_run_cut(client: Client, run: Path) -> None:
    def reward() -> tuple[list[float], list[float]]:
        (found,) = [curve for curve in client.get("curves")["curves"] if curve["name"] == "reward_mean"]
        return found["xs"], found["ys"]

    assert reward() == ([1, 2, 3], [0.25, 0.5, 0.75])
    signal = next(curve for curve in client.get("curves")["curves"] if curve["name"] == "without_signal_share")
    assert signal["ys"] == [0.25, 0.5, 0.75]
    before = client.get("state")["runs"][0]["curves_version"]
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "reward_mean": 0.9}\n{"step": 5, "reward_me')
    assert reward() == ([1, 2, 3, 4], [0.25, 0.5, 0.75, 0.9])
    assert client.get("state")["runs"][0]["notes"] == [], "half a line is a line that is still being written"
    assert client.get("state")["runs"][0]["curves_version"] != before
    write_text(run / "metrics.jsonl", "".join(f'{{"step": {step}, "reward_mean": 0.125}}\n' for step in range(1, 9)))
    assert reward() == (list(range(1, 9)), [0.125] * 8), "as a resumed run does it, and longer than before"
    (run / "metrics.jsonl").write_text("")
    assert client.get("curves")["curves"] == []


def test_a_damaged_line_of_metrics_is_said_and_the_others_are_drawn(client: Client, run: Path) -> None:
    (run / "metrics.jsonl").write_text(
        '{"step": 1, "reward_mean": 0.1}\n{"step": 2, "rew\n[3]\n{"step": 4, "reward_mean": NaN, "loss": 2}\n'
    )
    names = {curve["name"]: curve["ys"] for curve in client.get("curves")["curves"]}
    assert names["reward_mean"] == [0.1]
    assert names["loss"] == [2]
    notes = client.get("state")["runs"][0]["notes"]
    assert [note.partition(":")[2].split(":")[0] for note in notes] == [" line 2 is damaged", " line 3 is damaged"]


def test_what_health_rules_said_leads_to_the_rollouts_that_show_it(client: Client, run: Path) -> None:
    shown = rollout_id(step_of(2)[1], 2)
    finding = Finding("length_runs_away", 2, "responses doubled", (shown, "nonsense"), stops=True).to_json()
    with (run / "metrics.jsonl").open("a") as file:
        for health in ([finding, 3], "odd", {"rule": 1}):
            file.write(json.dumps({"step": 4, "reward_mean": 1.0, "health": health}) + "\n")
    (said,) = client.get("curves")["findings"]
    assert said == {
        "step": 4,
        "rule": "length_runs_away",
        "words": "responses doubled",
        "has_ended_run": True,
        "evidence": [{"step": 2, "problem": "task/p9", "sample": 1}],
    }
    (row,) = client.get("rollouts", **said["evidence"][0])["rows"]
    assert (row["step"], row["problem"], row["sample"]) == (2, "task/p9", 1)


def test_held_out_measurements_are_curves_and_a_damaged_one_is_said(client: Client, run: Path) -> None:
    (run / "evaluations").mkdir()
    for step in (0, 2):
        (run / "evaluations" / f"step-{step:06d}.json").write_text(json.dumps({"main": {"pass@1": {"mean": 0.25 * step}}}))
    (run / "evaluations" / "step-000003.json").write_text('{"main"')
    curve = client.get("curves")["curves"][0]
    assert (curve["title"], curve["xs"], curve["ys"]) == ("Held-out pass@1", [0, 2], [0, 0.5])
    assert client.get("state")["runs"][0]["notes"][0].startswith("evaluations/step-000003.json cannot be read")


def test_the_table_shows_numbers_and_the_end_of_the_response(steady: Client) -> None:
    found = steady.get("rollouts", step=3, sort="tokens", direction="down")
    assert [row["tokens"] for row in found["rows"]] == [33, 23, 13, 3, 1]
    assert found["rows"][2]["preview"] == "It Is FIVE"
    assert found["rows"][1]["preview"].startswith("… yyy")
    assert found["rows"][0]["advantage"] == 1.5
    assert found["rows"][-1]["reward"] is None
    assert steady.get("rollouts", text="five", step=3)["rows"][0]["preview"].endswith("it is five 5 not 4")


def test_a_rollout_is_shown_whole(steady: Client) -> None:
    found = steady.get("rollout", step=2, line=3)
    assert found["problem"]["prompt"] == [{"role": "user", "name": "", "text": "what is 2+2?", "left_out": 0}]
    assert found["problem"]["answer"] == "4"
    (turn,) = found["turns"]
    assert turn["message"]["text"] == "I ask"
    assert turn["answers"][0]["text"] == "no such tool"
    assert turn["calls"] == [
        {"name": "calculator", "arguments": '{"expression": "2+2"}', "status": "failed", "elapsed_s": 0.25, "is_truncated": False}
    ]
    assert found["verdicts"][0]["score"] == 0.5
    assert found["advantage"] == 1.0
    assert steady.get("rollout", step=2, line=4)["error"]["text"] == "engine died"


def test_results_of_tests_are_apart_from_other_details(run: Path) -> None:
    tests = [{"name": "test 1", "kind": "passed"}, {"name": "test 2", "kind": "wrong_answer", "note": "got 5"}]
    write_step(run, 3, [make_rollout(verdict=Verdict.incorrect("5", "test 2 of 2", tests=tests, image="img"))])
    for client in serving(run):
        (verdict,) = client.get("rollout", step=3, line=0)["verdicts"]
        assert verdict["tests"] == tests
        assert verdict["details"] == {"image": "img"}


def test_a_group_is_all_rollouts_of_the_problem_in_the_step(steady: Client) -> None:
    found = steady.get("group", step=2, line=3)
    assert [one["sample"] for one in found["rollouts"]] == [0, 1, 2]
    assert {one["problem"]["id"] for one in found["rollouts"]} == {"task/p10"}


def test_the_steps_of_a_problem_can_be_compared_over_two_runs(run: Path, tmp_path: Path) -> None:
    write_step(tmp_path / "other", 7, [make_rollout("task/p9", tokens=9)])
    for client in serving(run, tmp_path / "other"):
        first, second = client.get("problem", id="task/p9")["runs"]
        assert [(step["step"], step["rollouts"], step["correct"], step["mean_reward"]) for step in first["steps"]] == [
            (3, 2, 1, 0.5),
            (2, 2, 1, 0.5),
            (1, 2, 1, 0.5),
        ]
        assert second["steps"] == [{"step": 7, "line": 0, "rollouts": 1, "correct": 1, "mean_reward": 1.0, "mean_tokens": 9.0}]
        assert client.get("group", run=1, step=7, line=0)["run"] == 1
        assert client.get("problem", id="absent")["runs"][0]["steps"] == []


def test_the_same_run_twice_is_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match="compared with itself"):
        Book([run, run / ".." / run.name])


def test_without_a_tokenizer_the_page_says_why_tokens_have_no_colours(client: Client) -> None:
    assert "no tokenizer.json lies in the run's checkpoints" in client.get("tokens", step=3, line=0)["why_not"]


def test_tokens_come_with_probability_and_who_wrote_them(run: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = {word: number for number, word in enumerate(["zero", "system", "user", "three", "four", "five", "\u202e"])}
    model = tokenizers.models.WordLevel(words, unk_token="zero")
    (run / "checkpoints" / "step-000003").mkdir(parents=True)
    tokenizers.Tokenizer(model).save(str(run / "checkpoints" / "step-000003" / "tokenizer.json"))
    for client in serving(run):
        found = client.get("tokens", step=2, line=0)
        assert "".join(found["texts"]).split() == ["system", "user", "five", "\\u202e"]
        assert found["logprobs"] == [None, None, -0.1, -0.2]


# -- what a hostile model, page or client may try


def test_hostile_text_arrives_as_printable_json_everywhere(run: Path) -> None:
    verdict = Verdict.incorrect(HOSTILE, HOSTILE, note=HOSTILE, tests=[{"name": HOSTILE}])
    write_step(run, 3, [make_rollout(HOSTILE, 0, verdict, HOSTILE, prompt=HOSTILE, error=HOSTILE)])
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 4, HOSTILE: 1.0, "health": [{"rule": HOSTILE, "words": HOSTILE}]}) + "\n")
    for client in serving(run):
        id = client.get("rollouts", step=3)["rows"][0]["problem"]
        targets = [
            "state",
            "curves",
            "rollouts?step=3",
            "rollout?step=3&line=0",
            "group?step=3&line=0",
            f"problem?id={quote(id)}",
        ]
        for target in targets:
            status, headers, body = client.ask(f"/api/{target}")
            assert status == 200, target
            assert headers["Content-Type"] == "application/json"
            assert body.isascii()
            texts = json.dumps(json.loads(body), ensure_ascii=False)
            assert not FORBIDDEN & set(texts), target
        assert client.get("problem", id=id)["runs"][0]["steps"][0]["step"] == 3
        assert client.get("rollouts", text="<SCRIPT>", step=3)["total"] == 1


def test_a_huge_line_is_cut_and_says_how_much_is_left(run: Path) -> None:
    write_step(run, 3, [make_rollout(text="z" * 3_000_000)])
    for client in serving(run):
        message = client.get("rollout", step=3, line=0)["turns"][0]["message"]
        assert (len(message["text"]), message["left_out"]) == (200_000, 2_800_000)
        assert len(client.get("rollouts", step=3)["rows"][0]["preview"]) < 300


def test_every_answer_forbids_foreign_scripts_styles_and_frames(steady: Client) -> None:
    for target in ("/", "/main.js", "/view.css", "/api/state", "/api/rollout?step=99&line=0", "/absent"):
        _, headers, _ = steady.ask(target)
        policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:PORT", "127.0.0.1.evil.example:PORT", "127.0.0.1:1", "", "[::1]:PORT"]
)
def test_a_page_that_another_name_leads_to_is_refused(steady: Client, host: str) -> None:
    status, _, body = steady.ask("/api/state", Host=host.replace("PORT", str(steady.port)))
    assert status == 421
    assert b"rollouts" not in body


def test_the_two_names_of_this_machine_are_answered(steady: Client) -> None:
    for name in ("127.0.0.1", "localhost", "LOCALHOST"):
        assert steady.ask("/api/state", Host=f"{name}:{steady.port}")[0] == 200


def test_scripts_of_another_site_may_not_ask_but_a_link_from_there_opens_the_page(steady: Client) -> None:
    assert steady.ask("/api/state", Sec_Fetch_Site="cross-site")[0] == 403
    assert steady.ask("/main.js", Sec_Fetch_Site="same-site")[0] == 403
    assert steady.ask("/", Sec_Fetch_Site="cross-site")[0] == 200
    assert steady.ask("/api/state", Sec_Fetch_Site="same-origin")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "PATCH", "CONNECT", "NONSENSE"])
def test_only_get_is_answered(steady: Client, method: str) -> None:
    assert steady.ask("/api/state", method)[0] == 405


def test_a_get_with_a_body_is_refused(steady: Client) -> None:
    assert steady.ask("/api/state", Content_Length="5")[0] == 400
    assert steady.ask("/api/state", Transfer_Encoding="chunked")[0] == 400


ABSENT = (
    "/../../../etc/passwd /..%2f..%2fetc/passwd //etc/passwd /static/../server.py /index.html/ /%00 "
    "/.view/step-000001.index /config.toml /api/ /api/../main.js /api/__class__ /main.js%00.html /main.js/.. \\main.js"
)
SENSELESS = (
    "rollout rollout?step=x&line=0 rollout?step=3&line=-1 rollout?step=3&line=99 rollout?step=99&line=0 "
    "rollout?run=5&step=3&line=0 rollout?step=99999999999999999999&line=0 rollouts?limit=abc rollouts?tokens=abc "
    "rollouts?sort=__class__ rollouts?outcome=%ff tokens?step=3&line=%D9%A3"
)


@pytest.mark.parametrize("target", ABSENT.split())
def test_there_are_no_files_but_the_page_s_own(steady: Client, target: str) -> None:
    assert steady.ask(target)[0] == 404


@pytest.mark.parametrize("target", [*SENSELESS.split(), "rollouts?" + "a=1&" * 60])
def test_questions_that_make_no_sense_are_answered_with_what_is_wrong(steady: Client, target: str) -> None:
    status, text = steady.error(f"/api/{target}")
    assert status == 400
    assert text


def test_an_address_that_is_too_long_is_refused(steady: Client) -> None:
    assert steady.error("/api/rollouts?text=" + "a" * 10_000)[0] == 414


def test_a_limit_beyond_reason_is_cut(run: Path) -> None:
    write_step(run, 4, [make_rollout(sample=sample) for sample in range(600)])
    for client in serving(run):
        assert len(client.get("rollouts", limit=999_999_999)["rows"]) == 500


@pytest.mark.parametrize(
    "raw",
    [b"\x00\xff\xfe\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 300 + b"\r\n"],
)
def test_a_request_that_is_none_ends_the_connection_and_nothing_else(steady: Client, raw: bytes) -> None:
    with socket.create_connection(("127.0.0.1", steady.port), timeout=10) as connection:
        connection.sendall(raw)
        assert b"200 OK" not in connection.recv(65_536)
    assert steady.ask("/api/state")[0] == 200


def test_a_rollout_whose_file_is_gone_is_an_error_and_the_rest_is_there(client: Client, run: Path) -> None:
    (run / "rollouts" / "step-000003.jsonl.gz").unlink()
    status, text = client.error("/api/rollout?step=3&line=0")
    assert status == 500
    assert "cannot be read" in text
    assert client.get("rollout", step=2, line=0)["step"] == 2


def test_a_port_that_is_taken_or_none_is_said(client: Client, run: Path) -> None:
    book = Book([run])
    with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1 port {client.port}"):
        ViewServer(book, port=client.port)
    with pytest.raises(ConfigError, match="ports are 0"):
        ViewServer(book, port=70_000)


# -- the page's own files


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_has_no_inline_script_or_style_and_asks_nobody_else() -> None:
    page = Page()
    page.feed(STATIC.joinpath("index.html").read_text(encoding="utf-8"))
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        assert tag not in ("style", "iframe", "base", "form", "object", "embed")
        assert tag != "script" or attributes["src"]
    for file in STATIC.iterdir():
        content = file.read_text(encoding="utf-8")
        addresses = set(re.findall(r"https?://[^\s\"'`]+", content))
        assert addresses <= {"http://www.w3.org/2000/svg"}, file.name
        assert "//" not in content.replace("http://", "") or not re.search(r"[\"'(]//", content), file.name


@pytest.mark.parametrize("file", sorted(file.name for file in STATIC.iterdir() if file.name.endswith(".js")))
def test_no_script_of_the_page_can_turn_text_into_html_or_code(file: str) -> None:
    source = STATIC.joinpath(file).read_text(encoding="utf-8")
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "DOMParser",
        "eval(",
        "new Function",
        "createContextualFragment",
        "srcdoc",
        "setHTMLUnsafe",
        "import(",
    ):
        assert way not in source
    assert not re.search(r"set(Timeout|Interval)\(\s*[\"'`]", source)
    assert len(source.splitlines()) <= 500
