// Finding items by typing: a text field with a list of suggestions (WAI-ARIA combobox).

import { api } from "./api.js";
import { h, settled, show } from "./dom.js";

/** Build the field into `home`; `choose` gets the item that was picked. */
export function search(home, catalogue, choose, fail) {
  let items = [];
  let active = -1;
  let asked = 0;
  const list = h("ul", { id: "found", role: "listbox", "aria-label": "Items found", hidden: true });
  const field = h("input", {
    id: "find", type: "search", role: "combobox", autocomplete: "off", spellcheck: "false",
    "aria-expanded": "false", "aria-controls": "found", "aria-autocomplete": "list",
    placeholder: "Type a title", oninput: settled(look, 120), onkeydown: steer,
    onblur: () => setTimeout(close, 150),
  });
  show(home, h("label", { for: "find" }, "Find something you know"), h("div", { class: "combo" }, field, list));

  async function look() {
    const text = field.value.trim();
    const mine = ++asked;
    if (!text) return close();
    try {
      const found = await api.find(text);
      if (mine === asked) open(found.items, text);
    } catch (error) {
      close();
      fail(error, look);
    }
  }

  function open(found, text) {
    items = found;
    active = found.length ? 0 : -1;
    show(list, found.length ? found.map(option) : [h("li", { class: "none", role: "option", "aria-disabled": "true" }, `No item is called “${text}”.`)]);
    list.hidden = false;
    field.setAttribute("aria-expanded", "true");
    mark();
  }

  const option = (item, at) => h("li", {
    id: `found-${at}`, role: "option",
    onmousedown: (event) => { event.preventDefault(); pick(at); },
  }, h("span", { class: "name" }, catalogue.name(item)), h("span", { class: "quiet" }, catalogue.about(item)));

  function mark() {
    [...list.children].forEach((row, at) => row.setAttribute("aria-selected", String(at === active)));
    if (active >= 0) {
      field.setAttribute("aria-activedescendant", `found-${active}`);
      list.children[active].scrollIntoView({ block: "nearest" });
    } else {
      field.removeAttribute("aria-activedescendant");
    }
  }

  function steer(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && items.length && !list.hidden) {
      active = (active + step + items.length) % items.length;
      mark();
    } else if (event.key === "Enter" && active >= 0 && !list.hidden) {
      pick(active);
    } else if (event.key === "Escape") {
      close();
    } else {
      return;
    }
    event.preventDefault();
  }

  function pick(at) {
    const item = items[at];
    field.value = "";
    close();
    choose(item);
  }

  function close() {
    asked += 1;
    list.hidden = true;
    items = [];
    active = -1;
    field.setAttribute("aria-expanded", "false");
    field.removeAttribute("aria-activedescendant");
  }
}
