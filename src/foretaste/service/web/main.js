// The page: one state (what the visitor rated, the filters), three views of it.

import { Catalogue, api, useKey } from "./api.js";
import { showCard } from "./card.js";
import { byId, h, number, show } from "./dom.js";
import { filters } from "./filters.js";
import { openItem, refreshItem } from "./item.js";
import { rated, recommendations, starters } from "./list.js";
import { drawMap } from "./map.js";
import { search } from "./search.js";
import { session } from "./session.js";
import { scale } from "./stars.js";

const LENGTH = 20;
const POPULAR = 6;
const VIEWS = ["for-you", "map", "model"];
let catalogue;
let card;
let popular = [];
let choices = () => ({ where: null, diversity: 0 });
let listed = [];
let asked = 0;
let redrawMap = null;

const open = (item) => openItem(item, catalogue);

async function start() {
  try {
    const columns = api.columns().then((found) => new Catalogue(found));
    const known = api.find("", POPULAR).then((found) => found.items);
    [card, catalogue, popular] = await Promise.all([api.card(), columns, known]);
  } catch (error) {
    fail(error, start);
    return;
  }
  clearTrouble();
  [scale.low, scale.high] = card.data.scale;
  scale.explicit = card.data.explicit;
  session.use(card.data.name);
  byId("served").textContent = `${card.model} on ${card.data.name}, ${number(card.data.items)} items`;
  search(byId("search"), catalogue, (item) => (scale.explicit ? open(item) : session.rate(item, 1)), fail);
  choices = filters(byId("filters"), catalogue, refreshList);
  showCard(byId("card"), card);
  session.onchange(refresh);
  addEventListener("hashchange", route);
  route();
  await refresh();
}

/** Everything that follows from the ratings, with the focus kept where it was. */
async function refresh() {
  const focus = document.activeElement?.dataset?.focus;
  rated(byId("rated"), catalogue, open);
  starters(byId("popular"), popular, catalogue, open);
  refreshItem(catalogue);
  restore(focus);
  await refreshList(focus);
}

async function refreshList(focus) {
  const mine = ++asked;
  const { where, diversity } = choices();
  byId("liststate").textContent = "Looking …";
  try {
    const found = await api.recommend({ history: session.history, k: LENGTH, where, diversity, explain: session.ratings.length > 0 });
    if (mine !== asked) return;
    clearTrouble();
    const known = session.ratings.length;
    // a model that scores everything alike has no order to show
    listed = new Set(found.items.map((item) => item.score)).size > 1 || known ? found.items : [];
    byId("listtitle").textContent = known ? "For you" : "To start with";
    byId("liststate").textContent = known ? `from ${number(known)} of your ${scale.explicit ? "ratings" : "choices"}` : "until you choose something you know";
    if (listed.length || found.items.length === 0) recommendations(byId("list"), listed, catalogue, open);
    else show(byId("list"), h("p", { class: "empty" }, "This model ranks by what you know, and has nothing to go by yet. One rating is enough to begin."));
    restore(typeof focus === "string" ? focus : null);
    redrawMap?.(listed);
  } catch (error) {
    if (mine !== asked) return;
    byId("liststate").textContent = "";
    fail(error, refreshList);
  }
}

function restore(focus) {
  if (focus) document.querySelector(`[data-focus="${CSS.escape(focus)}"]`)?.focus();
}

function route() {
  const asks = location.hash.slice(1);
  const view = VIEWS.includes(asks) ? asks : VIEWS[0];
  for (const name of VIEWS) byId(`view-${name}`).hidden = name !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (view === "map") openMap();
}

async function openMap() {
  if (redrawMap) return redrawMap(listed);
  byId("mapstate").textContent = "Drawing …";
  try {
    const { items } = await api.map();
    byId("mapstate").textContent = `${number(items.length)} items; near means alike to the model`;
    redrawMap = drawMap(byId("map"), items, openById);
    redrawMap(listed);
  } catch (error) {
    byId("mapstate").textContent = "";
    if (error.status === 404) show(byId("map"), h("p", { class: "empty" }, error.message));
    else fail(error, openMap);
  }
}

async function openById(id) {
  try {
    const found = await api.item(id);
    open(found);
  } catch (error) {
    fail(error, () => openById(id));
  }
}

/** Say what went wrong and offer to try again; what is on the page stays. */
function fail(error, again) {
  const bar = byId("trouble");
  const retry = h("button", { type: "button", onclick: () => again() }, "Try again");
  show(bar, h("p", {}, h("strong", {}, sentence(error.message)), " ", error.fix ?? ""), error.status === 401 ? keyForm(again) : retry);
  bar.hidden = false;
}

function keyForm(again) {
  const field = h("input", { type: "password", "aria-label": "API key", autocomplete: "off", required: true });
  const send = (event) => { event.preventDefault(); useKey(field.value.trim()); again(); };
  return h("form", { onsubmit: send }, field, h("button", {}, "Use key"));
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

function clearTrouble() {
  byId("trouble").hidden = true;
}

byId("item").addEventListener("click", (event) => {
  if (event.target === event.currentTarget) event.currentTarget.close(); // beside the dialog
});
start();
