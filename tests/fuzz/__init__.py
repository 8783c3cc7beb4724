"""Inputs that nobody meant: seeded mutations of good files of every kind."""
