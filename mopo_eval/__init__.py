"""Measure every policy of a family offline, and decide which policy a threshold profile selects."""
