"""WebSocket frames, and what serves and reads them."""
