// Pieces that several pages show: outcomes, messages, verdicts.

import { el } from "./dom.js";
import { count, fixed, number, plural, seconds, signed } from "./format.js";

export const OUTCOMES = ["correct", "partial", "incorrect", "unparsed", "verifier_error", "unscored"];
const WORDS = { verifier_error: "verifier error", truncated: "truncated" };

export function words(outcome) {
  return WORDS[outcome] ?? outcome;
}

export function badge(rollout) {
  return el("span", { class: "outcome" }, el("span", { class: `badge ${rollout.outcome}` }, words(rollout.outcome)),
    rollout.is_truncated ? el("span", { class: "cut", title: "truncated by the token limit" }, "cut") : null);
}

export function facts(rollout) {
  const found = [["reward", fixed(rollout.reward)], ["advantage", signed(rollout.advantage)], ["tokens", count(rollout.tokens)]];
  return el("dl", { class: "facts" }, found.filter(([, value]) => value !== "")
    .map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

export function messageBlock(message, kind = message.role, aside = null) {
  const known = ["system", "user", "assistant", "tool"].includes(kind) ? kind : "other";
  return el("section", { class: `message ${known}` },
    el("h3", {}, message.role, message.name ? ` · ${message.name}` : null, aside), textBlock(message));
}

export function textBlock(piece) {
  return [el("pre", {}, piece.text === "" ? el("i", {}, "empty") : piece.text),
    piece.left_out ? el("p", { class: "left-out" }, `… ${plural(piece.left_out, "more character")}; rlvr view --full prints them`) : null];
}

export function conversation(rollout) {
  const blocks = rollout.problem.prompt.map((message) => messageBlock(message));
  rollout.turns.forEach((turn, index) => {
    const about = [rollout.turns.length > 1 ? `turn ${index + 1}` : null, plural(turn.tokens, "token"),
      turn.finish_reason === "stop" ? null : turn.finish_reason].filter(Boolean).join(" · ");
    blocks.push(messageBlock(turn.message, "assistant", el("span", { class: "aside" }, about)));
    if (turn.calls.length) blocks.push(el("div", { class: "call-list" }, turn.calls.map(callLine)));
    for (const answer of turn.answers) blocks.push(messageBlock(answer));
  });
  if (rollout.error) blocks.push(el("section", { class: "message error" }, el("h3", {}, "error (ours, not the model's)"), textBlock(rollout.error)));
  return blocks;
}

function callLine(call) {
  return el("div", { class: "call" }, el("span", { class: `dot ${call.status === "ok" ? "good" : "bad"}` }), el("code", {}, call.name),
    el("code", { class: "arguments" }, call.arguments),
    el("span", { class: "aside" }, `${call.status.replaceAll("_", " ")} · ${seconds(call.elapsed_s ?? 0)}${call.is_truncated ? " · output cut" : ""}`));
}

export function verdictCard(verdict) {
  return el("section", { class: "card verdict" },
    el("header", {}, el("b", {}, verdict.name), el("span", { class: `badge ${verdict.outcome}` }, words(verdict.outcome)),
      el("span", { class: "score" }, verdict.score === null ? "no score" : `score ${number(verdict.score)}`)),
    verdict.reason.text ? el("p", { class: "reason" }, verdict.reason.text) : null,
    verdict.extracted ? pair("read as", el("code", {}, verdict.extracted.text)) : null,
    verdict.tests.length ? testTable(verdict.tests) : null,
    Object.keys(verdict.details).length ? el("details", {}, el("summary", {}, "details"), tree(verdict.details)) : null,
    verdict.elapsed_s ? el("p", { class: "aside" }, `graded in ${seconds(verdict.elapsed_s)}`) : null);
}

export function pair(name, value) {
  return el("div", { class: "pair" }, el("span", {}, name), value);
}

function testTable(tests) {
  const isPassed = (test) => test.kind === "passed" || test.is_passed === true || test.passed === true;
  return el("table", { class: "tests" }, el("tbody", {}, tests.map((test, index) => el("tr", { class: isPassed(test) ? "good" : "bad" },
    el("td", {}, isPassed(test) ? "✓" : "✗"), el("td", {}, String(test.name ?? `test ${index + 1}`)),
    el("td", {}, isPassed(test) ? null : String(test.kind ?? "failed").replaceAll("_", " "), test.note ? el("code", {}, String(test.note)) : null)))));
}

/** Any JSON as nested lists. */
export function tree(value) {
  if (value === null || typeof value !== "object") return el("span", {}, value === null ? "none" : String(value));
  const entries = Array.isArray(value) ? value.map((part, index) => [index + 1, part]) : Object.entries(value);
  return el("ul", { class: "tree" }, entries.slice(0, 200).map(([name, part]) => el("li", {}, el("b", {}, name), " ", tree(part))));
}

export function isTyping(event) {
  return event.target instanceof HTMLElement && event.target.matches("input, select, textarea");
}

/** Mark every place of `text` in what is shown, in any case, without touching it. */
export function highlight(root, text) {
  if (!globalThis.Highlight) return;
  CSS.highlights.delete("found");
  const wanted = (text ?? "").toLowerCase();
  if (!wanted) return;
  const ranges = [], walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node && ranges.length < 500; node = walker.nextNode()) {
    const content = node.data.toLowerCase();
    if (content.length !== node.data.length) continue; // lower case moved its letters
    for (let at = content.indexOf(wanted); at >= 0 && ranges.length < 500; at = content.indexOf(wanted, at + wanted.length)) {
      const range = new Range();
      range.setStart(node, at);
      range.setEnd(node, at + wanted.length);
      ranges.push(range);
    }
  }
  CSS.highlights.set("found", new Highlight(...ranges));
}
