"""CUDA source run on a CPU by g++, and a strict stand-in for CuPy: the GPU's kernels are tested where there is none."""
