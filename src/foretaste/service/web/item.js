// One item, closely: what is known of it, why it is listed or not, and what is like it.

import { api } from "./api.js";
import { byId, h, number, show } from "./dom.js";
import { session } from "./session.js";
import { rater } from "./stars.js";

let current = null;

/** Open the dialog for an item. */
export function openItem(item, catalogue) {
  current = item;
  const dialog = byId("item");
  const name = catalogue.name(item);
  const why = h("div", { "aria-live": "polite" }, h("p", { class: "quiet" }, "Asking the model …"));
  const near = h("div", {}, h("p", { class: "quiet" }, "Looking …"));
  const rating = h("div", {}, rater(item, name, "item"));
  show(dialog,
    h("div", { class: "listhead" },
      h("h2", { id: "itemtitle" }, name),
      h("button", { type: "button", class: "plain", onclick: () => dialog.close() }, "Close")),
    rating,
    h("dl", { class: "facts" }, facts(item, catalogue)),
    h("h3", {}, "Why, or why not"), why,
    h("h3", {}, "Similar"), near);
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  explain(item, catalogue, why);
  similar(item, catalogue, near);
}

/** Show the item again after a rating, which changes the reasons. */
export function refreshItem(catalogue) {
  if (byId("item").open && current) openItem(current, catalogue);
}

function facts(item, catalogue) {
  return Object.entries(item.fields)
    .filter(([column, value]) => column !== catalogue.title && value !== null && value !== "")
    .map(([column, value]) => h("div", {}, h("dt", {}, column), h("dd", {}, String(value).split("|").join(", "))));
}

async function explain(item, catalogue, home) {
  if (!session.ratings.length) {
    show(home, h("p", {}, "You have not rated anything yet, so there are no reasons to show."));
    return;
  }
  try {
    const found = await api.explain(session.history, item.id);
    if (current !== item) return;
    const carried = found.reasons.filter((r) => r.item !== item.id && Math.abs(r.weight) > 1e-9).slice(0, 6);
    const largest = Math.max(...carried.map((r) => Math.abs(r.weight)), 1e-9);
    show(home,
      h("p", {}, found.why_not ?? ""),
      carried.length ? h("ul", { class: "bars" }, carried.map((r) => bar(r, largest, catalogue))) : null);
  } catch (error) {
    if (current === item) show(home, h("p", { class: "quiet" }, error.message));
  }
}

function bar(reason, largest, catalogue) {
  const name = catalogue.name({ id: reason.item, fields: reason.fields ?? {} });
  const part = h("span", { class: reason.weight < 0 ? "bar against" : "bar" });
  part.style.inlineSize = `${(100 * Math.abs(reason.weight)) / largest}%`;
  const sign = reason.weight < 0 ? "−" : "+";
  return h("li", {}, h("span", { class: "name" }, name), h("span", { class: "track", "aria-hidden": "true" }, part),
    h("span", { class: "figure" }, `${sign}${number(Math.abs(reason.weight), 3)}`));
}

async function similar(item, catalogue, home) {
  try {
    const found = await api.similar(item.id, 6);
    if (current !== item) return;
    show(home, h("ol", { class: "list small" }, found.items.map((other) => h("li", {},
      h("div", { class: "what" },
        h("button", { type: "button", class: "name", onclick: () => openItem(other, catalogue) }, catalogue.name(other)),
        h("p", { class: "quiet" }, catalogue.about(other))),
      h("span", { class: "figure", title: "Cosine of the item vectors" }, number(other.score, 2))))));
  } catch (error) {
    if (current === item) show(home, h("p", { class: "quiet" }, error.message));
  }
}
