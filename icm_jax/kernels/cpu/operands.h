// Operands and results of calls on images. Leading axes are those of groups,
// such as experts; an operand may have 1 where others have more, and is shared.

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

// All axes but the last `own` ones.
inline std::vector<int64_t> OuterAxes(const ffi::AnyBuffer& buffer,
                                     int64_t own) {
  const auto axes = buffer.dimensions();
  return {axes.begin(), axes.end() - own};
}

// What an operand holds for one group after another.
struct Operand {
  const float* data;
  std::vector<int64_t> begin;  // By group, in floats.

  // `groups` are the leading axes of the results; where they have more, the
  // operand may have 1.
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
  // Whether all groups have the same.
  bool shared() const { return begin.front() == begin.back(); }
};

inline int64_t Product(const std::vector<int64_t>& sizes) {
  int64_t product = 1;
  for (int64_t size : sizes) product *= size;
  return product;
}

// Asks for large pages where a result will be written. XLA returns its memory
// after every execution; to get it back by pages of 4 KiB takes a tenth of a
// step. The advice may reach a little beyond the result; it changes no content.
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
