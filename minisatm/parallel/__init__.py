"""The cores: processes for narrow networks (a team), threads for the blocks of large arrays, BLAS with one thread."""

from .blas import one_blas_thread
from .processes import ALONE, Team, in_processes
from .threads import cores, on_cores, shares

__all__ = ["ALONE", "Team", "cores", "in_processes", "on_cores", "one_blas_thread", "shares"]
