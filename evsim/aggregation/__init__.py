"""When the server asks, waits, closes and applies."""
