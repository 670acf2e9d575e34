// Rollouts of one problem side by side: a whole group, or those of two steps or runs.

import { address, go, place } from "./address.js";
import { ask } from "./api.js";
import { el, replace } from "./dom.js";
import { count, number, plural, shortId } from "./format.js";
import { badge, conversation, facts, messageBlock, pair } from "./parts.js";

export function groupPage(root, context) {
  const where = { run: Number(context.asked.run ?? 0), step: Number(context.asked.step), line: Number(context.asked.line) };
  let cards = null, group = null;

  async function load() {
    group = await ask("group", where, context.signal);
    cards = pickable(group.rollouts.map((one) => card(one)), group.rollouts, group.rollouts.findIndex((one) => one.line === where.line));
    replace(root,
      el("div", { class: "title" }, el("div", { class: "path" }, el("a", { href: address("rollouts", { run: where.run || "" }) }, "Rollouts"), " / ",
        el("a", { href: address("rollouts", { run: where.run || "", step: where.step }) }, `step ${count(where.step)}`), " / ", group.problem.id)),
      el("div", { class: "headline" }, el("h1", {}, plural(group.rollouts.length + group.left_out, "rollout"), " of one problem"), summary(group.rollouts),
        el("div", { class: "actions" }, el("a", { class: "button", href: address("compare", { ...place(where), problem: group.problem.id }) }, "Compare steps ", el("kbd", {}, "c")))),
      question(group.problem), el("div", { class: "cards" }, cards.nodes),
      group.left_out ? el("p", { class: "left-out" }, `… ${plural(group.left_out, "more rollout")}; the table has them`) : null);
    cards.mark();
  }

  load().catch(context.fail);
  return {
    refresh: () => { if (group === null) load().catch(context.fail); },
    keys: { ...moves(() => cards), Escape: () => history.back(), c: () => group && go("compare", { ...place(where), problem: group.problem.id }) },
  };
}

export function comparePage(root, context) {
  const asked = { ...context.asked };
  let cards = null, version = null;

  async function load() {
    const found = await ask("problem", { id: asked.problem }, context.signal);
    const choices = found.runs.flatMap((one) => one.steps.map((step) => ({ ...step, run: one.run })));
    if (!choices.length) throw new Error(`no rollout of problem ${asked.problem ?? ""} is known, or its steps are not read yet`);
    const [left, right] = sides(choices, asked, context.state.runs.length);
    const compared = choices.length === 1 ? [left] : [left, right];
    const groups = await Promise.all(compared.map((one) => ask("group", { run: one.run, step: one.step, line: one.line }, context.signal)));
    const rollouts = groups.flatMap((group) => group.rollouts);
    cards = pickable(rollouts.map((one) => card(one)), rollouts, -1);
    const columns = [cards.nodes.slice(0, groups[0].rollouts.length), cards.nodes.slice(groups[0].rollouts.length)];
    replace(root,
      el("div", { class: "title" }, el("div", { class: "path" }, el("a", { href: "#/rollouts" }, "Rollouts"), " / ", el("a", { href: address("rollouts", { problem: asked.problem }) }, asked.problem), " / compare")),
      question(groups[0].problem),
      choices.length === 1 ? el("p", { class: "remark" }, "This problem was attempted in one step only; there is nothing to compare it with yet.") : null,
      el("div", { class: "sides" }, compared.map((chosen, index) => [["a", "b"][index], chosen, index]).map(([side, chosen, index]) => el("section", { "aria-label": `side ${side}` },
        el("div", { class: "side-head" }, picker(side, chosen, choices, context.state.runs), summary(groups[index].rollouts)), columns[index]))));
    cards.mark();
  }

  function picker(side, chosen, choices, runs) {
    return el("select", { "aria-label": `Side ${side}`, on: { change: (event) => { asked[side] = event.target.value; go("compare", asked); } } },
      choices.map((one) => el("option", { value: `${one.run}:${one.step}`, selected: one.run === chosen.run && one.step === chosen.step },
        `${runs.length > 1 ? `${runs[one.run].name}, ` : ""}step ${one.step} · ${one.correct} of ${one.rollouts} correct`)));
  }

  load().catch(context.fail);
  version = context.state.runs.map((run) => run.version).join();
  return {
    refresh: () => {
      const now = context.state.runs.map((run) => run.version).join();
      if (cards === null && now !== version) { version = now; load().catch(context.fail); }
    },
    keys: { ...moves(() => cards), Escape: () => history.back() },
  };
}

/** What is compared unless it was chosen: two runs at their last step, or the first and the last step of one. */
function sides(choices, asked, runs) {
  const named = (text) => choices.find((one) => `${one.run}:${one.step}` === text);
  const here = choices.find((one) => one.run === Number(asked.run ?? 0) && one.step === Number(asked.step));
  const own = choices.filter((one) => one.run === (here?.run ?? choices[0].run));
  const other = runs > 1 ? choices.find((one) => one.run !== own[0].run) : null;
  if (other) return [named(asked.a) ?? here ?? own[0], named(asked.b) ?? other];
  return [named(asked.a) ?? own.at(-1), named(asked.b) ?? (here && here !== own.at(-1) ? here : own[0])];
}

function question(problem) {
  return el("section", { class: "question card" }, problem.prompt.map((message) => messageBlock(message)), pair("gold answer", el("code", {}, problem.answer)));
}

function summary(rollouts) {
  const rewards = rollouts.map((one) => one.reward).filter((reward) => reward !== null);
  const correct = rollouts.filter((one) => one.outcome === "correct").length;
  const mean = rewards.length ? rewards.reduce((sum, reward) => sum + reward, 0) / rewards.length : null;
  const tokens = rollouts.reduce((sum, one) => sum + one.tokens, 0) / rollouts.length;
  const found = [["correct", `${correct} of ${rollouts.length}`], ["mean reward", mean === null ? "" : number(mean)], ["mean tokens", number(tokens)]];
  return el("dl", { class: "facts" }, found.filter(([, value]) => value !== "").map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

function card(rollout) {
  const alone = { ...rollout, problem: { ...rollout.problem, prompt: [] } };
  const reason = rollout.verdicts.map((verdict) => verdict.reason.text).filter(Boolean).join(" · ");
  return el("article", { class: `card rollout ${rollout.outcome}` },
    el("header", {}, badge(rollout), el("a", { href: address("rollout", place(rollout)), title: `open (${shortId(rollout.problem.id)})` }, `sample ${rollout.sample}`), facts(rollout)),
    el("div", { class: "text" }, conversation(alone)), reason ? el("p", { class: "reason" }, reason) : null);
}

/** Cards of which keys select one. */
function pickable(nodes, rollouts, selected) {
  const mark = () => {
    nodes.forEach((node, index) => node.classList.toggle("selected", index === selected));
    nodes[selected]?.scrollIntoView({ block: "nearest" });
  };
  return { nodes, mark,
    move: (by) => { selected = Math.max(0, Math.min(nodes.length - 1, selected + by)); mark(); },
    open: () => { if (rollouts[selected]) go("rollout", place(rollouts[selected])); } };
}

function moves(cards) {
  const by = (distance) => () => cards()?.move(distance);
  return { j: by(1), k: by(-1), ArrowRight: by(1), ArrowLeft: by(-1), ArrowDown: by(1), ArrowUp: by(-1), Enter: () => cards()?.open(), o: () => cards()?.open() };
}
