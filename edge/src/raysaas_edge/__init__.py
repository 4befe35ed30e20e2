"""The edge side of raysaas: predicts and trains next to the data, sends outcomes and weights, never raw rows."""

__version__ = "0.1.0"
