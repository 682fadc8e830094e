"""Training on plain torch: engine, batches, losses and the loop. It knows tensors, not recommenders."""
