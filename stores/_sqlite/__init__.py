"""The SQLite store: one writer for what waits, three readers, a database."""
