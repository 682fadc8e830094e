"""From a Request to a list: filters, ranking, re-ranking, explaining, the Recommender."""
