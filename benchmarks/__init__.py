"""Races of this package against others: `make bench`. Run by hand, never timed in the tests."""
