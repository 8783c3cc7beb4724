"""What a task costs on the clock: work, prices, links."""
