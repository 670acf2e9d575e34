// Numbers as people read them.

const MINUS = "\u2212";
const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

export function count(value) {
  return whole.format(value);
}

export function plural(value, noun) {
  return `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
}

export function number(value, digits = 3) {
  if (value === null || value === undefined) return "";
  const size = Math.abs(value);
  if (value !== 0 && size < 1e-3) return sign(value.toExponential(1));
  if (size >= 1e4) return sign(whole.format(value));
  return sign(String(Number(value.toPrecision(digits + (size >= 1000 ? 1 : 0)))));
}

/** With so many digits after the point that columns line up. */
export function fixed(value, digits = 2) {
  return value === null || value === undefined ? "" : sign(value.toFixed(digits));
}

export function signed(value, digits = 2) {
  if (value === null || value === undefined) return "";
  return value > 0 ? `+${fixed(value, digits)}` : fixed(value, digits);
}

export function percent(value) {
  return `${number(100 * value)}\u2009%`;
}

export function seconds(value) {
  if (value < 1) return `${number(1000 * value, 2)} ms`;
  return `${number(value)} s`;
}

export function ago(value) {
  if (value < 90) return `${Math.round(value)} s ago`;
  if (value < 5400) return `${Math.round(value / 60)} min ago`;
  return value < 172800 ? `${Math.round(value / 3600)} h ago` : `${Math.round(value / 86400)} days ago`;
}

/** The part of a problem's id that tells it from others. */
export function shortId(id) {
  const last = id.split("/").filter(Boolean).pop() ?? id;
  return last.length > 28 ? `${last.slice(0, 27)}…` : last;
}

function sign(text) {
  return text.replace("-", MINUS);
}
