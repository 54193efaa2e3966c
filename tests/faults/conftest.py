"""The long tests have the fixtures of the short ones."""

from test_faults import third, undisturbed  # noqa: F401
