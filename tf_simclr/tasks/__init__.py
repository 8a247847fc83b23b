"""Training tasks: objects with `train_step(batch)` and `eval_step(batch)`."""
