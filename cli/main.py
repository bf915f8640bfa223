"""The entry of the command line. A placeholder: it knows ``--help`` and ``--version`` only."""

from collections.abc import Mapping, Sequence

from .. import __version__


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run one command and return the exit code.

    Args:
        argv: The arguments, without the program's name.
        environ: The environment, which nothing below this function reads for itself.
    """
    del environ
    if argv == ["--version"]:
        print(__version__)
        return 0
    print("usage: trialogue [--help] [--version]")
    return 0 if argv == ["--help"] else 2
