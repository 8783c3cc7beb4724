"""Who gets which device: one policy per module."""
