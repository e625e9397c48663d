"""The compiled library for CPUs; other platforms use nothing in here."""
