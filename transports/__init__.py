"""How frames arrive: one module a transport, over a shared wire, outbox and flusher."""

if __name__ != "trialogue.transports":
    # Two copies of one module are two of every class: fail here rather than in an isinstance().
    raise ImportError(f"import this as 'trialogue.transports', not as {__name__!r}")
