// Attention of the members of a group to all of them, on a CPU, for XLA.
//
// Arrays are row-major and float32: queries and keys [R, B, A, D], values
// [R, B, A, E] and factors [R, B, A, R], of R members, B groups, A heads; and
// active [R, B], bool. XLA's products of so small matrices, and the transposes
// before and after them, take ten times longer than what is done here.
//
// The gradients need nothing but the arguments. A result does not depend on the
// number of threads: a group is one thread's.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "cpu.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

using namespace icm;

using Floats = ffi::Buffer<ffi::F32, 4>;
using Result = ffi::Result<Floats>;
using Active = ffi::Buffer<ffi::PRED, 2>;

constexpr int64_t kGroups = 8;  // Of a task, at most.
constexpr int64_t kWorthThreads = 1 << 17;  // Multiplications.

float Dot(const float* left, const float* right, int64_t size) {
  Vec sum = {};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    sum += Load(left + i) * Load(right + i);
  }
  if (i < size) {
    sum += LoadSome(left + i, size - i) * LoadSome(right + i, size - i);
  }
  return Sum(sum);
}

// to += factor * from.
void Add(float factor, const float* from, int64_t size, float* to) {
  const Vec same = Same(factor);
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    Store(to + i, Load(to + i) + same * Load(from + i));
  }
  for (; i < size; ++i) to[i] += factor * from[i];
}

// Where a member's features of a head stand, group by group.
template <typename Buffer>
struct Heads {
  Buffer& buffer;

  int64_t size() const { return buffer.dimensions()[3]; }
  auto* of(int64_t member, int64_t group, int64_t head) const {
    const auto axes = buffer.dimensions();
    return buffer.typed_data() +
           ((member * axes[1] + group) * axes[2] + head) * axes[3];
  }
};

template <typename Buffer>
Heads(Buffer&) -> Heads<Buffer>;

// Weights of a member's attention to all, softmax(scale * logits), in `weights`
// with room for whole vectors.
void Attend(const Heads<Floats>& query, const Heads<Floats>& key, int64_t r,
            int64_t b, int64_t a, int64_t members, float scale,
            std::vector<float>& weights) {
  const float* own = query.of(r, b, a);
  float most = -INFINITY;
  for (int64_t s = 0; s < members; ++s) {
    weights[s] = scale * Dot(own, key.of(s, b, a), query.size());
    most = std::max(most, weights[s]);
  }
  float sum = 0.0f;
  for (int64_t s = 0; s < members; s += kLanes) {
    float* at = weights.data() + s;
    Store(at, ExpMinusOne(Load(at) - most) + 1.0f);
    const int64_t end = std::min(kLanes, members - s);
    for (int64_t i = 0; i < end; ++i) sum += at[i];
  }
  for (int64_t s = 0; s < members; ++s) weights[s] /= sum;
}

// Calls task(b) for every group.
template <typename Task>
void ForGroups(ffi::ThreadPool& pool, const Floats& key, const Task& task) {
  const int64_t members = key.dimensions()[0], groups = key.dimensions()[1];
  const auto some = [&](int64_t index) {
    const int64_t begin = index * kGroups;
    const int64_t end = std::min(begin + kGroups, groups);
    for (int64_t b = begin; b < end; ++b) task(b);
  };
  const int64_t tasks = (groups + kGroups - 1) / kGroups;
  if (static_cast<int64_t>(key.element_count()) * members >= kWorthThreads) {
    ParallelFor(pool, tasks, some);
  } else {
    for (int64_t index = 0; index < tasks; ++index) some(index);
  }
}

std::vector<float> Room(int64_t members) {
  return std::vector<float>((members + kLanes - 1) / kLanes * kLanes, 0.0f);
}

float Scale(const Floats& query) {
  return 1.0f / std::sqrt(static_cast<float>(query.dimensions()[3]));
}

// Query, key, value, factor, active -> what is heard, [R, B, A, E]: sums of
// values by weight times factor.
ffi::Error Attention(ffi::ThreadPool pool, Floats query, Floats key,
                     Floats value, Floats factor, Active active,
                     Result heard) {
  const auto axes = query.dimensions();
  const int64_t members = axes[0], groups = axes[1], heads = axes[2];
  const Heads queries{query}, keys{key}, values{value}, factors{factor};
  const Heads results{*heard};
  ForGroups(pool, key, [&](int64_t b) {
    std::vector<float> weights = Room(members);
    for (int64_t r = 0; r < members; ++r) {
      float* all = results.of(r, b, 0);
      std::fill_n(all, heads * results.size(), 0.0f);
      if (!active.typed_data()[r * groups + b]) continue;
      for (int64_t a = 0; a < heads; ++a) {
        Attend(queries, keys, r, b, a, members, Scale(query), weights);
        const float* factor_of = factors.of(r, b, a);
        for (int64_t s = 0; s < members; ++s) {
          Add(weights[s] * factor_of[s], values.of(s, b, a), values.size(),
              results.of(r, b, a));
        }
      }
    }
  });
  return ffi::Error::Success();
}

// The gradient in what is heard, and the same -> those in query, key and value.
ffi::Error AttentionGradient(ffi::ThreadPool pool, Floats gradient,
                             Floats query, Floats key, Floats value,
                             Floats factor, Active active, Result query_result,
                             Result key_result, Result value_result) {
  const auto axes = query.dimensions();
  const int64_t members = axes[0], groups = axes[1], heads = axes[2];
  const Heads gradients{gradient};
  const Heads queries{query}, keys{key}, values{value}, factors{factor};
  const Heads query_to{*query_result}, key_to{*key_result};
  const Heads value_to{*value_result};
  const int64_t features = queries.size();
  ForGroups(pool, key, [&](int64_t b) {
    const float scale = Scale(query);
    std::vector<float> weights = Room(members), slopes = Room(members);
    for (int64_t r = 0; r < members; ++r) {
      std::fill_n(query_to.of(r, b, 0), heads * features, 0.0f);
      std::fill_n(key_to.of(r, b, 0), heads * features, 0.0f);
      std::fill_n(value_to.of(r, b, 0), heads * values.size(), 0.0f);
    }
    for (int64_t r = 0; r < members; ++r) {
      if (!active.typed_data()[r * groups + b]) continue;
      for (int64_t a = 0; a < heads; ++a) {
        Attend(queries, keys, r, b, a, members, scale, weights);
        const float* factor_of = factors.of(r, b, a);
        const float* from = gradients.of(r, b, a);
        float mean = 0.0f;
        for (int64_t s = 0; s < members; ++s) {
          const float* told = values.of(s, b, a);
          slopes[s] = factor_of[s] * Dot(from, told, values.size());
          mean += weights[s] * slopes[s];
          Add(weights[s] * factor_of[s], from, values.size(),
              value_to.of(s, b, a));
        }
        for (int64_t s = 0; s < members; ++s) {
          const float slope = scale * weights[s] * (slopes[s] - mean);
          Add(slope, keys.of(s, b, a), features, query_to.of(r, b, a));
          Add(slope, queries.of(r, b, a), features, key_to.of(s, b, a));
        }
      }
    }
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(IcmAttention, Attention,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Active>()
                                  .Ret<Floats>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(IcmAttentionGradient, AttentionGradient,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Active>()
                                  .Ret<Floats>()
                                  .Ret<Floats>()
                                  .Ret<Floats>());
