// Line charts as SVG. Hovering one shows the same step in all of them.

import { el, svg, replace } from "./dom.js";
import { number, percent } from "./format.js";

const WIDTH = 360, HEIGHT = 170, LEFT = 46, RIGHT = 10, TOP = 10, BOTTOM = 22;
const SMOOTH_FROM = 24;
const shown = new Set();

/** `series`: one for each run, as {xs, ys, run}. */
export function chart(title, unit, series, runs) {
  const text = unit === "share" ? percent : (value) => number(value);
  const all = series.flatMap((one) => one.ys), steps = series.flatMap((one) => one.xs);
  const ticks = niceTicks(Math.min(...all), Math.max(...all), unit === "share");
  const [low, high, first, last] = [ticks[0], ticks.at(-1), Math.min(...steps), Math.max(...steps)];
  const x = (step) => LEFT + ((WIDTH - LEFT - RIGHT) * (step - first)) / (last - first || 1);
  const y = (value) => HEIGHT - BOTTOM - ((HEIGHT - TOP - BOTTOM) * (value - low)) / (high - low || 1);
  const marks = ticks.map((tick) => [
    svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(tick), y2: y(tick) }),
    svg("text", { class: "tick", x: LEFT - 7, y: y(tick) + 3.5, "text-anchor": "end" }, text(tick)),
  ]);
  for (const step of stepTicks(first, last)) {
    marks.push(svg("text", { class: "tick", x: x(step), y: HEIGHT - 6, "text-anchor": "middle" }, number(step)));
  }
  for (const one of series) marks.push(lines(one, x, y));
  const rule = svg("line", { class: "rule", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
  const dots = series.map((one) => svg("circle", { class: `dot run${one.run}`, r: 3.2, visibility: "hidden" }));
  const values = el("span", { class: "value" });
  const picture = svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img",
    "aria-label": `${title}, last value ${series.map((one) => text(one.ys.at(-1))).join(" and ")}` }, marks, rule, dots);
  const tell = (step) => {
    const at = series.map((one) => nearest(one.xs, step ?? Infinity));
    replace(values, step === null ? null : el("span", { class: "at" }, `step ${number(series[0].xs[at[0]])}`),
      series.map((one, index) => el("b", { class: `run${one.run}` }, text(one.ys[at[index]]))));
    rule.setAttribute("visibility", step === null ? "hidden" : "visible");
    dots.forEach((dot, index) => {
      const one = series[index];
      dot.setAttribute("visibility", step === null ? "hidden" : "visible");
      dot.setAttribute("cx", x(one.xs[at[index]]));
      dot.setAttribute("cy", y(one.ys[at[index]]));
    });
    const ruled = x(series[0].xs[at[0]]);
    rule.setAttribute("x1", ruled);
    rule.setAttribute("x2", ruled);
  };
  tell(null);
  shown.add(tell);
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * WIDTH;
    const step = first + ((at - LEFT) / (WIDTH - LEFT - RIGHT)) * (last - first);
    for (const other of shown) other(step);
  });
  picture.addEventListener("pointerleave", () => shown.forEach((other) => other(null)));
  return el("figure", { class: "card" },
    el("figcaption", {}, el("span", { class: "name", title: runs.length > 1 ? runs.join(" and ") : null }, title), values), picture);
}

/** Before new charts are drawn. */
export function forgetCharts() {
  shown.clear();
}

function lines(one, x, y) {
  const points = (ys) => one.xs.map((step, index) => `${x(step).toFixed(1)},${y(ys[index]).toFixed(1)}`).join(" ");
  if (one.xs.length === 1) return svg("circle", { class: `dot run${one.run}`, cx: x(one.xs[0]), cy: y(one.ys[0]), r: 3 });
  if (one.xs.length < SMOOTH_FROM) return svg("polyline", { class: `trend run${one.run}`, points: points(one.ys) });
  return [svg("polyline", { class: `values run${one.run}`, points: points(one.ys) }),
    svg("polyline", { class: `trend run${one.run}`, points: points(smooth(one.ys)) })];
}

function smooth(ys) {
  const reach = Math.max(1, Math.floor(ys.length / 30));
  return ys.map((_, index) => {
    const part = ys.slice(Math.max(0, index - reach), index + reach + 1);
    return part.reduce((sum, value) => sum + value, 0) / part.length;
  });
}

function nearest(xs, step) {
  let best = xs.length - 1;
  for (let index = 0; index < xs.length; index++) if (Math.abs(xs[index] - step) < Math.abs(xs[best] - step)) best = index;
  return best;
}

export function niceTicks(low, high, isShare) {
  if (high - low <= 1e-12 * Math.max(Math.abs(low), Math.abs(high))) {
    const margin = isShare ? 0.02 : Math.abs(low) / 5 || 1;
    [low, high] = [low - margin, high + margin];
  }
  if (isShare) [low, high] = [Math.max(0, low), Math.min(1, high)];
  const rough = (high - low) / 4, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough * (1 - 1e-9)));
  const ticks = [];
  for (let index = Math.floor(low / step + 1e-9); index <= Math.ceil(high / step - 1e-9); index++) {
    ticks.push(Number((index * step).toPrecision(12)));
  }
  return ticks.filter((tick) => !isShare || (tick >= 0 && tick <= 1));
}

function stepTicks(first, last) {
  if (last <= first) return [first];
  const inside = niceTicks(first, last, false).filter((tick) => tick >= first && tick <= last && Number.isInteger(tick));
  return inside.length ? inside : [first, last];
}
