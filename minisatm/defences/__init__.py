"""What SATM is compared with: other ways to train."""

from .training import train_cascade, train_clean, train_distilled, train_ensemble, train_standard, train_with_penalty

__all__ = ["train_cascade", "train_clean", "train_distilled", "train_ensemble", "train_standard", "train_with_penalty"]
