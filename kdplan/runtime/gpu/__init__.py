"""What a GPU needs in order not to wait: arithmetic, batches ahead of their step, steps as graphs of kernels."""
