"""The numerical work: numpy_kernels lists what a backend must have; naive has loops that anyone can believe."""
