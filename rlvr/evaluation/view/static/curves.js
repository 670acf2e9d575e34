// The page of curves: what matters first, everything else folded away; it redraws when the run has written more.

import { ask } from "./api.js";
import { chart, forgetCharts } from "./charts.js";
import { el, replace } from "./dom.js";

export const title = "Curves";
export const keys = [];

export function curvesPage(root, context) {
  const box = el("div", {});
  const rest = el("details", { class: "card fold" });
  let version = null, isOpen = false;
  replace(root, box, rest);
  rest.hidden = true;

  async function draw() {
    const runs = context.state.runs;
    const wanted = runs.map((run) => run.curves_version).join();
    if (wanted === version) return;
    version = wanted;
    const found = await Promise.all(runs.map((_, run) => ask("curves", { run }, context.signal)));
    const curves = merged(found.map((one) => one.curves));
    forgetCharts();
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
