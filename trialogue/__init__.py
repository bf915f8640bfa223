"""A server for durable, cancellable, resumable conversations with agents, on Trio."""

# The one place of the version: pyproject.toml reads this line, without importing.
__version__ = "0.1.0"
