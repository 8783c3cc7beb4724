"""The engine: a clock, what happens by itself, what the server decides."""
