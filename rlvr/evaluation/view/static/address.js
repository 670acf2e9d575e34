// The address after # says which page is shown: `#/rollouts?outcome=correct`.

export function here() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?", 2);
  return { page: path || "curves", asked: Object.fromEntries(new URLSearchParams(query)) };
}

export function address(page, asked = {}) {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(asked)) {
    if (value !== null && value !== undefined && value !== "") query.set(key, String(value));
  }
  const text = query.toString();
  return `#/${page}${text ? `?${text}` : ""}`;
}

export function go(page, asked = {}) {
  location.hash = address(page, asked);
}

/** Change the address without a new page, for filters that are being typed. */
export function note(page, asked) {
  history.replaceState(null, "", address(page, asked));
}

export function place(rollout) {
  return { run: rollout.run || "", step: rollout.step, line: rollout.line };
}
