"""The slot of metrics: numbers that say how good a model is."""
