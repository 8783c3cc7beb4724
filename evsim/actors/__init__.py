"""What changes the world while tasks run: outages, faults, batteries."""
