// The recommendations, and what this visitor rated.

import { h, number, show } from "./dom.js";
import { session } from "./session.js";
import { rater, ratingText, scale } from "./stars.js";

const REASONS = 2;
const ENOUGH = 3; // ratings

/** "because you rated Alien 5 and Aliens 4": the items that carried a recommendation. */
export function because(reasons, catalogue) {
  const carried = (reasons ?? []).filter((r) => r.weight > 0).slice(0, REASONS);
  if (!carried.length) return null;
  const named = carried.map((r) => {
    const name = catalogue.name({ id: r.item, fields: r.fields ?? {} });
    const value = session.valueOf(r.item);
    return [h("q", {}, name), scale.explicit && value !== undefined ? ` ${ratingText(value)}` : null];
  });
  const joined = named.flatMap((part, at) => (at ? [" and ", ...part] : part));
  return h("p", { class: "why" }, scale.explicit ? "because you rated " : "because you liked ", ...joined);
}

/** The list of recommendations. */
export function recommendations(home, items, catalogue, open) {
  if (!items.length) {
    show(home, h("p", { class: "empty" }, "No item passes these filters. Widen a range, or clear them."));
    return;
  }
  show(home, h("ol", { class: "list" }, items.map((item) => h("li", {},
    h("span", { class: "rank", "aria-hidden": "true" }, item.rank),
    h("div", { class: "what" },
      h("button", { type: "button", class: "name", "data-focus": `name ${item.id}`, onclick: () => open(item) }, catalogue.name(item)),
      h("p", { class: "quiet" }, catalogue.about(item)),
      because(item.reasons, catalogue)),
    expected(item),
    rater(item, catalogue.name(item), "list")))));
}

/** The expected rating with its spread, where the model has one. */
function expected(item) {
  if (item.rating === null || item.rating === undefined) return h("span", { class: "expected" });
  const spread = item.std ? h("span", { class: "quiet" }, ` ± ${number(item.std, 1)}`) : null;
  return h("span", { class: "expected", title: "Expected rating, and the standard deviation around it" },
    h("span", { class: "unseen" }, "expected rating "), number(item.rating, 1), spread);
}

/** What many people know, until enough is rated to go by. */
export function starters(home, popular, catalogue, open) {
  const left = popular.filter((item) => session.valueOf(item.id) === undefined);
  home.hidden = session.ratings.length >= ENOUGH || !left.length;
  if (home.hidden) return;
  show(home,
    h("h3", {}, "Do you know these?"),
    h("ul", { class: "list rated" }, left.map((item) => h("li", {},
      h("div", { class: "what" },
        h("button", { type: "button", class: "name", "data-focus": `popular ${item.id}`, onclick: () => open(item) }, catalogue.name(item)),
        h("p", { class: "quiet" }, catalogue.about(item))),
      rater(item, catalogue.name(item), "popular")))));
}

/** What was rated, newest first. */
export function rated(home, catalogue, open) {
  const ratings = session.ratings;
  if (!ratings.length) {
    show(home, h("p", { class: "empty" }, scale.explicit
      ? "Nothing rated yet. Give stars to three or four things you know, of those below or by search: the list beside follows at once."
      : "Nothing chosen yet. Choose three or four things you like, of those below or by search: the list beside follows at once."));
    return;
  }
  show(home,
    h("ul", { class: "list rated" }, ratings.map((item) => h("li", {},
      h("div", { class: "what" },
        h("button", { type: "button", class: "name", "data-focus": `rated ${item.id}`, onclick: () => open(item) }, catalogue.name(item)),
        h("p", { class: "quiet" }, catalogue.about(item))),
      scale.explicit ? rater(item, catalogue.name(item), "rated") : null,
      h("button", { type: "button", class: "plain", "aria-label": `Remove ${catalogue.name(item)}`, onclick: () => session.remove(item.id) }, "Remove")))),
    h("button", { type: "button", class: "plain", onclick: () => session.clear() }, "Start again"));
}
