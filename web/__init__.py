"""The browser chat: static files, no build step. Imported only to find the files."""

if __name__ != "trialogue.web":
    # Two copies of one module are two of every class: fail here rather than in an isinstance().
    raise ImportError(f"import this as 'trialogue.web', not as {__name__!r}")
