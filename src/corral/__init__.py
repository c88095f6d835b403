"""corral: a streaming LLM server that stops when you stop."""

__version__ = "0.1.0"
