"""Who may come in: API keys and bearer tokens, as authenticators of a server."""

if __name__ != "trialogue.identity":
    # Two copies of one module are two of every class: fail here rather than in an isinstance().
    raise ImportError(f"import this as 'trialogue.identity', not as {__name__!r}")
