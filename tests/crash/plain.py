"""A plain client manager that learns from rewards and draws from the global generator."""

from __future__ import annotations

import random  # noqa: TID251  what a user's class may do


class Plain:
    """The best reward so far first; unknown clients in random order before them."""

    def __init__(self) -> None:
        self.rewards: dict[int, float] = {}

    def register_client(self, client_id: int) -> None:
        """A device is there."""
        self.rewards.setdefault(client_id, float("inf"))

    def register_feedback(self, client_id: int, reward: float) -> None:
        """A report, or a loss."""
        self.rewards[client_id] = reward

    def select_clients(self, num_of_clients: int, feasible_clients: list[int]) -> list[int]:
        """Those to ask."""
        random.shuffle(feasible_clients)
        return sorted(feasible_clients, key=self.rewards.__getitem__, reverse=True)[:num_of_clients]
