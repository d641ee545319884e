"""Checks for your own ops: gradients against finite differences, and test cases for them (in `strategies`).

`strategies` needs hypothesis, so it is imported separately: `from minisatm.check import strategies`.
"""

from .differences import GradientError, gradients

__all__ = ["GradientError", "gradients"]
