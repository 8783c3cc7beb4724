"""Listeners that ship: plain classes with any of the methods that `timeline/audience.py` names."""
