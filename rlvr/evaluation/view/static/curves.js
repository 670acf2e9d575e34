// The page of curves: what matters first, everything else folded away; it redraws when the run has written more.

import { address } from "./address.js";
import { ask } from "./api.js";
import { chart, forgetCharts } from "./charts.js";
import { el, replace } from "./dom.js";
import { shortId } from "./format.js";

export function curvesPage(root, context) {
  const box = el("div", {}), health = el("section", { class: "card health", "aria-label": "Health" });
  const rest = el("details", { class: "card fold" });
  let version = null, isOpen = false;
  replace(root, health, box, rest);
  rest.hidden = health.hidden = true;

  async function draw() {
    const runs = context.state.runs;
    const wanted = runs.map((run) => run.curves_version).join();
    if (wanted === version) return;
    version = wanted;
    const found = await Promise.all(runs.map((_, run) => ask("curves", { run }, context.signal)));
    const curves = merged(found.map((one) => one.curves));
    forgetCharts();
    drawHealth(health, found.flatMap((one, run) => one.findings.map((finding) => ({ ...finding, run }))), runs);
    isOpen = rest.open;
    const names = runs.map((run) => run.name);
    const figures = (some) => el("div", { class: "charts" }, some.map((one) => chart(one.title, one.unit, one.series, names)));
    const main = curves.filter((one) => one.is_main), others = curves.filter((one) => !one.is_main);
    replace(box, curves.length ? figures(main) : el("p", { class: "empty" }, "There are no metrics yet. Curves appear with the first step."));
    replace(rest, el("summary", {}, `All other metrics (${others.length})`), figures(others));
    rest.hidden = others.length === 0;
    rest.open = isOpen || main.length === 0;
  }

  draw().catch(context.fail);
  return { refresh: () => draw().catch(context.fail) };
}

/** One entry for each name, with a series for each run that has it. */
function merged(found) {
  const named = new Map();
  found.forEach((curves, run) => {
    for (const curve of curves) {
      if (!named.has(curve.name)) named.set(curve.name, { ...curve, series: [] });
      named.get(curve.name).series.push({ run, xs: curve.xs, ys: curve.ys });
    }
  });
  return [...named.values()];
}

/** What the run's health rules said, with links to the rollouts that show it. */
function drawHealth(health, findings, runs) {
  health.hidden = findings.length === 0;
  const all = findings.map((one) => el("li", {}, runs.length > 1 ? el("span", { class: `key run${one.run}` }) : null, el("span", { class: "aside" }, `step ${one.step}`), el("b", {}, one.rule.replaceAll("_", " ")),
    el("span", {}, one.words, one.has_ended_run ? el("b", { class: "bad" }, " The run ended here.") : null, one.evidence.map((shown) => [" ", el("a", { class: "evidence",
      href: address("rollouts", { run: one.run || "", step: shown.step, problem: shown.problem, sample: shown.sample }), title: shown.problem }, `${shortId(shown.problem)} #${shown.sample}`)]))));
  replace(health, el("h2", {}, "Health"), el("ul", {}, all.slice(0, 4)), all.length > 4 ? el("details", {}, el("summary", {}, `${all.length - 4} more`), el("ul", {}, all.slice(4))) : null);
}
