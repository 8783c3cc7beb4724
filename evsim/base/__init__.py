"""What everything stands on: errors, units, random streams, the registry, the words of the timeline."""
