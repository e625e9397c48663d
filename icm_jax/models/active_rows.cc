// Products of groups of rows, of which only the active ones count, by a matrix
// of each group's own, on a CPU, for XLA.
//
// Arrays are row-major: float32 rows [R, B, D] and [R, B, E], matrices
// [R, D, E], and active [R, B], bool. There are three calls, a product and its
// gradients. Rows and matrices are read where they stand: XLA's products of
// some rows first copy these, and the matrix of a group that is picked out too.
//
// A result does not depend on the number of threads, and a row's result not on
// other rows: each sum is one thread's, in an order that shapes alone decide.

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "cpu.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

using namespace icm;

using Floats = ffi::Buffer<ffi::F32, 3>;
using Result = ffi::Result<Floats>;
using Active = ffi::Buffer<ffi::PRED, 2>;

// ---------------------------------------------------------------------------
// Blocks of a result that fit into registers, and how axes are cut into them.

constexpr int64_t kRows = 6;         // Of a block, at most.
constexpr int64_t kColumns = 64;     // Of a task, at least, if there are more.
constexpr int64_t kWorthThreads = 1 << 19;  // Multiplications.

// Calls block(first, size) for pieces of [begin, end), none of more than kMost
// and all nearly alike, where size is a std::integral_constant.
template <int kMost, typename Block>
void Cut(int64_t begin, int64_t end, const Block& block) {
  int64_t pieces = (end - begin + kMost - 1) / kMost;
  for (; pieces > 0; --pieces) {
    const int64_t size = (end - begin + pieces - 1) / pieces;
    switch (size) {
      case 1: block(begin, std::integral_constant<int, 1>()); break;
      case 2: block(begin, std::integral_constant<int, 2>()); break;
      case 3: block(begin, std::integral_constant<int, 3>()); break;
      case 4:
        if constexpr (kMost >= 4)
          block(begin, std::integral_constant<int, 4>());
        break;
      case 5:
        if constexpr (kMost >= 5)
          block(begin, std::integral_constant<int, 5>());
        break;
      case 6:
        if constexpr (kMost >= 6)
          block(begin, std::integral_constant<int, 6>());
        break;
    }
    begin += size;
  }
}

// to(i)[0 : width] = sum over k of left(i, k) * right(k)[0 : width], for kLeft
// values of i and a width of kVecs vectors, the last of which has `lanes`.
template <int kLeft, int kVecs, bool kWhole, typename Left, typename Right,
          typename To>
inline void Block(int64_t depth, int64_t lanes, const Left& left,
                  const Right& right, const To& to) {
  Vec sum[kLeft][kVecs] = {};
  for (int64_t k = 0; k < depth; ++k) {
    const float* from = right(k);
    Vec value[kVecs];
    for (int v = 0; v < kVecs; ++v) {
      value[v] = kWhole ? Load(from + v * kLanes) : LoadSome(from, lanes);
    }
    for (int i = 0; i < kLeft; ++i) {
      const Vec factor = Same(left(i, k));
      for (int v = 0; v < kVecs; ++v) sum[i][v] += factor * value[v];
    }
  }
  for (int i = 0; i < kLeft; ++i) {
    for (int v = 0; v < kVecs; ++v) {
      if (kWhole) {
        Store(to(i) + v * kLanes, sum[i][v]);
      } else {
        StoreSome(to(i), sum[i][v], lanes);
      }
    }
  }
}

// Calls strip(vecs, whole, column) for the columns of [begin, end), in strips
// of one or two vectors. Where no whole vector is left, some columns are
// computed again, or, of less than a vector in all, only a part of it is.
template <typename Strip>
void ForStrips(int64_t begin, int64_t end, const Strip& strip) {
  constexpr std::integral_constant<int, 1> one;
  constexpr std::integral_constant<int, 2> two;
  constexpr std::true_type whole;
  int64_t column = begin;
  for (; end - column >= 2 * kLanes; column += 2 * kLanes) {
    strip(two, whole, column);
  }
  const int64_t width = end - begin, rest = end - column;
  if (rest > kLanes && width >= 2 * kLanes) {
    strip(two, whole, end - 2 * kLanes);
  } else if (rest > kLanes) {
    strip(one, whole, column);
    strip(one, whole, end - kLanes);
  } else if (rest > 0 && width >= kLanes) {
    strip(one, whole, end - kLanes);
  } else if (rest > 0) {
    strip(one, std::false_type(), column);
  }
}

// to(i)[j] = sum over k of left(i)[k] * right(j)[k]. Meanwhile memory is
// fetched from `ahead` on, `ahead_step` floats for every vector.
template <int kLeft, int kRight, typename Left, typename Right, typename To>
inline void DotBlock(int64_t depth, const Left& left, const Right& right,
                     const To& to, const float* ahead, int64_t ahead_step) {
  Vec sum[kLeft][kRight] = {};
  const auto add = [&](const auto& load) {
    Vec value[kRight];
    for (int j = 0; j < kRight; ++j) value[j] = load(right(j));
    for (int i = 0; i < kLeft; ++i) {
      const Vec other = load(left(i));
      for (int j = 0; j < kRight; ++j) sum[i][j] += other * value[j];
    }
  };
  int64_t k = 0;
  for (; k + kLanes <= depth; k += kLanes) {
    add([&](const float* from) { return Load(from + k); });
    __builtin_prefetch(ahead);
    ahead += ahead_step;
  }
  if (k < depth && depth >= kLanes) {
    // The last vector, without what has been added.
    const IntVec lane = {0, 1, 2, 3, 4, 5, 6, 7};
    const IntVec is_new = lane >= static_cast<int32_t>(kLanes - (depth - k));
    add([&](const float* from) {
      return is_new ? Load(from + depth - kLanes) : Vec{};
    });
  } else if (k < depth) {
    add([&](const float* from) { return LoadSome(from, depth); });
  }
  for (int i = 0; i < kLeft; ++i) {
    for (int j = 0; j < kRight; ++j) to(i)[j] = Sum(sum[i][j]);
  }
}

// ---------------------------------------------------------------------------
// The calls. Python has checked all shapes.

// Which rows of a group are active.
std::vector<int64_t> ActiveRows(const Active& active, int64_t group) {
  const int64_t count = active.dimensions()[1];
  const bool* flags = active.typed_data() + group * count;
  std::vector<int64_t> rows;
  rows.reserve(count);
  for (int64_t b = 0; b < count; ++b) {
    if (flags[b]) rows.push_back(b);
  }
  return rows;
}

// An array's matrix of a group.
template <typename Buffer>
auto* Matrix(Buffer& buffer, int64_t group) {
  const auto axes = buffer.dimensions();
  return buffer.typed_data() + group * axes[1] * axes[2];
}

// Calls task(group, begin, end) for every group and pieces of an axis, by all
// threads where `work`, a number of multiplications, is worth it.
template <typename Task>
void ForPieces(ffi::ThreadPool& pool, int64_t groups, int64_t size,
               int64_t work, const Task& task) {
  const int64_t pieces = std::max<int64_t>(1, size / kColumns);
  const auto one = [&](int64_t index) {
    const int64_t begin = index % pieces * kColumns;
    const bool last = index % pieces == pieces - 1;
    task(index / pieces, begin, last ? size : begin + kColumns);
  };
  if (work >= kWorthThreads) {
    ParallelFor(pool, groups * pieces, one);
  } else {
    for (int64_t index = 0; index < groups * pieces; ++index) one(index);
  }
}

// Zeros in columns [begin, end) of rows that are not active.
void ClearOthers(const Active& active, int64_t group, int64_t begin,
                 int64_t end, Floats& result) {
  const int64_t count = active.dimensions()[1], step = result.dimensions()[2];
  const bool* flags = active.typed_data() + group * count;
  float* to = Matrix(result, group);
  for (int64_t b = 0; b < count; ++b) {
    if (!flags[b]) std::fill(to + b * step + begin, to + b * step + end, 0.0f);
  }
}

int64_t Work(const Floats& kernel, const Active& active) {
  return kernel.element_count() * active.dimensions()[1];
}

// x [R, B, D], kernel [R, D, E], active [R, B] -> [R, B, E].
ffi::Error Multiply(ffi::ThreadPool pool, Floats x, Floats kernel,
                    Active active, Result y) {
  const auto axes = kernel.dimensions();
  const int64_t inside = axes[1], outside = axes[2];
  ForPieces(pool, axes[0], outside, Work(kernel, active),
            [&](int64_t r, int64_t begin, int64_t end) {
    const std::vector<int64_t> rows = ActiveRows(active, r);
    const float* matrix = Matrix(kernel, r);
    const float* from = Matrix(x, r);
    float* to = Matrix(*y, r);
    ClearOthers(active, r, begin, end, *y);
    ForStrips(begin, end, [&](auto vecs, auto whole, int64_t column) {
      Cut<kRows>(0, rows.size(), [&](int64_t first, auto size) {
        const float* left[size];
        for (int i = 0; i < size; ++i) {
          left[i] = from + rows[first + i] * inside;
        }
        Block<size, vecs, whole>(
            inside, end - column, [&](int i, int64_t k) { return left[i][k]; },
            [&](int64_t k) {
              const float* row = matrix + k * outside + column;
              __builtin_prefetch(row + vecs * kLanes);  // Of the next strip.
              return row;
            },
            [&](int i) { return to + rows[first + i] * outside + column; });
      });
    });
  });
  return ffi::Error::Success();
}

// y [R, B, E], kernel [R, D, E], active [R, B] -> [R, B, D].
ffi::Error MultiplyTransposed(ffi::ThreadPool pool, Floats y, Floats kernel,
                              Active active, Result x) {
  const auto axes = kernel.dimensions();
  const int64_t inside = axes[1], outside = axes[2];
  ForPieces(pool, axes[0], inside, Work(kernel, active),
            [&](int64_t r, int64_t begin, int64_t end) {
    const std::vector<int64_t> rows = ActiveRows(active, r);
    const float* matrix = Matrix(kernel, r);
    const float* from = Matrix(y, r);
    float* to = Matrix(*x, r);
    ClearOthers(active, r, begin, end, *x);
    const int64_t count = rows.size();
    Cut<3>(begin, end, [&](int64_t column, auto columns) {
      // Every block fetches its part of the matrix's rows that are next.
      const float* next = matrix + (column + columns) * outside;
      Cut<4>(0, count, [&](int64_t first, auto size) {
        DotBlock<size, columns>(
            outside,
            [&](int i) { return from + rows[first + i] * outside; },
            [&](int j) { return matrix + (column + j) * outside; },
            [&](int i) { return to + rows[first + i] * inside + column; },
            next + first * columns * outside / count,
            (size * columns * kLanes + count - 1) / count);
      });
    });
  });
  return ffi::Error::Success();
}

// x [R, B, D], y [R, B, E], active [R, B] -> [R, D, E], sums over active rows
// of their outer products.
ffi::Error OuterProducts(ffi::ThreadPool pool, Floats x, Floats y,
                         Active active, Result kernel) {
  const int64_t inside = x.dimensions()[2], outside = y.dimensions()[2];
  ForPieces(pool, x.dimensions()[0], inside, Work(*kernel, active),
            [&](int64_t r, int64_t begin, int64_t end) {
    const std::vector<int64_t> rows = ActiveRows(active, r);
    const float* left = Matrix(x, r);
    const float* right = Matrix(y, r);
    float* to = Matrix(*kernel, r);
    Cut<kRows>(begin, end, [&](int64_t row, auto size) {
      ForStrips(0, outside, [&](auto vecs, auto whole, int64_t column) {
        Block<size, vecs, whole>(
            rows.size(), outside - column,
            [&](int i, int64_t k) { return left[rows[k] * inside + row + i]; },
            [&](int64_t k) { return right + rows[k] * outside + column; },
            [&](int i) { return to + (row + i) * outside + column; });
      });
    });
  });
  return ffi::Error::Success();
}

}  // namespace

#define ICM_DEFINE(symbol, function)                        \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(symbol, function,           \
                                ffi::Ffi::Bind()            \
                                    .Ctx<ffi::ThreadPool>() \
                                    .Arg<Floats>()          \
                                    .Arg<Floats>()          \
                                    .Arg<Active>()          \
                                    .Ret<Floats>())

ICM_DEFINE(IcmMultiply, Multiply);
ICM_DEFINE(IcmMultiplyTransposed, MultiplyTransposed);
ICM_DEFINE(IcmOuterProducts, OuterProducts);
