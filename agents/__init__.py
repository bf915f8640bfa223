"""Who answers: the built-in agents, one module each."""

if __name__ != "trialogue.agents":
    # Two copies of one module are two of every class: fail here rather than in an isinstance().
    raise ImportError(f"import this as 'trialogue.agents', not as {__name__!r}")
