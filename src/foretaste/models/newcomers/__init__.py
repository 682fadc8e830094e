"""Newcomers: lists for users of few likes lean on popularity, by weights that are learned."""
