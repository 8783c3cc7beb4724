"""How tasks are really trained: serial, batched, in workers, or whichever is fastest here."""
