"""The four steps of a federated algorithm, each a slot that can be replaced alone."""
