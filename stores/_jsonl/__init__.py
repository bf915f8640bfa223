"""The JSON Lines store: a commit log that all sessions share, a file for each, and an index."""
