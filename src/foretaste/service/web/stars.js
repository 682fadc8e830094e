// Rating one item: stars where there are ratings, a single mark where there are only clicks.

import { h, number, s } from "./dom.js";
import { session } from "./session.js";

const STARS = 5;
const SHAPE = "M8 1.3l2.06 4.27 4.64.63-3.4 3.24.86 4.66L8 11.8l-4.16 2.3.86-4.66L1.3 6.2l4.64-.63z";
let count = 0;

/** How ratings of the data set are given: set once, from the model's card. */
export const scale = { low: 1, high: 5, explicit: true };

const star = () => s("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, s("path", { d: SHAPE }));
const valueOf = (n) => Math.max(scale.low, (scale.high * n) / STARS);

/** A control that rates an item; name is what a screen reader calls it, place where it stands. */
export function rater(item, name, place) {
  return scale.explicit ? stars(item, name, place) : mark(item, name, place);
}

function stars(item, name, place) {
  const group = `stars-${count++}`;
  const now = session.valueOf(item.id);
  const choices = Array.from({ length: STARS }, (_, at) => {
    const value = valueOf(at + 1);
    const id = `${group}-${at}`;
    const radio = h("input", {
      type: "radio", name: group, id, value, checked: now !== undefined && Math.abs(now - value) < 0.01,
      "data-focus": `${place} ${item.id} ${value}`, onchange: () => session.rate(item, value),
    });
    return [radio, h("label", { for: id }, star(), h("span", { class: "unseen" }, `${number(value, value % 1 ? 1 : 0)} of ${scale.high}`))];
  });
  return h("fieldset", { class: "stars" }, h("legend", { class: "unseen" }, `Your rating of ${name}`),
    h("span", { class: "row" }, choices.flat()));
}

function mark(item, name, place) {
  const on = session.valueOf(item.id) !== undefined;
  return h("button", {
    class: "mark-button", type: "button", "aria-pressed": String(on), "aria-label": `I like ${name}`,
    "data-focus": `${place} ${item.id}`,
    onclick: () => (on ? session.remove(item.id) : session.rate(item, 1)),
  }, star(), on ? "Liked" : "Like");
}

/** A rating as text: "4", "3.5", or nothing where there are no ratings. */
export const ratingText = (value) => (scale.explicit ? number(value, value % 1 ? 1 : 0) : "");
