"""Whom to ask: client selectors."""
