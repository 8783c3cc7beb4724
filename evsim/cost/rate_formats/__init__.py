"""Formats of measured rates: a module each, with `sniff(path)` and `read(path)`.

`read` yields of each series its name, its knots in ms (the first 0), the rate from each knot on in kbit/s, and its
length in ms.
"""
