"""Contract tests and tiny fixtures for authors of plug-ins."""
