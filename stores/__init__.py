"""Where sessions live: one module a store, behind ``SessionStore``."""

if __name__ != "trialogue.stores":
    # Two copies of one module are two of every class: fail here rather than in an isinstance().
    raise ImportError(f"import this as 'trialogue.stores', not as {__name__!r}")
