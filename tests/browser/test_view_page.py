"""`rlvr view --web` in a real browser: what it shows, which keys it takes, and that text of a model stays text."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rlvr.evaluation.ledger import rollout_to_json, write_rollouts
from rlvr.evaluation.view.book import Book
from rlvr.evaluation.view.server import ViewServer
from rlvr.types import CallStatus, Completion, FinishReason, Message, Problem, Rollout, Stop, ToolCall, Turn, Verdict

HOSTILE = (
    "<script>document.title='pwned';alert(1)</script><img src=x onerror=\"document.title='pwned'\"></pre></script>"
    "<a href='javascript:alert(1)'>x</a><style>*{display:none}</style> \x1b[2J \u202etxt.exe \ud800 end"
)
HUGE = "w" * 400_000


def rollout(id: str, sample: int, verdict: Verdict, text: str, calls: Sequence[ToolCall] = (), reply: str = "") -> Rollout:
    completion = Completion((3, 4, 5), (-0.02, -0.7, -3.0), FinishReason.STOP)
    replies = (Message("tool", reply),) if reply else ()
    turn = Turn((0, 1, 2), completion, Message("assistant", text), replies, None, tuple(calls))
    return Rollout(
        Problem(id, (Message("user", f"question {id}"),), 4), sample, [turn], Stop.STOP, {"exact": verdict}, verdict.score
    )


def write_step(run: Path, step: int, rollouts: Sequence[Rollout]) -> None:
    rows = [rollout_to_json(one, step=step, advantage=0.75 - one.sample_index) for one in rollouts]
    write_rollouts(run / "rollouts" / f"step-{step:06d}.jsonl.gz", rows)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "reward_mean": step / 10, "entropy": 1 / step}) + "\n")


def step_of(step: int) -> list[Rollout]:
    tests = [{"name": "test 1", "kind": "passed"}, {"name": "test 2", "kind": "wrong_answer", "note": "returned 7, not 8"}]
    call = ToolCall("calculator", {"expression": "2+2"}, CallStatus.OK, 0.01)
    return [
        rollout("sums/a", 0, Verdict.correct("4"), f"step {step}: four"),
        rollout("sums/a", 1, Verdict.incorrect("5", "not 4"), f"step {step}: a needle, five", [call], "tool said 4"),
        rollout("sums/b", 0, Verdict.partial(0.5, None, "1 of 2 tests pass", tests=tests), "half"),
        rollout("sums/b", 1, Verdict.unparsed("no answer"), "nothing"),
    ]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.toml").write_text('model = "base"\ntask = "sums"\nsteps = 9\n[algorithm]\nname = "grpo"\n')
    for step in (1, 2, 3):
        write_step(folder, step, step_of(step))
    return folder


class View:
    """A page on a served run; everything that its console says is kept."""

    def __init__(self, browser: Any, url: str, width: int = 1280) -> None:
        self.said: list[str] = []
        self.page = browser.new_page(viewport={"width": width, "height": 800})
        self.page.set_default_timeout(60_000)
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(f"dialog: {dialog.message}"))
        self.url = url

    def open(self, address: str, awaited: str) -> None:
        self.page.goto(f"{self.url}{address}")
        self.page.wait_for_selector(awaited)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def texts(self, selector: str) -> list[str]:
        return [str(text) for text in self.page.locator(selector).all_inner_texts()]

    def wait_for(self, condition: str) -> None:
        """Until a JavaScript expression holds. Playwright's own way is an eval in the page, which its policy forbids."""
        for _ in range(1200):
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"never: {condition}\n{self.page.inner_text('body')[:2000]}")


def serving(browser: Any, *runs: Path, width: int = 1280) -> Iterator[View]:
    book = Book(runs)
    server = ViewServer(book)
    book.start()
    server.start()
    view = View(browser, server.url, width)
    try:
        yield view
        assert view.said == [], "the page is silent: no error, no refused script, no dialog"
    finally:
        view.page.close()
        server.stop()
        server.close()
        book.close()


@pytest.fixture
def view(browser: Any, run: Path) -> Iterator[View]:
    yield from serving(browser, run)


def test_curves_are_drawn_and_grow_with_the_run(view: View, run: Path) -> None:
    view.open("", "figure")
    assert view.texts("figcaption .name")[:2] == ["Reward", "Entropy, nats per token"]
    assert view.texts("figcaption .value")[0] == "0.3"
    write_step(run, 4, step_of(4))
    view.wait_for("document.querySelector('figcaption .value').innerText === '0.4'")
    assert "step 4 of 9" in view.texts(".status")[0]


def test_a_health_finding_leads_to_the_rollout_that_shows_it(view: View, run: Path) -> None:
    finding = {"rule": "length_runs_away", "words": "responses doubled", "rollouts": ["step 2: sums/a #1"], "stops": False}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 4, "reward_mean": 0.4, "health": [finding]}) + "\n")
    view.open("", ".health li")
    assert view.texts(".health li") == ["step 4\nlength runs away\nresponses doubled a #1"]
    view.page.click(".health .evidence")
    view.wait_for("document.querySelectorAll('table.list tbody tr').length === 1")
    assert "needle" in view.texts("td.response")[0]


def test_the_table_shows_new_steps_without_being_asked(view: View, run: Path) -> None:
    view.open("#/rollouts", "table.list tbody tr")
    view.wait_for("document.querySelectorAll('table.list tbody tr').length === 12")
    write_step(run, 4, step_of(4))
    view.wait_for("document.querySelectorAll('table.list tbody tr').length === 16")
    assert view.texts("table.list tbody tr:first-child td")[0] == "4"


def test_filters_sorting_and_search_narrow_the_table_and_stay_in_the_address(view: View) -> None:
    view.open("#/rollouts", "table.list tbody tr")
    view.wait_for("document.querySelectorAll('table.list tbody tr').length === 12")
    view.page.click(".chip.incorrect")
    view.wait_for("document.querySelectorAll('table.list tbody tr').length === 3")
    view.page.fill("[data-filter=step]", "2..3")
    view.wait_for("document.querySelectorAll('table.list tbody tr').length === 2")
    view.page.click("th button:has-text('Step')")
    view.wait_for("document.querySelector('table.list tbody td').innerText === '2'")
    view.press("/")
    view.page.keyboard.type("NEEDLE")
    view.wait_for("location.hash.includes('text=NEEDLE')")
    view.wait_for("document.querySelector('td.response').innerText.includes('a needle, five')")
    assert {"outcome=incorrect", "step=2..3", "direction=up", "text=NEEDLE"} <= set(
        re.split("[?&]", view.page.url.replace("%2E", "."))
    )
    view.page.reload()
    view.wait_for("document.querySelectorAll('table.list tbody tr').length === 2")
    view.page.fill("[data-filter=tokens]", "many")
    view.wait_for("document.querySelector('.trouble').innerText.includes('is no range')")
    assert view.said == ["Failed to load resource: the server responded with a status of 400 (Bad Request)"]
    view.said.clear()


def test_keys_lead_through_table_rollout_group_and_comparison(view: View) -> None:
    view.open("#/rollouts", "table.list tbody tr")
    view.wait_for("document.querySelectorAll('table.list tbody tr').length === 12")
    view.press("j", "j", "ArrowDown", "k")
    assert view.texts("tr.selected td")[1] == "a"
    view.press("Enter")
    view.page.wait_for_selector(".message.assistant")
    assert "a needle, five" in view.texts(".message.assistant pre")[0]
    assert view.texts(".message.tool pre") == ["tool said 4"]
    assert "not 4" in view.texts(".verdict .reason")[0]
    view.press("j")
    view.wait_for("document.querySelector('.message.assistant pre')?.innerText === 'half'")
    assert view.texts("table.tests tr")[1].split("\t")[1:] == ["test 2", "wrong answer\nreturned 7, not 8"]
    view.press("k")
    view.wait_for("document.querySelector('.message.assistant pre')?.innerText.includes('needle')")
    view.press("g")
    view.page.wait_for_selector("article.selected")
    assert len(view.texts("article")) == 2
    view.press("c")
    view.page.wait_for_selector(".sides")
    assert [len(view.texts(f".sides section:nth-child({side}) article")) for side in (1, 2)] == [2, 2]
    assert "step 1:" in view.texts(".sides section:nth-child(1) pre")[0]
    assert "step 3:" in view.texts(".sides section:nth-child(2) pre")[0]
    view.page.select_option(".sides section:nth-child(1) select", "0:2")
    view.wait_for("document.querySelector('.sides section:nth-child(1) article pre')?.innerText.includes('step 2:')")
    view.press("Escape", "Escape", "?")
    view.page.wait_for_selector("dialog[open]")
    view.press("?")
    assert view.page.locator("dialog[open]").count() == 0


def test_escape_leads_from_a_rollout_back_to_the_row_it_was_opened_from(view: View) -> None:
    view.open("#/rollouts?outcome=incorrect", "table.list tbody tr")
    view.wait_for("document.querySelectorAll('table.list tbody tr').length === 3")
    view.press("j", "j", "Enter")
    view.page.wait_for_selector(".message.assistant")
    view.press("j")
    view.wait_for("document.querySelector('.message.assistant pre')?.innerText.includes('step 1')")
    view.press("Escape")
    view.page.wait_for_selector("tr.selected")
    assert view.texts("tr.selected td")[0] == "1"
    assert "outcome=incorrect" in view.page.url


def test_text_of_a_model_is_shown_and_never_run(browser: Any, run: Path) -> None:
    verdict = Verdict.incorrect(HOSTILE, HOSTILE, note=HOSTILE, tests=[{"name": HOSTILE, "kind": HOSTILE}])
    hostile = rollout(HOSTILE, 0, verdict, HOSTILE, [ToolCall(HOSTILE, HOSTILE, CallStatus.FAILED)], HOSTILE)
    write_step(run, 4, [hostile, rollout("huge", 1, Verdict.correct(), HUGE)])
    write_step(run, 5, [hostile])
    with (run / "metrics.jsonl").open("a") as file:
        health = [{"rule": HOSTILE, "words": HOSTILE, "rollouts": [f"step 4: {HOSTILE} #0"]}]
        file.write(
            json.dumps({"step": 5, HOSTILE: 1.0, "health": health}) + "\n" + HOSTILE.encode("utf-8", "replace").decode() + "\n"
        )
    for view in serving(browser, run):
        shown, end = (
            "<script>document.title='pwned';alert(1)</script><img src=x",
            "<style>*{display:none}</style> \\x1b[2J \\u202etxt.exe",
        )
        for address, awaited, text in [
            ("", "details.fold figure", shown),
            ("#/rollouts?step=4", "td.response a", end),
            (
                "#/rollout?step=4&line=0",
                ".verdict .tests",
                shown + "".join(HOSTILE.partition("<img src=x")[2:]).partition(" \x1b")[0],
            ),
            ("#/group?step=4&line=0", "article pre", shown),
        ]:
            view.page.goto("about:blank")
            view.page.goto(f"{view.url}{address}")
            view.page.wait_for_selector(awaited, state="attached")
            assert "pwned" not in view.page.title()
            assert view.page.locator("main img, main script, main style, main a[href^='javascript']").count() == 0
            assert text in view.page.evaluate("document.body.textContent"), address
            content = view.page.content()
            assert not {"\x1b", "\u202e", "\ud800"} & set(content)
        view.press("c")
        view.page.wait_for_selector(".sides article")
        assert shown in view.texts(".sides pre")[0]
        view.open("#/rollout?step=4&line=1", ".left-out")
        assert "200,000 more characters" in view.texts(".left-out")[0]
        assert view.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_policy_stops_a_script_even_if_one_got_in(view: View) -> None:
    view.open("", "figure")
    stopped = view.page.evaluate(
        """async () => {
          const violations = [];
          document.addEventListener("securitypolicyviolation", (event) => violations.push(event.effectiveDirective));
          const script = document.createElement("div");
          try { script.innerHTML = "<img src=x onerror='document.title=1'>"; } catch (error) { violations.push(error.name); }
          const inline = document.createElement("script");
          try {
            inline.textContent = "document.title = 'pwned'";
            document.head.append(inline);
          } catch (error) { violations.push(error.name); }
          await fetch("http://127.0.0.1:9/").catch(() => violations.push("fetch"));
          await new Promise((done) => setTimeout(done, 100));
          return [violations, document.title];
        }"""
    )
    assert {"TypeError", "fetch"} <= set(stopped[0])
    assert "pwned" not in stopped[1]
    assert all("Content Security Policy" in text or "TrustedHTML" in text or "Trusted" in text for text in view.said)
    view.said.clear()


def test_tokens_are_coloured_by_probability_advantage_and_mask(browser: Any, run: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = {word: number for number, word in enumerate(["zero", "what", "is", "sure", "maybe", "\u202ehardly"])}
    (run / "checkpoints" / "step-000003").mkdir(parents=True)
    model = tokenizers.models.WordLevel(words, unk_token="zero")
    tokenizers.Tokenizer(model).save(str(run / "checkpoints" / "step-000003" / "tokenizer.json"))
    for view in serving(browser, run):
        view.open("#/rollout?step=3&line=0", ".message.assistant")
        view.press("t")
        view.page.wait_for_selector(".by-probability")
        tokens = view.page.locator("pre .token")
        assert [text.strip() for text in tokens.all_inner_texts()] == ["zero", "what", "is", "sure", "maybe", "\\u202ehardly"]
        classes = [tokens.nth(index).get_attribute("class") for index in range(6)]
        assert [name.split()[1] for name in classes] == ["context"] * 3 + ["sampled"] * 3
        assert [name.split()[2] for name in classes[3:]] == ["p9", "p4", "p0"]
        assert "p = 0.0498" in tokens.nth(5).get_attribute("title")
        view.press("t")
        view.page.wait_for_selector(".by-advantage .up2")
        assert "+0.75" in view.texts(".legend")[0]
        view.press("t")
        view.page.wait_for_selector(".by-mask")
        assert "3 tokens, trained on" in view.texts(".legend")[0]


def test_without_a_tokenizer_the_page_says_why(view: View) -> None:
    view.open("#/rollout?step=3&line=0", ".message.assistant")
    view.press("t")
    view.wait_for("document.querySelector('.conversation').innerText.includes('no tokenizer.json lies')")


def test_what_is_damaged_is_said_and_the_rest_is_shown(browser: Any, run: Path) -> None:
    (run / "rollouts" / "step-000002.jsonl.gz").write_bytes(b"no gzip")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"half\n{"step": 4, "reward_mean": 0.5}\n{"step": 5, "rew')
    for view in serving(browser, run):
        view.open("#/rollouts", "table.list tbody tr")
        view.wait_for("document.querySelectorAll('table.list tbody tr').length === 8")
        view.wait_for("document.querySelectorAll('#notes li').length === 2")
        notes = "\n".join(view.texts("#notes li"))
        assert "metrics.jsonl: line 4 is damaged" in notes
        assert "step-000002.jsonl.gz: after 0 rollouts" in notes


def test_two_runs_are_drawn_together_and_compared_on_a_problem(browser: Any, run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.toml").write_text("steps = 9\n")
    write_step(other, 7, [rollout("sums/a", 0, Verdict.correct("4"), "another run")])
    for view in serving(browser, run, other):
        view.open("", "figure")
        assert view.texts(".run b") == ["run", "other"]
        assert view.page.locator("figure:first-of-type .run1").count() > 0
        view.open("#/rollouts?run=1", "table.list tbody tr")
        view.wait_for("document.querySelector('td.response').innerText === 'another run'")
        view.open("#/compare?run=0&step=3&problem=sums/a", ".sides article")
        assert "step 3:" in view.texts(".sides section:nth-child(1) pre")[0]
        assert view.texts(".sides section:nth-child(2) pre") == ["another run"]


@pytest.mark.parametrize("width", [700, 400])
def test_a_narrow_window_needs_no_sideways_scrolling(browser: Any, run: Path, width: int) -> None:
    for view in serving(browser, run, width=width):
        for address, awaited in [
            ("", "figure"),
            ("#/rollouts", "table.list tbody tr"),
            ("#/rollout?step=3&line=1", ".verdict"),
            ("#/group?step=3&line=1", "article"),
            ("#/compare?step=3&line=1&problem=sums/a", ".sides article"),
        ]:
            view.open(address, awaited)
            assert view.page.evaluate("document.documentElement.scrollWidth") <= width, address


def test_the_command_serves_the_page_until_it_is_ended_and_the_page_says_so(browser: Any, run: Path) -> None:
    command = [sys.executable, "-m", "rlvr", "view", str(run), "--web", "--no-browser", "--json", "--outcome", "incorrect"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = json.loads(process.stdout.readline())["url"]
        assert address.endswith("#/rollouts?outcome=incorrect")
        view = View(browser, address)
        view.open("", "table.list tbody tr")
        view.wait_for("document.querySelectorAll('table.list tbody tr').length === 3")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "Ctrl-C ends it" in said
        assert "Traceback" not in said
        view.wait_for("document.body.classList.contains('offline')")
        assert len(view.texts("table.list tbody tr")) == 3, "what was shown stays"
        view.page.close()
    finally:
        process.kill()
        process.communicate()
