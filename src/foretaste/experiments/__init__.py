"""Offline studies: trials, comparisons, recipes, reports."""
