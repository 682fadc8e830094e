"""Reading, checking, splitting and the catalog of public data sets."""
