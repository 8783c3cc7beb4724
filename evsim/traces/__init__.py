"""What devices do: when they are reachable and how fast they are."""
