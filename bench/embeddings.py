"""The article's three embeddings side by side on ML-1M: the table and the picture of the docs.

    python -m bench.embeddings docs/embeddings

prints the table and the neighbours, and draws PATH.svg: films by two coordinates (t-SNE of cosine
distances), coloured by genre.  Times are CPU seconds of `fit`, one thread.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from sklearn.manifold import TSNE

import foretaste as ft

FILMS = (1, 260, 593, 858, 2858)  # Toy Story, Star Wars, Silence of the Lambs, Godfather, ...
DRAWN = 400  # most popular films
GENRES = {"Children's": "#3b8f5a", "Horror": "#222222", "Sci-Fi": "#2b6cb0", "Romance": "#c2552d"}
NAMES = {
    "ease": "one-hot (EASE)",
    "item2vec": "word2vec (Item2Vec)",
    "two-tower": "neural (TwoTower)",
}


def main(stem: Path) -> None:
    torch.set_num_threads(1)
    ratings = ft.load_dataset("ml-1m")
    parts = ft.split(ratings, "users", test=0.1, seed=0, hidden=0.2)
    kinds = [ft.EASE(), ft.Item2Vec(), ft.TwoTower()]
    vectors = {}
    for model in kinds:
        started = time.process_time()
        fitted = ft.fit(model, parts.train, progress=False)
        seconds = time.process_time() - started
        found = ft.evaluate(fitted, parts, k=(10, 20)).metrics
        cells = [
            f"{found[m].value:.3f} ({found[m].low:.3f} to {found[m].high:.3f})"
            if m in found
            else "-"
            for m in ("ndcg@10", "recall@20")
        ]
        print("|", " | ".join([NAMES[model.name], *cells, f"{seconds:.0f} s"]), "|", flush=True)
        for film in FILMS:
            titles = fitted.similar(film, k=4)["title"].to_list()
            print("   ", film, "; ".join(titles), flush=True)
        one_hot = isinstance(fitted.model, ft.EASE)  # an item is its column of weights
        vectors[model.name] = fitted.model.weights_ij_.T if one_hot else fitted.model.item_vectors()
    draw(vectors, parts.train, stem)


def draw(vectors: dict[str, torch.Tensor], train: ft.Dataset, stem: Path) -> None:
    count_i = np.bincount(train.interactions.item_r, minlength=len(train.items))
    drawn = np.argsort(-count_i, kind="stable")[:DRAWN]
    table = train.item_frame[drawn]
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, (name, vector_id) in zip(figure.subplots(1, 3), vectors.items(), strict=True):
        unit_id = torch.nn.functional.normalize(vector_id[torch.from_numpy(drawn)].float(), dim=1)
        map_i2 = TSNE(metric="cosine", init="random", random_state=0).fit_transform(unit_id.numpy())
        axes.scatter(*map_i2.T, s=6, color="#d5dade", label="other")
        for genre, shade in GENRES.items():
            has = table["genres"].str.contains(genre, literal=True).to_numpy()
            axes.scatter(*map_i2[has].T, s=9, color=shade, label=genre)
        for film in FILMS:
            place = np.flatnonzero(table["item"].to_numpy() == film)
            title = table["title"][int(place[0])].split(" (")[0].split(",")[0].split(":")[0]
            axes.annotate(title, map_i2[place[0]], fontsize=7)
        axes.set_title(NAMES[name], fontsize=10)
        axes.set(xticks=[], yticks=[])
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "foretaste"}):
        figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
