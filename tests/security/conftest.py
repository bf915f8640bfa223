"""Logging that a test sets up must not outlive it, as in the tests of the command line."""

from ..cli.conftest import logging_as_it_was

__all__ = ["logging_as_it_was"]
