"""Kernels in Triton, one op a file; imported when their op is first called on a device that has them."""
