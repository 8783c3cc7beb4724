"""The learning side of a run: the model, tasks that wait for training, client states, evaluation."""
