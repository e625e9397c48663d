"""The compiled library for CPUs; other platforms do not use it."""
