"""The pytest plugin: fixtures for the tests of agents.

pytest imports this module at every start, in every project that has trialogue installed. So
nothing heavy is imported at the top: each fixture imports what it needs when it is asked for.
"""
