// Vectors of floats and threads, which all compiled functions use.

#ifndef ICM_JAX_KERNELS_CPU_CPU_H_
#define ICM_JAX_KERNELS_CPU_CPU_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>

#include "xla/ffi/api/ffi.h"

namespace icm {

namespace ffi = xla::ffi;

// ---------------------------------------------------------------------------
// Vectors of 8 or 16 floats; a compiler splits them where a machine has shorter
// ones. `wide.cc` asks for 16.

#ifndef ICM_LANES
#define ICM_LANES 8
#endif

constexpr int64_t kLanes = ICM_LANES;
typedef float Vec __attribute__((vector_size(4 * ICM_LANES)));
typedef int32_t IntVec __attribute__((vector_size(4 * ICM_LANES)));

inline Vec Load(const float* from) {
  Vec value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

inline void Store(float* to, Vec value) {
  std::memcpy(to, &value, sizeof(value));
}

// Load and store the first `count` elements of a vector; the others are 0.
inline Vec LoadSome(const float* from, int64_t count) {
  if (count >= kLanes) return Load(from);
  Vec value = {};
  std::memcpy(&value, from, count * sizeof(float));
  return value;
}

inline void StoreSome(float* to, Vec value, int64_t count) {
  if (count >= kLanes) {
    Store(to, value);
  } else {
    std::memcpy(to, &value, count * sizeof(float));
  }
}

inline Vec Same(float v) { return v - Vec{}; }

inline float Sum(Vec v) {
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) v[i] += v[i + half];
  }
  return v[0];
}

// exp(x) - 1 for x <= 0, to about 2e-7: exp(x) = 2^n 2^f with a whole n, f in
// [-0.5, 0.5], and 2^f by Chebyshev's polynomial of degree 5 that is 1 at 0.
inline Vec ExpMinusOne(Vec x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds.
  const Vec t = (x > -87.0f ? x : Same(-87.0f)) * 1.44269504f;
  const Vec shifted = t + kRound;
  const Vec f = t - (shifted - kRound);
  Vec p = Same(0.00133908674f);
  p = p * f + 0.00966637369f;
  p = p * f + 0.055503571f;
  p = p * f + 0.240223489f;
  p = p * f + 0.693147188f;
  p = p * f + 1.0f;
  IntVec bits, n;
  std::memcpy(&bits, &p, sizeof(bits));
  std::memcpy(&n, &shifted, sizeof(n));
  bits += n << 23;
  std::memcpy(&p, &bits, sizeof(p));
  return p - 1.0f;
}

// ELU; NaN stays NaN.
inline Vec Elu(Vec x) { return x <= 0.0f ? ExpMinusOne(x) : x; }

// The derivative of ELU where its value is y.
inline Vec EluSlope(Vec y) { return y > 0.0f ? Same(1.0f) : y + 1.0f; }

// ---------------------------------------------------------------------------
// Threads.

// Calls task(0) ... task(count - 1) on several threads. The caller's thread is
// one of the workers, so that it never waits for a worker that has not begun.
template <typename Task>
void ParallelFor(ffi::ThreadPool& pool, int64_t count, const Task& task) {
  struct Progress {
    std::atomic<int64_t> next{0};
    std::atomic<int64_t> done{0};
    std::mutex mutex;
    std::condition_variable finished;
  };
  auto progress = std::make_shared<Progress>();
  auto work = [progress, count, &task] {
    for (;;) {
      const int64_t index = progress->next.fetch_add(1);
      if (index >= count) return;  // `task` may be gone and is not touched.
      task(index);
      if (progress->done.fetch_add(1) + 1 == count) {
        std::lock_guard<std::mutex> lock(progress->mutex);
        progress->finished.notify_all();
      }
    }
  };
  const int64_t helpers = std::min(pool.num_threads(), count) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule(decltype(work)(work));
  work();
  std::unique_lock<std::mutex> lock(progress->mutex);
  progress->finished.wait(lock, [&] { return progress->done == count; });
}

}  // namespace icm

#endif  // ICM_JAX_KERNELS_CPU_CPU_H_
