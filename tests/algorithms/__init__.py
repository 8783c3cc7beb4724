"""Tests of the algorithms against transcriptions of their papers."""
