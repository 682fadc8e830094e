"""Recommendations served over HTTP: a store of events, a live bundle, routes, and a page."""
