"""Recommendations over HTTP: a store of events, a bundle, routes, and a page."""
