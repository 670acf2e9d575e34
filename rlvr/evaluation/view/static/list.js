// The table of rollouts: filters, sorting, search, and a selection that keys move.

import { address, go, note, place } from "./address.js";
import { ask } from "./api.js";
import { el, replace } from "./dom.js";
import { count, fixed, number, plural, shortId, signed } from "./format.js";
import { OUTCOMES, badge, highlight, words } from "./parts.js";

export const PAGE = 100;
const WAIT_MS = 160; // after the last key in a filter
const COLUMNS = [
  { name: "step", title: "Step", hint: "5..9", kind: "number", show: (row) => count(row.step) },
  { name: "problem", title: "Problem", hint: "part of its id", kind: "problem", show: (row) => el("span", { title: row.problem }, shortId(row.problem)) },
  { name: "outcome", title: "Outcome", kind: "outcome", show: badge },
  { name: "reward", title: "Reward", hint: ">0.5", kind: "number", show: (row) => fixed(row.reward) },
  { name: "advantage", title: "Adv.", hint: "<0", kind: "number minor", show: (row) => signed(row.advantage) },
  { name: "tokens", title: "Tokens", hint: "<100", kind: "number", show: (row) => count(row.tokens) },
  { name: "calls", title: "Calls", hint: ">0", kind: "number minor", show: (row) => row.calls === 0 ? el("span", { class: "nothing" }, "–")
    : el("span", { title: row.failed_calls ? `${row.failed_calls} failed` : null, class: row.failed_calls ? "bad" : null }, count(row.calls)) },
];

/** What the list showed last, so that a rollout's page can go on to the next. */
export const shelf = { asked: {}, rows: [], offset: 0, total: 0, selected: -1 };

export function listPage(root, context) {
  const asked = { ...context.asked };
  const isSame = JSON.stringify(asked) === JSON.stringify(shelf.asked);
  let rows = [], offset = Number(asked.offset ?? 0), total = 0, selected = isSame ? shelf.selected : -1;
  let version = null, timer = null, pending = null, freshTotal = null;

  const search = el("input", { type: "search", class: "search", placeholder: "Search in responses, prompts, tool output and reasons   ( / )",
    "aria-label": "Search", value: asked.text ?? "", spellcheck: "false", autocomplete: "off", on: { input: (event) => change("text", event.target.value) } });
  const chips = el("div", { class: "chips" });
  const summary = el("div", { class: "summary", role: "status" });
  const trouble = el("p", { class: "trouble", role: "alert" });
  const body = el("tbody", {});
  const heads = el("tr", {}), responseHead = el("th", { class: "response", scope: "col" }, "Response");
  const table = el("table", { class: "list" },
    el("colgroup", {}, COLUMNS.map((column) => el("col", { class: `${column.name} ${column.kind}` })), el("col", {})),
    el("thead", {}, heads, el("tr", { class: "filters" }, COLUMNS.map(filterCell), el("th", { class: "response" }))), body);
  const pager = el("div", { class: "pager" });
  replace(root, el("div", { class: "tools" }, search, runSwitch()), chips, trouble, el("div", { class: "list-head" }, summary, pager), el("div", { class: "card scroll" }, table));

  function runSwitch() {
    if (context.state.runs.length < 2) return null;
    return el("div", { class: "switch", role: "group", "aria-label": "Run" }, context.state.runs.map((run, index) => el("button", { type: "button",
      class: Number(asked.run ?? 0) === index ? "on" : null, on: { click: () => go("rollouts", { ...asked, run: index || "", offset: "" }) } }, run.name)));
  }

  function filterCell(column) {
    if (!column.hint) return el("th", { class: column.kind });
    return el("th", { class: column.kind }, el("input", { type: "text", "aria-label": `${column.title} filter`, placeholder: column.hint, spellcheck: "false",
      autocomplete: "off", value: asked[column.name] ?? "", "data-filter": column.name, on: { input: (event) => change(column.name, event.target.value) } }));
  }

  function change(name, value) {
    if (value === "" || value === null) delete asked[name]; else asked[name] = value;
    delete asked.offset;
    offset = 0;
    selected = -1;
    clearTimeout(timer);
    timer = setTimeout(load, WAIT_MS);
  }

  function sortBy(name) {
    const isThis = (asked.sort ?? "step") === name, isDown = (asked.direction ?? "down") === "down";
    asked.sort = name;
    asked.direction = isThis && isDown ? "up" : "down";
    if (name === "step" && asked.direction === "down") { delete asked.sort; delete asked.direction; }
    change("offset", "");
    drawHeads();
  }

  function drawHeads() {
    const by = asked.sort ?? "step", mark = (asked.direction ?? "down") === "down" ? "↓" : "↑";
    replace(heads, COLUMNS.map((column) => el("th", { class: column.kind, scope: "col", "aria-sort": by === column.name ? (mark === "↓" ? "descending" : "ascending") : null },
      el("button", { type: "button", class: by === column.name ? "sort on" : "sort", on: { click: () => sortBy(column.name) } }, column.title, el("span", { class: "mark" }, by === column.name ? mark : "")))),
      responseHead);
  }

  async function load() {
    pending?.abort();
    pending = new AbortController();
    const mine = pending;
    note("rollouts", asked);
    try {
      let found;
      do { // a long search answers in parts
        found = await ask("rollouts", { ...asked, offset, limit: PAGE }, mine.signal);
        if (mine !== pending || context.signal.aborted) return;
        show(found);
      } while (found.searched < 1);
    } catch (error) {
      if (error.name === "AbortError" || context.signal.aborted) return;
      trouble.textContent = error.message;
    }
  }

  function show(found) {
    trouble.textContent = "";
    ({ rows, total, version } = found);
    freshTotal = null;
    selected = Math.min(selected, rows.length - 1);
    Object.assign(shelf, { asked: { ...asked }, rows, offset, total, selected });
    drawChips(found);
    drawSummary(found);
    replace(body, rows.map(rowOf));
    if (!rows.length && found.searched === 1) {
      replace(body, el("tr", { class: "none" }, el("td", { colspan: COLUMNS.length + 1 }, context.state.runs[asked.run ?? 0].rollouts ? "No rollout matches." : "No rollouts are stored yet.")));
    }
    highlight(body, asked.text);
    responseHead.textContent = asked.text ? "Where it was found" : "Response (its end)";
    mark(false);
  }

  function rowOf(row, index) {
    const where = address("rollout", place({ ...row, run: asked.run }));
    return el("tr", { "data-index": index, on: { click: () => { select(index); location.hash = where; } } },
      COLUMNS.map((column) => el("td", { class: column.kind }, column.show(row))), el("td", { class: "response" }, el("a", { href: where, tabindex: "-1" }, row.preview || "(empty)")));
  }

  function drawChips(found) {
    const chosen = new Set((asked.outcome ?? "").split(",").filter(Boolean));
    const names = [...OUTCOMES, "truncated"].filter((name) => found.outcomes[name] || chosen.has(name));
    replace(chips, names.map((name) => el("button", { type: "button", class: `chip ${name}${chosen.has(name) ? " on" : ""}`, "aria-pressed": chosen.has(name), on: { click: () => {
      if (chosen.has(name)) chosen.delete(name); else chosen.add(name);
      change("outcome", [...chosen].join());
    } } }, el("span", { class: "swatch" }), words(name), el("span", { class: "n" }, count(found.outcomes[name] ?? 0)))),
    Object.keys(asked).some((key) => key !== "run" && key !== "sort" && key !== "direction") ? el("button", { type: "button", class: "quiet", on: { click: () => go("rollouts", { run: asked.run }) } }, "clear filters") : null);
  }

  function drawSummary(found) {
    const last = Math.min(offset + rows.length, total);
    replace(summary, el("b", {}, count(total)), ` rollout${total === 1 ? "" : "s"}`,
      found.mean_reward === null ? null : [" · mean reward ", el("b", {}, number(found.mean_reward))],
      found.searched < 1 ? el("span", { class: "aside" }, ` · searched ${Math.floor(100 * found.searched)}\u2009% so far`) : el("span", { class: "aside" }, ` · ${Math.round(found.elapsed_ms)} ms`),
      freshTotal === null ? null : el("button", { type: "button", class: "quiet fresh", on: { click: load } }, "show new rollouts"));
    replace(pager, el("button", { type: "button", disabled: offset === 0, title: "previous page ( [ )", on: { click: () => turn(-1) } }, "‹"),
      el("span", {}, total ? `${count(offset + 1)}–${count(last)}` : "0"), el("button", { type: "button", disabled: last >= total, title: "next page ( ] )", on: { click: () => turn(1) } }, "›"));
  }

  function turn(direction) {
    const next = offset + direction * PAGE;
    if (next < 0 || next >= total) return;
    offset = next;
    if (offset) asked.offset = offset; else delete asked.offset;
    selected = -1;
    load().then(() => window.scrollTo({ top: 0 }));
  }

  function select(index) {
    selected = Math.max(0, Math.min(index, rows.length - 1));
    shelf.selected = selected;
    mark(true);
  }

  function mark(isToBeSeen) {
    body.querySelector("tr.selected")?.classList.remove("selected");
    const row = body.children[selected];
    if (selected < 0 || !row) return;
    row.classList.add("selected");
    if (isToBeSeen) row.scrollIntoView({ block: "nearest" });
  }

  function open() {
    if (rows[selected]) go("rollout", place({ ...rows[selected], run: asked.run }));
  }

  drawHeads();
  load().then(() => mark(true));
  return {
    refresh: () => {
      const now = context.state.runs[asked.run ?? 0]?.version;
      if (version === null || now === version || context.signal.aborted) return;
      // A list that someone reads stays still.
      if (selected < 0 && window.scrollY < 80 && offset === 0) load();
      else if (freshTotal === null) { freshTotal = now; summary.append(el("button", { type: "button", class: "quiet fresh", on: { click: load } }, "show new rollouts")); }
    },
    keys: {
      j: () => select(selected + 1), ArrowDown: () => select(selected + 1), k: () => select(selected - 1), ArrowUp: () => select(selected - 1),
      Home: () => select(0), End: () => select(rows.length - 1), Enter: open, o: open, "[": () => turn(-1), "]": () => turn(1),
      "/": () => search.focus(), g: () => rows[selected] && go("group", place({ ...rows[selected], run: asked.run })),
    },
    search,
  };
}

/** The neighbour of a rollout in the list that it was opened from; in its step where there is none. */
export async function neighbour(where, direction) {
  const index = shelf.rows.findIndex((row) => row.step === where.step && row.line === where.line);
  if (index < 0 || (Number(shelf.asked.run ?? 0) !== where.run)) return { run: where.run, step: where.step, line: where.line + direction };
  let next = index + direction;
  if (next < 0 || next >= shelf.rows.length) {
    const offset = shelf.offset + direction * PAGE;
    if (offset < 0 || offset >= shelf.total) return null;
    const found = await ask("rollouts", { ...shelf.asked, offset, limit: PAGE });
    Object.assign(shelf, { rows: found.rows, offset, total: found.total });
    shelf.asked = { ...shelf.asked, offset: offset || undefined };
    next = direction > 0 ? 0 : found.rows.length - 1;
  }
  shelf.selected = next;
  return shelf.rows[next] ? { ...shelf.rows[next], run: where.run } : null;
}
