"""The store in a Redis or Valkey engine, and the nodes that share it."""
