// The public API, and what the catalogue calls its items.

/** What went wrong, in words that can be shown. */
export class Trouble extends Error {
  constructor(what, fix = "") {
    super(what);
    this.fix = fix;
  }
}

let key = sessionStorage.getItem("key");

/** Use an API key from now on, until the window is closed. */
export function useKey(text) {
  key = text;
  sessionStorage.setItem("key", text);
}

async function ask(path, body) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const request = body === undefined ? { headers } : {
    method: "POST",
    headers: { ...headers, "Content-Type": "application/json" },
    body: JSON.stringify(body),
  };
  let answer;
  try {
    answer = await fetch(path, request);
  } catch {
    throw new Trouble("The service does not answer.", "Your ratings are kept here. Start it, then try again.");
  }
  const found = await answer.json().catch(() => null);
  if (answer.ok && found !== null) return found;
  const error = new Trouble(found?.error?.what ?? `The service answered ${answer.status}.`, found?.error?.fix);
  error.status = answer.status;
  throw error;
}

const one = encodeURIComponent;
const query = (values) => new URLSearchParams(Object.entries(values).filter(([, v]) => v)).toString();

export const api = {
  card: () => ask("/api/card"),
  columns: () => ask("/api/columns"),
  map: () => ask("/api/map"),
  find: (q, limit = 8) => ask(`/api/items?${query({ q, limit })}`),
  item: (id) => ask(`/api/items/${one(id)}`),
  similar: (id, k) => ask(`/api/items/${one(id)}/similar?k=${k}`),
  recommend: (asked) => ask("/api/recommend", asked),
  explain: (history, item) => ask("/api/explain", { history, item }),
};

/** What the columns of an item mean to a reader: its name, its year, its labels. */
export class Catalogue {
  constructor(columns) {
    this.columns = columns;
    const named = (...names) => columns.find((c) => names.includes(c.name.toLowerCase()))?.name;
    this.title = named("title", "name", "label") ?? columns.find((c) => c.kind === "text")?.name;
    this.year = named("year", "release_year");
    const lists = columns.filter((c) => c.kind === "labels" && c.labels.length > 1);
    this.labels = lists.find((c) => /genre|categor|tag/i.test(c.name)) ?? lists[0];
  }

  name(item) {
    return String(item.fields[this.title] ?? item.id);
  }

  /** Labels of an item, as a list. */
  labelsOf(item) {
    return String(item.fields[this.labels?.name] ?? "").split("|").filter(Boolean);
  }

  /** What stands below the name of an item. */
  about(item) {
    const year = item.fields[this.year];
    const inName = year && this.name(item).includes(String(year));
    return [inName ? null : year, this.labelsOf(item).slice(0, 3).join(", ")].filter(Boolean).join(" · ");
  }
}
