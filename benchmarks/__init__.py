"""Load generator and comparisons, runnable against any server."""

if __name__ != "trialogue.benchmarks":
    # Two copies of one module are two of every class: fail here rather than in an isinstance().
    raise ImportError(f"import this as 'trialogue.benchmarks', not as {__name__!r}")
