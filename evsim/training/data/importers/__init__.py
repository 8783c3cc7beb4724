"""Importers: each module reads one format with a function ``read(path, **options)`` that gives a `Table`."""
