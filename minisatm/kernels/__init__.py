"""The numerical work: numpy_kernels (fast) and naive (loops that anyone can believe, used as oracles)."""
