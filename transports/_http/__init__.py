"""HTTP: resources, server-sent events, and the whole protocol over two network connections."""
