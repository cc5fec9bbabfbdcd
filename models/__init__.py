"""Networks: the pruned enhancer, its training, its checkpoints, its cost."""
