// The model's card: what it learned from, how it was judged, and how good it is.

import { h, number, s, show } from "./dom.js";

/** Fill in the card. */
export function showCard(home, card) {
  const { data, training, metrics } = card;
  const kind = data.explicit ? `ratings from ${data.scale[0]} to ${data.scale[1]}` : "clicks";
  show(home,
    h("p", { class: "lede" }, `${card.model}, trained on ${data.name}: ${number(data.interactions)} ${kind} by ${number(data.users)} users of ${number(data.items)} items.`),
    h("h3", {}, "How good it is"),
    metrics?.metrics ? judged(card) : h("p", { class: "empty" }, "The metrics of this model were not kept with the bundle. The commands foretaste evaluate and foretaste compare measure it on held-out data."),
    card.curve?.length > 1 && card.curve[0].validation !== undefined
      ? [h("h3", {}, "Learning curve"), curve(card.curve)] : null,
    h("h3", {}, "Settings"),
    facts({ ...card.fields, seed: training.seed, trained: training.seconds === undefined ? null : `${number(training.seconds, 1)} s` }),
    h("h3", {}, "Versions"),
    facts({ foretaste: card.version, bundle: card.model_version, "data fingerprint": data.fingerprint.slice(0, 12), loaded: new Date(card.loaded).toLocaleString() }));
}

function facts(values) {
  const text = (value) => (value === null || value === undefined ? "not set" : Array.isArray(value) ? value.join(", ") : String(value));
  return h("dl", { class: "facts" }, Object.entries(values).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, text(value)))));
}

/** Every metric with its interval, beside those of the baselines. */
function judged(card) {
  const { metrics, protocol, users, beside = {} } = card.metrics;
  const others = Object.keys(beside);
  const cell = (m) => (m ? h("td", {}, number(m.value, 4), h("span", { class: "quiet interval" }, `${number(m.low, 3)} to ${number(m.high, 3)}`)) : h("td", { class: "quiet" }, "–"));
  return [
    h("p", { class: "quiet" }, `${protocol}; ${number(users)} test users. Below each value, its 95 % bootstrap interval over users.`),
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Metrics" }, h("table", {},
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "metric"), h("th", { scope: "col" }, card.model), others.map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, Object.entries(metrics).map(([name, m]) => h("tr", {}, h("th", { scope: "row" }, name), cell(m), others.map((other) => cell(beside[other][name])))))))];
}

/** Error against epoch: training quiet, validation clear, the best epoch marked. */
function curve(points) {
  const [width, height, left, bottom] = [640, 240, 52, 34];
  const lines = { train: points.map((p) => Math.sqrt(p.train_loss)), validation: points.map((p) => p.validation) };
  const all = [...lines.train, ...lines.validation].filter(Number.isFinite);
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const x = (at) => left + (at * (width - left - 16)) / Math.max(points.length - 1, 1);
  const y = (value) => 12 + ((high - value) * (height - bottom - 12)) / (high - low || 1);
  const path = (values) => values.map((value, at) => `${at ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`).join("");
  const best = lines.validation.indexOf(Math.min(...lines.validation));
  const ticks = [low, (low + high) / 2, high];
  return h("figure", { class: "curve" },
    s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Validation error falls to ${lines.validation[best].toFixed(4)} at epoch ${points[best].epoch}.` },
      ticks.map((value) => [
        s("line", { class: "grid", x1: left, x2: width - 16, y1: y(value), y2: y(value) }),
        s("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, number(value, 3))]).flat(),
      [0, points.length - 1].map((at) => s("text", { x: x(at), y: height - 10, "text-anchor": "middle" }, String(points[at].epoch))),
      s("text", { x: (left + width) / 2, y: height - 10, "text-anchor": "middle" }, "epoch"),
      s("path", { class: "train", d: path(lines.train) }),
      s("path", { class: "valid", d: path(lines.validation) }),
      s("circle", { class: "best", cx: x(best), cy: y(lines.validation[best]), r: 4.5 })),
    h("figcaption", { class: "quiet" }, `RMSE; grey: training, dark: validation; kept: epoch ${points[best].epoch}, ${number(lines.validation[best], 4)}.`));
}
