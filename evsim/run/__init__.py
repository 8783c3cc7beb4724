"""One run: its parts, its clock, its folder."""
