"""The command line: one file a command."""

if __name__ != "trialogue.cli":
    # Two copies of one module are two of every class: fail here rather than in an isinstance().
    raise ImportError(f"import this as 'trialogue.cli', not as {__name__!r}")
