// Elements from plain values. Text of a model only ever becomes a text node; there is no way to HTML from here.

const SVG = "http://www.w3.org/2000/svg";

/** An element: `properties` are attributes, and `on` its listeners; children are nodes, texts, or nothing. */
export function el(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

export function svg(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

export function replace(parent, ...children) {
  parent.replaceChildren(...nodes(children));
  return parent;
}

function fill(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    } else if (name === "href" && !String(value).startsWith("#")) {
      throw new Error("links lead to places on this page only");
    } else if (value === true) {
      node.setAttribute(name, "");
    } else if (value !== null && value !== undefined && value !== false) {
      node.setAttribute(name, String(value));
    }
  }
  node.append(...nodes(children));
  return node;
}

function nodes(children) {
  return children.flat(3).filter((child) => child !== null && child !== undefined && child !== false && child !== "")
    .map((child) => (child instanceof Node ? child : document.createTextNode(String(child))));
}
