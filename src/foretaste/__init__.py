"""foretaste: from a file of ratings or clicks to recommendations people can trust."""

__version__ = "0.1.0"
