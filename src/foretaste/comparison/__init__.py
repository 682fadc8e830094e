"""Comparison: several models on the same test users, and what one may conclude."""
