"""Runs as tidy tables."""
