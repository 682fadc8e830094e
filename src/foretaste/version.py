"""The version, in one place that the bottom layers may read too."""

__version__ = "0.1.0"
