"""Optional peers: the same things written for PyTorch by hand, for the tests to compare with."""
