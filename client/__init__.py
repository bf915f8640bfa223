"""The SDK that every user interface is built on."""

if __name__ != "trialogue.client":
    # Two copies of one module are two of every class: fail here rather than in an isinstance().
    raise ImportError(f"import this as 'trialogue.client', not as {__name__!r}")
