// All functions with vectors of 16 floats, for CPUs with AVX-512; a library of
// its own.

#define ICM_LANES 16
#include "convolution.cc"
#include "normalisation.cc"
