"""The numerical work: plain has the formulas, numpy_kernels the fast kernels, cupy_kernels those of the GPU."""
