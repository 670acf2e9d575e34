// Which page is shown, what is new in the runs, and which key does what.

import { go, here } from "./address.js";
import { ask } from "./api.js";
import { curvesPage } from "./curves.js";
import { el, replace } from "./dom.js";
import { ago, count } from "./format.js";
import { comparePage, groupPage } from "./group.js";
import { listPage } from "./list.js";
import { isTyping } from "./parts.js";
import { rolloutPage } from "./rollout.js";

const PAGES = { curves: curvesPage, rollouts: listPage, rollout: rolloutPage, group: groupPage, compare: comparePage };
const TABS = [["curves", "Curves", "1"], ["rollouts", "Rollouts", "2"]];
const EVERY_MS = 2000, BUSY_MS = 500;
const KEYS = [
  ["1  2", "curves, rollouts"], ["j  k", "next, previous; arrows do it too"], ["enter", "open what is selected"], ["esc", "back; out of a field"], ["/", "search"],
  ["[  ]", "previous, next page of the table"], ["g", "the rollout's whole group"], ["c", "the problem in two steps or runs"], ["t", "colour tokens: probability, advantage, mask"], ["?", "this list"],
];

const root = document.getElementById("page"), help = document.getElementById("help");
const app = { state: null, page: null, leave: null, isToSearch: false };

function show() {
  app.leave?.abort();
  app.leave = new AbortController();
  const { page, asked } = here();
  const context = {
    asked, signal: app.leave.signal, get state() { return app.state; },
    fail: (error) => { if (error.name !== "AbortError" && !context.signal.aborted) replace(root, el("p", { class: "empty bad" }, error.message)); },
  };
  const make = PAGES[page] ?? curvesPage;
  root.className = `page-${page}`;
  replace(root);
  app.page = make(root, context);
  if (app.isToSearch) app.page.search?.focus();
  app.isToSearch = false;
  drawTabs(page);
  if (page !== "rollouts") window.scrollTo({ top: 0 });
}

function drawTabs(page) {
  const current = page === "curves" ? "curves" : "rollouts";
  replace(document.getElementById("tabs"), TABS.map(([name, text]) => el("a", { href: `#/${name}`, class: name === current ? "on" : null, "aria-current": name === current ? "page" : null }, text)));
}

function drawState() {
  const runs = app.state.runs;
  replace(document.getElementById("runs"), runs.map((run, index) => el("div", { class: "run", title: run.path },
    runs.length > 1 ? el("span", { class: `key run${index}` }) : null, el("b", {}, run.name), el("span", { class: "about" }, run.about.slice(0, 3).join(" · ")), progressOf(run))));
  document.title = `${runs.map((run) => run.name).join(" and ")} · rlvr`;
  const files = runs.reduce((sum, run) => sum + run.files, 0), read = runs.reduce((sum, run) => sum + run.files_indexed, 0);
  const bar = document.getElementById("progress");
  bar.hidden = read >= files;
  bar.title = `${count(read)} of ${count(files)} files of rollouts are indexed`;
  document.getElementById("progress-fill").style.width = `${files ? (100 * read) / files : 100}%`;
  drawNotes(runs);
  return read < files;
}

function progressOf(run) {
  if (!run.is_run) return el("span", { class: "status" }, `${count(run.rollouts)} rollouts`);
  const at = run.steps === null ? `step ${count(run.step)}` : `step ${count(run.step)} of ${count(run.steps)}`;
  const isLive = !run.is_finished && run.changed_s !== null && run.changed_s < 600;
  const state = run.is_finished ? "finished" : isLive ? "live" : "not finished";
  const when = run.is_finished || isLive || run.changed_s === null ? "" : `, last written ${ago(run.changed_s)}`;
  return el("span", { class: `status ${isLive ? "live" : ""}` }, el("span", { class: "pulse" }), `${state} · ${at}${when}`);
}

function drawNotes(runs) {
  const notes = runs.flatMap((run) => run.notes.map((note) => (runs.length > 1 ? `${run.name}: ${note}` : note)));
  const box = document.getElementById("notes");
  const key = notes.join("\n");
  if (box.dataset.key === key) return;
  box.dataset.key = key;
  box.hidden = notes.length === 0;
  replace(box, el("details", { open: notes.length < 4 }, el("summary", {}, notes.length === 1 ? "Something could not be read; the rest is shown" : `${notes.length} things could not be read; the rest is shown`),
    el("ul", {}, notes.slice(0, 100).map((note) => el("li", {}, note)))));
}

async function follow() {
  let wait = EVERY_MS;
  if (!document.hidden) {
    try {
      app.state = await ask("state");
      document.body.classList.remove("offline");
      if (drawState()) wait = BUSY_MS;
      app.page?.refresh?.();
    } catch (error) {
      if (app.state === null) replace(root, el("p", { class: "empty bad" }, error.message));
      document.body.classList.add("offline");
    }
  }
  setTimeout(follow, wait);
}

function toggleHelp() {
  if (help.open) { help.close(); return; }
  replace(help, el("h2", {}, "Keys"), el("dl", {}, KEYS.map(([key, text]) => [el("dt", {}, key.split("  ").map((one) => el("kbd", {}, one))), el("dd", {}, text)])),
    el("p", { class: "aside" }, "Filters take 12, 5..9, >0.5 or <=100. The address holds what is shown, and can be kept."));
  help.showModal();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (help.open) { if (event.key === "?") help.close(); return; }
  if (isTyping(event)) {
    if (event.key === "Escape" || (event.key === "Enter" && event.target.matches("input"))) event.target.blur();
    return;
  }
  if (event.key === "Enter" && event.target instanceof HTMLElement && event.target.matches("a, button, summary")) return;
  const common = { "?": toggleHelp, 1: () => go("curves"), 2: () => go("rollouts"), "/": () => { app.isToSearch = true; go("rollouts"); } };
  const act = app.page?.keys?.[event.key] ?? common[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

document.getElementById("help-button").addEventListener("click", toggleHelp);
help.addEventListener("click", (event) => { if (event.target === help) help.close(); });
document.addEventListener("visibilitychange", () => { if (!document.hidden && app.state) ask("state").then((state) => { app.state = state; drawState(); app.page?.refresh?.(); }, () => {}); });
window.addEventListener("hashchange", show);
ask("state").then((state) => { app.state = state; drawState(); show(); setTimeout(follow, BUSY_MS); }, follow);
