// A rollout token by token, coloured by what is stored of each: its probability, the rollout's advantage, who wrote it.

import { el } from "./dom.js";
import { number, plural, signed } from "./format.js";

export const MODES = ["text", "probability", "advantage", "mask"];
const NEWLINE = "↵";

export function tokenView(found, mode, advantage) {
  if (found.why_not) return el("p", { class: "empty" }, `Token colours: ${found.why_not}.`);
  const tokens = found.texts.map((text, index) => tokenOf(text, found.logprobs[index], mode, advantage, index));
  return el("div", { class: `token-view by-${mode}` }, legend(mode, advantage, found), el("pre", {}, tokens),
    found.left_out ? el("p", { class: "left-out" }, `… ${plural(found.left_out, "more token")}`) : null);
}

function tokenOf(text, logprob, mode, advantage, index) {
  const isSampled = logprob !== null, p = isSampled ? Math.exp(logprob) : null;
  const about = isSampled ? `token ${index + 1} · p = ${number(p)} · logprob ${number(logprob)}${advantage === null ? "" : ` · advantage ${signed(advantage)}`}`
    : `token ${index + 1} · not sampled by the model, no gradient`;
  return el("span", { class: `token ${isSampled ? "sampled" : "context"} ${colour(mode, p, advantage)}`, title: about }, text === "\n" ? `${NEWLINE}\n` : text);
}

function colour(mode, p, advantage) {
  if (p === null) return "";
  if (mode === "probability") return `p${Math.min(9, Math.floor(10 * p))}`;
  if (mode === "advantage" && advantage) return `${advantage > 0 ? "up" : "down"}${Math.min(4, Math.ceil(2 * Math.abs(advantage)))}`;
  return "";
}

function legend(mode, advantage, found) {
  const sampled = found.logprobs.filter((value) => value !== null);
  const text = {
    probability: ["how likely the sampled token was: ", el("span", { class: "token p0" }, " under 10 % "), el("span", { class: "token p3" }, " 30 % "),
      el("span", { class: "token p6" }, " 60 % "), el("span", { class: "token p9" }, " over 90 % ")],
    advantage: advantage === null ? "no advantage is stored: the rollout's group was not trained on"
      : ["every sampled token carries the rollout's stored advantage, ", el("b", {}, signed(advantage))],
    mask: [el("span", { class: "token sampled" }, " sampled "), ` ${plural(sampled.length, "token")}, trained on · `, el("span", { class: "token context" }, " context "),
      ` ${plural(found.logprobs.length - sampled.length, "token")} of prompt and tools, no gradient`],
  }[mode];
  return el("p", { class: "legend" }, text);
}
