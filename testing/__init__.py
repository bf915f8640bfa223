"""What users get for the tests of their agents: a test server, a scripted agent, fixtures, contract kits."""

if __name__ != "trialogue.testing":
    # Two copies of one module are two of every class: fail here rather than in an isinstance().
    raise ImportError(f"import this as 'trialogue.testing', not as {__name__!r}")
