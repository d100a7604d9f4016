"""wattgram: a live power meter for training servers: watts in, grams out."""

__version__ = "0.1.0.dev0"
