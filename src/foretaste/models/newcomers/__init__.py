"""Newcomers: lists for users of few likes or none lean on popularity, by weights that are learned."""
