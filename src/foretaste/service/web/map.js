// The catalogue on a plane: similar items are near each other; what was rated and listed lights up.

import { h, show } from "./dom.js";
import { session } from "./session.js";

const COLOURS = 7;
const NEAR = 14; // pixels within which a point is meant
const NAMED = 8; // recommendations that carry their names

/** Build the map into `home`; returns a function that redraws it with other recommendations. */
export function drawMap(home, points, open, view = { x: 0, y: 0, zoom: 1 }) {
  const groups = ranked(points.map((p) => p.group)).slice(0, COLOURS);
  const canvas = h("canvas", { tabindex: 0, role: "img", "aria-label": "Map of the catalogue. Arrow keys move it, plus and minus zoom." });
  const tip = h("p", { class: "tip", hidden: true });
  const status = h("p", { class: "unseen", role: "status" });
  const zoomBy = (factor) => { view.zoom = Math.min(40, Math.max(0.8, view.zoom * factor)); draw(); };
  const frame = h("div", { class: "mapframe" }, canvas, tip, status, h("div", { class: "zoom" },
    h("button", { type: "button", "aria-label": "Zoom in", onclick: () => zoomBy(1.5) }, "+"),
    h("button", { type: "button", "aria-label": "Zoom out", onclick: () => zoomBy(1 / 1.5) }, "−"),
    h("button", { type: "button", onclick: () => { Object.assign(view, { x: 0, y: 0, zoom: 1 }); draw(); } }, "Whole")));
  const key = h("ul", { class: "key" },
    h("li", {}, h("i", { class: "dot mine" }), "you rated"), h("li", {}, h("i", { class: "dot listed" }), "recommended"),
    groups.map((name, at) => h("li", {}, h("i", { class: `dot c${at}` }), name)),
    groups.length ? h("li", {}, h("i", { class: "dot other" }), "other") : null);
  show(home, frame, key);
  const byPoint = new Map(points.map((p) => [p.id, p]));
  let listed = [];
  let hovered = null;

  const size = () => ({ width: canvas.clientWidth, height: canvas.clientHeight });
  const scaleOf = ({ width, height }) => (Math.min(width, height) / 2 - 24) * view.zoom;
  const stretch = ({ width, height }) => ({ x: Math.max(1, width / height) * 0.96, y: Math.max(1, height / width) * 0.96 });
  function at(point) {
    const box = size();
    const scale = scaleOf(box);
    const wide = stretch(box);
    return [box.width / 2 + (point.x * wide.x - view.x) * scale, box.height / 2 - (point.y * wide.y - view.y) * scale];
  }

  function draw() {
    const box = size();
    if (!box.width) return;
    const ratio = devicePixelRatio || 1;
    canvas.width = box.width * ratio;
    canvas.height = box.height * ratio;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const style = getComputedStyle(canvas);
    const colour = (name) => style.getPropertyValue(name).trim();
    const radius = Math.min(5, Math.max(1.7, 45 / Math.sqrt(points.length)) * Math.sqrt(view.zoom));
    pen.globalAlpha = 0.75;
    for (const point of points) {
      const [x, y] = at(point);
      if (x < -9 || y < -9 || x > box.width + 9 || y > box.height + 9) continue;
      const group = groups.indexOf(point.group);
      disc(pen, x, y, radius, colour(group < 0 ? "--other" : `--c${group}`));
    }
    pen.globalAlpha = 1;
    for (const { id } of listed) lit(pen, byPoint.get(id), colour("--accent"), colour("--paper"));
    for (const { id } of session.ratings) lit(pen, byPoint.get(id), colour("--mine"), colour("--paper"));
    const face = `${style.fontSize} ${style.fontFamily}`;
    const taken = [];
    for (const { id } of [...session.ratings, ...listed.slice(0, NAMED)]) name(pen, byPoint.get(id), face, colour, taken, box);
  }

  function name(pen, point, face, colour, taken, box) {
    if (!point) return;
    pen.font = face;
    const [x, y] = at(point);
    const text = point.label.length > 34 ? `${point.label.slice(0, 32)}…` : point.label;
    const wide = pen.measureText(text).width;
    const left = x + 9 + wide > box.width ? x - 9 - wide : x + 9;
    const mine = [left, y - 9, left + wide, y + 7];
    const clash = taken.some((other) => mine[0] < other[2] && mine[2] > other[0] && mine[1] < other[3] && mine[3] > other[1]);
    if (clash || left < 0 || y < 9 || y > box.height - 9) return;
    taken.push(mine);
    pen.lineWidth = 3;
    pen.lineJoin = "round";
    pen.strokeStyle = colour("--paper");
    pen.strokeText(text, left, y + 4);
    pen.fillStyle = colour("--ink");
    pen.fillText(text, left, y + 4);
  }

  function lit(pen, point, colour, rim) {
    if (!point) return;
    const [x, y] = at(point);
    disc(pen, x, y, 6.5, rim);
    disc(pen, x, y, 5, colour);
  }

  function nearest(event) {
    const box = canvas.getBoundingClientRect();
    const [px, py] = [event.clientX - box.left, event.clientY - box.top];
    let best = null;
    let least = NEAR * NEAR;
    for (const point of points) {
      const [x, y] = at(point);
      const far = (x - px) ** 2 + (y - py) ** 2;
      if (far < least) [best, least] = [point, far];
    }
    return best;
  }

  function point(event) {
    hovered = nearest(event);
    tip.hidden = hovered === null;
    canvas.classList.toggle("over", hovered !== null);
    if (!hovered) return;
    const [x, y] = at(hovered);
    tip.textContent = hovered.group ? `${hovered.label} · ${hovered.group}` : hovered.label;
    tip.style.left = `${Math.min(x, size().width - 160)}px`;
    tip.style.top = `${y + 12}px`;
  }

  moves(canvas, view, () => scaleOf(size()), draw, { point, zoomBy, pick: (event) => {
    const found = nearest(event);
    if (found) open(found.id);
  } });
  new ResizeObserver(draw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  return (items) => {
    listed = items;
    const names = (list) => list.map(({ id }) => byPoint.get(id)?.label).filter(Boolean).join(", ");
    status.textContent = `You rated: ${names(session.ratings) || "nothing yet"}. Recommended: ${names(listed)}.`;
    draw();
  };
}

/** Mouse, touch and keys: drag moves, wheel and two fingers zoom, a click picks. */
function moves(canvas, view, scale, draw, { point, zoomBy, pick }) {
  const fingers = new Map();
  let moved = 0;
  const spread = () => {
    const [a, b] = [...fingers.values()];
    return Math.hypot(a.x - b.x, a.y - b.y);
  };
  canvas.addEventListener("pointerdown", (event) => {
    moved = 0;
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const last = fingers.get(event.pointerId);
    if (!last) return point(event);
    const before = fingers.size === 2 ? spread() : 0;
    const [dx, dy] = [event.clientX - last.x, event.clientY - last.y];
    moved += Math.abs(dx) + Math.abs(dy);
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (fingers.size === 2) return zoomBy(spread() / (before || 1));
    view.x -= dx / scale();
    view.y += dy / scale();
    draw();
  });
  const lift = (event) => {
    if (fingers.delete(event.pointerId) && moved < 5 && event.type === "pointerup") pick(event);
  };
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoomBy(Math.exp(-event.deltaY / 500));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (step) {
      view.x += (step[0] * 0.15) / view.zoom;
      view.y += (step[1] * 0.15) / view.zoom;
      draw();
    } else if (event.key === "+" || event.key === "-") {
      zoomBy(event.key === "+" ? 1.3 : 1 / 1.3);
    } else {
      return;
    }
    event.preventDefault();
  });
}

function disc(pen, x, y, radius, colour) {
  pen.fillStyle = colour;
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.fill();
}

/** Values by how often they occur, the most frequent first. */
function ranked(values) {
  const counts = new Map();
  for (const value of values) if (value) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1]).map(([value]) => value);
}
