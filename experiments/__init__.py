"""The longer runs that chapters report: one module and one file of results a chapter.

A module has `RUNS`, the settings of each run as a dictionary, and `run(**settings, toy=False)`,
which trains one model and returns what was measured. With `toy=True` it does the same at a size
that takes seconds, for the tests.
"""
