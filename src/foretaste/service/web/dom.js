// Elements from data. Text is always text: nothing here parses markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element: properties that start with "on" are listeners, the rest attributes. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element, in the same way. */
export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Put children in place of what an element holds. */
export function show(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child !== null));
}

/** Call a function when nothing has asked for it for so many milliseconds. */
export function settled(call, milliseconds) {
  let timer = 0;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => call(...args), milliseconds);
  };
}

export const byId = (id) => document.getElementById(id);

const numbers = new Map();

/** A number with so many digits after the point, in the reader's language. */
export function number(value, digits = 0) {
  if (!numbers.has(digits)) {
    const shape = { minimumFractionDigits: digits, maximumFractionDigits: digits };
    numbers.set(digits, new Intl.NumberFormat(undefined, shape));
  }
  return numbers.get(digits).format(value);
}
