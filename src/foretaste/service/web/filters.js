// What may be listed: ranges and labels of the item columns, as one SQL condition; and diversity.

import { h, settled, show } from "./dom.js";

const FEW = 24; // labels that fit as buttons
const RANGES = 2;

const quoted = (column) => `"${column.replaceAll('"', '""')}"`;
const text = (value) => `'${value.replaceAll("'", "''")}'`;

/** Build the controls into `home`; returns a function that gives {where, diversity}. */
export function filters(home, catalogue, changed) {
  const ranges = catalogue.columns
    .filter((c) => c.kind === "number" && c.min < c.max)
    .sort((a, b) => (b.name === catalogue.year) - (a.name === catalogue.year))
    .slice(0, RANGES)
    .map((column) => range(column));
  const labels = catalogue.labels ? choice(catalogue.labels) : null;
  const spread = h("input", { id: "diversity", type: "range", min: 0, max: 1, step: 0.05, value: 0, oninput: settled(changed, 200) });
  const variety = h("div", { class: "range" }, h("label", { for: "diversity" }, "Variety"), h("div", { class: "slide" },
    h("span", { class: "quiet", "aria-hidden": "true" }, "closest"), spread, h("span", { class: "quiet", "aria-hidden": "true" }, "most varied")));
  const clear = h("button", { type: "button", class: "plain", hidden: true, onclick: forget }, "Clear filters");
  show(home, h("div", { class: "filters" }, ...ranges.map((r) => r.element), variety, labels?.element ?? null, clear));

  function range(column) {
    const whole = Number.isInteger(column.min) && Number.isInteger(column.max);
    const [from, to] = ["min", "max"].map((end) => h("input", {
      type: "number", inputmode: "numeric", min: column.min, max: column.max, step: whole ? 1 : "any",
      placeholder: whole ? column[end] : column[end].toFixed(1),
      "aria-label": `${column.name}, ${end === "min" ? "from" : "to"}`, oninput: settled(changed, 300),
    }));
    const element = h("div", { class: "range", role: "group", "aria-label": column.name },
      h("span", { class: "label" }, column.name), h("div", { class: "ends" }, from, h("span", { "aria-hidden": "true" }, "to"), to));
    const limit = (end, sign) => (end.value !== "" && end.validity.valid ? `${quoted(column.name)} ${sign} ${Number(end.value)}` : null);
    return { element, inputs: [from, to], condition: () => [limit(from, ">="), limit(to, "<=")] };
  }

  function choice(column) {
    const any = (chosen) => (chosen.length ? `(${chosen.map((l) => `${quoted(column.name)} LIKE ${text(`%${l}%`)}`).join(" OR ")})` : null);
    if (column.labels.length > FEW) {
      const select = h("select", { id: "labels", onchange: changed }, h("option", { value: "" }, "any"), column.labels.map((l) => h("option", {}, l)));
      const element = h("div", { class: "range" }, h("label", { for: "labels" }, column.name), select);
      return { element, inputs: [select], condition: () => [any([select.value].filter(Boolean))] };
    }
    const boxes = column.labels.filter(Boolean).map((l) => h("input", { type: "checkbox", value: l, onchange: changed }));
    const element = h("fieldset", { class: "chips" }, h("legend", {}, column.name), boxes.map((box) => h("label", {}, box, h("span", {}, box.value))));
    return { element, inputs: boxes, condition: () => [any(boxes.filter((b) => b.checked).map((b) => b.value))] };
  }

  function forget() {
    for (const part of [...ranges, labels].filter(Boolean)) {
      for (const input of part.inputs) {
        if (input.type === "checkbox") input.checked = false;
        else input.value = "";
      }
    }
    changed();
  }

  return () => {
    const parts = [...ranges, labels].filter(Boolean).flatMap((part) => part.condition()).filter(Boolean);
    clear.hidden = parts.length === 0;
    return { where: parts.length ? parts.join(" AND ") : null, diversity: Number(spread.value) };
  };
}
