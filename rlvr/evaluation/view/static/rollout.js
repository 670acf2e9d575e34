// One rollout in full: what was said, token by token if wanted, and what the verifiers found.

import { address, go, place } from "./address.js";
import { ask } from "./api.js";
import { el, replace } from "./dom.js";
import { count, fixed, number, signed } from "./format.js";
import { neighbour, shelf } from "./list.js";
import { badge, conversation, highlight, pair, tree, verdictCard } from "./parts.js";
import { MODES, tokenView } from "./tokens.js";

const remembered = { mode: "text" };

export function rolloutPage(root, context) {
  const where = { run: Number(context.asked.run ?? 0), step: Number(context.asked.step), line: Number(context.asked.line) };
  let rollout = null, tokens = null;
  const words = el("div", { class: "conversation" });
  const modes = el("div", { class: "switch", role: "group", "aria-label": "Colour tokens by" });

  const siblings = el("section", { class: "card" });

  async function load() {
    rollout = await ask("rollout", where, context.signal);
    siblings.hidden = true;
    draw();
    await colour(remembered.mode);
    await drawSiblings();
  }

  /** The other attempts of its group, one mark each. */
  async function drawSiblings() {
    const found = await ask("rollouts", { run: where.run || "", step: where.step, problem: rollout.problem.id, sort: "sample", direction: "up", limit: 128 }, context.signal);
    const group = found.rows.filter((row) => row.problem === rollout.problem.id);
    const correct = group.filter((row) => row.outcome === "correct").length;
    siblings.hidden = group.length < 2;
    replace(siblings, el("b", {}, "Its group"), el("span", { class: "aside" }, ` · ${correct} of ${group.length} correct`), el("div", { class: "siblings" }, group.map((row) => el("a", {
      href: address("rollout", place({ ...row, run: where.run })), class: row.line === where.line ? "on" : null, title: `sample ${row.sample}: ${row.outcome.replaceAll("_", " ")}, ${count(row.tokens)} tokens`,
      "aria-label": `sample ${row.sample}, ${row.outcome}` }, el("span", { class: `badge ${row.outcome}` }))))); 
  }

  function draw() {
    const here = place(where);
    replace(root,
      el("div", { class: "title" }, el("div", { class: "path" }, el("a", { href: back() }, "Rollouts"), " / ",
        el("a", { href: address("rollouts", { run: here.run, step: where.step }) }, `step ${count(where.step)}`), " / ",
        el("a", { href: address("rollouts", { run: here.run, problem: rollout.problem.id }) }, rollout.problem.id), ` / sample ${rollout.sample}`),
        el("div", { class: "moves" }, el("button", { type: "button", title: "previous ( k )", on: { click: () => move(-1) } }, "‹"),
          el("button", { type: "button", title: "next ( j )", on: { click: () => move(1) } }, "›"))),
      el("div", { class: "headline" }, badge(rollout), headline(rollout),
        el("div", { class: "actions" }, el("a", { class: "button", href: address("group", here) }, "Group ", el("kbd", {}, "g")),
          el("a", { class: "button", href: address("compare", { ...here, problem: rollout.problem.id }) }, "Compare ", el("kbd", {}, "c")), modes)),
      el("div", { class: "columns" }, words, aside()));
  }

  function aside() {
    return el("aside", {}, rollout.verdicts.map(verdictCard),
      el("section", { class: "card" }, pair("gold answer", el("code", {}, rollout.problem.answer)), pair("ended by", el("span", {}, (rollout.stop ?? "nothing").replaceAll("_", " "))),
        rollout.mean_logprob === null ? null : pair("mean logprob", el("span", {}, number(rollout.mean_logprob))),
        pair("turns", el("span", {}, count(rollout.turns.length)))),
      siblings,
      Object.keys(rollout.problem.metadata).length ? el("details", { class: "card" }, el("summary", {}, "Problem's metadata"), tree(rollout.problem.metadata)) : null,
      el("details", { class: "card" }, el("summary", {}, "Where it came from"), tree(rollout.provenance)));
  }

  async function colour(mode) {
    remembered.mode = mode;
    replace(modes, MODES.map((one) => el("button", { type: "button", class: one === mode ? "on" : null, on: { click: () => colour(one).catch(context.fail) } }, one)));
    if (mode === "text") {
      replace(words, conversation(rollout));
      highlight(root, shelf.asked.text);
      return;
    }
    tokens ??= await ask("tokens", where, context.signal);
    replace(words, tokenView(tokens, mode, rollout.advantage));
  }

  async function move(direction) {
    const next = await neighbour(where, direction);
    if (next) location.replace(address("rollout", place(next)));
  }

  const back = () => address("rollouts", shelf.rows.length ? shelf.asked : { run: where.run || "" });
  const next = () => move(1), previous = () => move(-1);
  load().catch(context.fail);
  return {
    refresh: () => { if (rollout === null) load().catch(context.fail); }, // its step may not have been read yet
    keys: {
      j: next, ArrowRight: next, k: previous, ArrowLeft: previous, Escape: () => { location.hash = back(); }, g: () => go("group", place(where)),
      c: () => rollout && go("compare", { ...place(where), problem: rollout.problem.id }),
      t: () => rollout && colour(MODES[(MODES.indexOf(remembered.mode) + 1) % MODES.length]).catch(context.fail),
    },
  };
}

function headline(rollout) {
  const found = [["reward", fixed(rollout.reward)], ["advantage", signed(rollout.advantage)], ["tokens", count(rollout.tokens)]];
  return el("dl", { class: "facts large" }, found.filter(([, value]) => value !== "").map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}
