"""What a list was worth: metrics, statistics, evaluation, cold starts."""
