"""Real PyTorch training of the reports the server used."""
