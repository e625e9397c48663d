// Operands and results of functions of images. Leading axes are group axes,
// such as that of experts; an operand may have size 1 there, and is then
// shared.

#ifndef ICM_JAX_KERNELS_CPU_OPERANDS_H_
#define ICM_JAX_KERNELS_CPU_OPERANDS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "xla/ffi/api/ffi.h"

namespace icm {

namespace ffi = xla::ffi;

inline int64_t Axis(const ffi::AnyBuffer& buffer, int64_t from_last) {
  return buffer.dimensions()[buffer.dimensions().size() - from_last];
}

// Returns all axes except the last `own` ones.
inline std::vector<int64_t> OuterAxes(const ffi::AnyBuffer& buffer,
                                     int64_t own) {
  const auto axes = buffer.dimensions();
  return {axes.begin(), axes.end() - own};
}

// The place of every group's part in an operand.
struct Operand {
  const float* data;
  std::vector<int64_t> begin;  // Offset of every group, in floats.

  // `groups` are the leading axes of the results; the operand has the same
  // sizes or 1.
  Operand(const ffi::AnyBuffer& buffer, int64_t own,
          const std::vector<int64_t>& groups)
      : data(buffer.typed_data<float>()) {
    const std::vector<int64_t> outer = OuterAxes(buffer, own);
    int64_t stride = 1, repeat = 1, count = 1;
    for (int64_t a = 1; a <= own; ++a) stride *= Axis(buffer, a);
    for (int64_t size : groups) count *= size;
    begin.assign(count, 0);
    for (size_t a = outer.size(); a-- > 0;) {
      for (int64_t g = 0; g < count && outer[a] > 1; ++g) {
        begin[g] += g / repeat % groups[a] * stride;
      }
      stride *= outer[a];
      repeat *= groups[a];
    }
  }

  const float* of(int64_t group) const { return data + begin[group]; }
  // Whether all groups share the operand.
  bool shared() const { return begin.front() == begin.back(); }
};

inline int64_t Product(const std::vector<int64_t>& sizes) {
  int64_t product = 1;
  for (int64_t size : sizes) product *= size;
  return product;
}

// Asks for large pages for the memory of a result. XLA frees its memory after
// every execution, and getting it back in pages of 4 KiB takes a tenth of an
// update. The advice may reach a little beyond the result; it changes no
// content.
inline void WantLargePages(float* to, int64_t size) {
#if defined(__linux__)
  constexpr uintptr_t kPage = 2 << 20;
  const uintptr_t first = reinterpret_cast<uintptr_t>(to);
  const uintptr_t last = first + size * sizeof(float);
  if (last - first < kPage / 4) return;
  const uintptr_t begin = first & ~(kPage - 1);
  const uintptr_t end = (last + kPage - 1) & ~(kPage - 1);
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace icm

#endif  // ICM_JAX_KERNELS_CPU_OPERANDS_H_
