"""Checks for your own ops: gradients against finite differences, and (in `strategies`) cases to try them on.

`strategies` needs hypothesis and is imported by itself: `from minisatm.check import strategies`.
"""

from .differences import GradientError, gradients

__all__ = ["GradientError", "gradients"]
