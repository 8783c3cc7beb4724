"""What is made of a batch of inputs when it is used: scaling, and augmentation in training."""
