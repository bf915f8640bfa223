"""Load generator and comparisons, runnable against any server."""

import sys

# `python -m benchmarks`, as the README has it, imports this under that name before `__main__`,
# which imports everything else by its one name: while it does, the program is called "-m".
if __name__ != "trialogue.benchmarks" and sys.argv[0] != "-m":
    # Two copies of one module are two of every class: fail here rather than in an isinstance().
    raise ImportError(f"import this as 'trialogue.benchmarks', not as {__name__!r}")
