// What this visitor rated: kept in the browser, sent as a history with each request.

let place = "foretaste.ratings";

function kept() {
  try {
    const found = JSON.parse(localStorage.getItem(place));
    return Array.isArray(found) ? found.filter((one) => typeof one?.id === "string" && one.fields) : [];
  } catch {
    return [];
  }
}

let ratings = [];
const listeners = new Set();

export const session = {
  /** Ratings are kept for each data set: ids of one mean nothing in another. */
  use(data) {
    place = `foretaste.ratings.${data}`;
    ratings = kept();
  },

  /** Rated items, the newest first: {id, fields, value, time}. */
  get ratings() {
    return ratings;
  },

  /** The ratings as a history for the API, oldest first. */
  get history() {
    return [...ratings].reverse().map(({ id, value, time }) => ({ item: id, value, time }));
  },

  valueOf: (id) => ratings.find((one) => one.id === id)?.value,

  rate(item, value) {
    const rest = ratings.filter((one) => one.id !== item.id);
    const at = ratings.findIndex((one) => one.id === item.id);
    const entry = { id: item.id, fields: item.fields, value, time: Date.now() };
    keep(at < 0 ? [entry, ...rest] : rest.toSpliced(at, 0, entry));
  },

  remove: (id) => keep(ratings.filter((one) => one.id !== id)),
  clear: () => keep([]),

  onchange: (call) => listeners.add(call),
};

function keep(changed) {
  ratings = changed;
  try {
    localStorage.setItem(place, JSON.stringify(ratings));
  } catch {
    // a private window without storage: the ratings last as long as the page
  }
  listeners.forEach((call) => call());
}

addEventListener("storage", (event) => {
  if (event.key !== place) return;
  ratings = kept();
  listeners.forEach((call) => call());
});
