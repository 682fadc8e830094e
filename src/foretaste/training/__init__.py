"""Training on plain torch: engine, batches, losses, loop. It knows tensors, not recommenders."""
