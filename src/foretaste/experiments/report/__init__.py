"""Reports: what was measured, as pictures and as one page to read."""
