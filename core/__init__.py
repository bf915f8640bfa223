"""What a conversation is: sessions, turns, the journal and the protocol. Knows no socket, no file, no model."""

if __name__ != "trialogue.core":
    # Two copies of one module are two of every class: fail here rather than in an isinstance().
    raise ImportError(f"import this as 'trialogue.core', not as {__name__!r}")
