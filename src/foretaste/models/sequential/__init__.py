"""Models of what comes next: those to which a history is a sequence, not a set."""
