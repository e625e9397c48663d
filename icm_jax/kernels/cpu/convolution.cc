// Stacks of 3x3 convolutions of small images on a CPU, for XLA.
//
// A stack has one or more layers: a convolution with bias, zero padding and
// stride 1; then ELU, if asked for; then a 2x2 mean pool, if asked for. There
// are two functions, a stack and its gradients. Arrays are float32 and
// row-major: images [..., N, H, W, C], kernels [..., 3, 3, I, O] and biases
// [..., O]. Leading axes are group axes, such as that of experts; each group
// has kernels of its own. An array may have size 1 in a group axis, and is then
// shared.
//
// For these shapes, XLA's own convolutions use less than half of a CPU's
// arithmetic, and the gradients of its kernels one tenth. Here an image stays
// in the cache of a core from the first layer to the last. Where inputs and
// outputs have enough channels, convolutions use Winograd's minimal filtering
// F(4x4, 3x3), with 36 products for 16 outputs instead of 144 (Lavin & Gray,
// Fast algorithms for convolutional neural networks, CVPR 2016, Sec. 4.1).
//
// Results do not depend on the number of threads: shapes alone decide how sums
// are split.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "cpu.h"
#include "handler.h"
#include "operands.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

using namespace icm;

// ---------------------------------------------------------------------------
// Memory.

inline int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// A thread keeps two pieces of memory from one task to the next: one for the
// call that it runs, and one for the image that it works on, perhaps in the
// same call.
enum Use { kPrepared, kSums, kPadded, kNext, kPlain, kLeft, kRight, kUses };

// Returns memory of at least this many floats, with arbitrary content.
float* Memory(Use use, int64_t size) {
  thread_local std::vector<float> memory[kUses];
  if (static_cast<int64_t>(memory[use].size()) < size + 16) {
    memory[use].assign(size + 16, 0.0f);
  }
  auto address = reinterpret_cast<uintptr_t>(memory[use].data());
  return reinterpret_cast<float*>((address + 63) & ~uintptr_t{63});
}

// ---------------------------------------------------------------------------
// Layers, and images between them. Inside a stack, more than kFew channels are
// filled up with zeros to whole vectors ("lanes"). A padded image has a border
// of zeros, one pixel wide; a plain image has none.

// Up to this many channels are few: a transform is not worth its cost, and
// vectors run over the channels of the other side.
constexpr int64_t kFew = 4;

inline int64_t Lanes(int64_t channels) {
  return channels <= kFew ? channels : RoundUp(channels, kLanes);
}

// Number of outputs on a side of Winograd's tiles.
constexpr int64_t kTile = 4;

struct Layer {
  int64_t height, width, in, out;  // `in` and `out` are channels.
  bool elu, halve;

  int64_t tile_rows() const { return (height + kTile - 1) / kTile; }
  int64_t tile_columns() const { return (width + kTile - 1) / kTile; }
  int64_t tiles() const { return tile_rows() * tile_columns(); }
  // Sizes with the border and the rest of the last tiles.
  int64_t padded_height() const { return kTile * tile_rows() + 2; }
  int64_t padded_width() const { return kTile * tile_columns() + 2; }
  int64_t padded_pixels() const { return padded_height() * padded_width(); }
  int64_t in_lanes() const { return Lanes(in); }
  int64_t out_lanes() const { return Lanes(out); }
  bool few_in() const { return in <= kFew; }
  bool few_out() const { return out <= kFew; }
  bool direct() const { return few_in() || few_out(); }
  int64_t in_size() const { return height * width * in; }
  int64_t out_size() const { return height * width * out; }  // Before halving.
  int64_t kernel_size() const { return 9 * in * out; }

  // The layer that computes input gradients; its kernel is turned by 180
  // degrees.
  Layer turned() const { return {height, width, out, in, false, false}; }
};

// The place of an image whose rows may have a border between them.
struct Plane {
  float* data;
  int64_t row;  // Distance from one row to the next, in floats.
};

Plane InsideOf(float* padded, const Layer& layer, int64_t lanes) {
  const int64_t row = layer.padded_width() * lanes;
  return {padded + row + lanes, row};
}

void ZeroBorder(float* padded, const Layer& layer, int64_t lanes) {
  const int64_t row = layer.padded_width() * lanes;
  std::fill_n(padded, row, 0.0f);
  for (int64_t i = 1; i <= layer.height; ++i) {
    std::fill_n(padded + i * row, lanes, 0.0f);
    std::fill(padded + i * row + (layer.width + 1) * lanes,
              padded + (i + 1) * row, 0.0f);
  }
  std::fill(padded + (layer.height + 1) * row,
            padded + layer.padded_height() * row, 0.0f);
}

// Copies pixels from contiguous channels to lanes, and back.
void ToLanes(const float* from, int64_t height, int64_t width, int64_t channels,
             Plane to) {
  const int64_t lanes = Lanes(channels);
  for (int64_t i = 0; i < height; ++i) {
    const float* source = from + i * width * channels;
    float* pixel = to.data + i * to.row;
    if (channels == lanes) {
      std::copy_n(source, width * channels, pixel);
      continue;
    }
    for (int64_t j = 0; j < width; ++j, pixel += lanes, source += channels) {
      std::copy_n(source, channels, pixel);
      std::fill(pixel + channels, pixel + lanes, 0.0f);
    }
  }
}

void FromLanes(Plane from, int64_t height, int64_t width, int64_t channels,
               float* to) {
  const int64_t lanes = Lanes(channels);
  for (int64_t i = 0; i < height; ++i) {
    const float* pixel = from.data + i * from.row;
    if (channels == lanes) {
      to = std::copy_n(pixel, width * channels, to);
      continue;
    }
    for (int64_t j = 0; j < width; ++j, pixel += lanes) {
      to = std::copy_n(pixel, channels, to);
    }
  }
}

// Computes means of 2x2 pixels; an odd side loses its last row.
void Halve(Plane from, int64_t height, int64_t width, int64_t lanes, Plane to) {
  for (int64_t i = 0; i < height / 2; ++i) {
    const float* upper = from.data + 2 * i * from.row;
    const float* lower = upper + from.row;
    float* mean = to.data + i * to.row;
    for (int64_t j = 0; j < width / 2; ++j) {
      for (int64_t c = 0; c < lanes; ++c) {
        const int64_t left = 2 * j * lanes + c, right = left + lanes;
        mean[j * lanes + c] = 0.25f * ((upper[left] + upper[right]) +
                                       (lower[left] + lower[right]));
      }
    }
  }
}

// Computes the padded gradient before ELU and halving from the gradient with
// respect to a layer's result, which has lanes; y is the layer's value before
// it was halved.
void BackThroughActivation(const float* gradient, const float* y,
                           const Layer& layer, float* padded) {
  const int64_t lanes = layer.out_lanes();
  const Plane to = InsideOf(padded, layer, lanes);
  for (int64_t i = 0; i < layer.height; ++i) {
    float* out = to.data + i * to.row;
    const float* value = y + i * layer.width * layer.out;
    for (int64_t j = 0; j < layer.width;
         ++j, out += lanes, value += layer.out) {
      const float* in = gradient + (i * layer.width + j) * lanes;
      float scale = 1.0f;
      if (layer.halve) {
        const int64_t half = layer.width / 2;
        if (i / 2 >= layer.height / 2 || j / 2 >= half) {
          std::fill_n(out, lanes, 0.0f);  // Halving dropped this pixel.
          continue;
        }
        in = gradient + (i / 2 * half + j / 2) * lanes;
        scale = 0.25f;
      }
      if (layer.out == lanes && lanes % kLanes == 0) {
        for (int64_t c = 0; c < lanes; c += kLanes) {
          const Vec g = scale * Load(in + c);
          Store(out + c, layer.elu ? g * EluSlope(Load(value + c)) : g);
        }
        continue;
      }
      for (int64_t c = 0; c < layer.out; ++c) {
        const bool bent = layer.elu && !(value[c] > 0.0f);
        out[c] = scale * in[c] * (bent ? value[c] + 1.0f : 1.0f);
      }
      std::fill(out + layer.out, out + lanes, 0.0f);
    }
  }
}

// ---------------------------------------------------------------------------
// Winograd's transforms. A tile of 4x4 outputs is computed from 6x6 inputs. The
// pixels of a line are coefficients of a polynomial, and polynomials are
// multiplied by their values at six points. The points 0, +-3/4, +-3/2 and
// infinity have rounding errors a few times smaller than the usual points 0,
// +-1, +-2 and infinity, about those of a convolution that adds its terms one
// by one.

constexpr int64_t kSide = kTile + 2;
constexpr int64_t kPoints = kSide * kSide;

constexpr float kA = 0.75f, kB = 1.5f;
constexpr float kAA = kA * kA, kBB = kB * kB;
// Products of the differences between a point and the others.
constexpr float kAt0 = kAA * kBB;
constexpr float kAtA = 2 * kAA * (kAA - kBB), kAtB = 2 * kBB * (kBB - kAA);

// B'd: transforms a line from inputs to points.
[[gnu::always_inline]]
inline void InputLine(const Vec d[6], Vec u[6]) {
  const Vec even_a = d[4] - kBB * d[2], odd_a = kA * (d[3] - kBB * d[1]);
  const Vec even_b = d[4] - kAA * d[2], odd_b = kB * (d[3] - kAA * d[1]);
  u[0] = kAt0 * d[0] - (kAA + kBB) * d[2] + d[4];
  u[1] = even_a + odd_a;
  u[2] = even_a - odd_a;
  u[3] = even_b + odd_b;
  u[4] = even_b - odd_b;
  u[5] = kAt0 * d[1] - (kAA + kBB) * d[3] + d[5];
}

// A'm: transforms a line from points to outputs.
[[gnu::always_inline]]
inline void OutputLine(const Vec m[6], Vec y[4]) {
  const Vec even_a = m[1] + m[2], odd_a = m[1] - m[2];
  const Vec even_b = m[3] + m[4], odd_b = m[3] - m[4];
  y[0] = m[0] + even_a + even_b;
  y[1] = kA * odd_a + kB * odd_b;
  y[2] = kAA * even_a + kBB * even_b;
  y[3] = kA * kAA * odd_a + kB * kBB * odd_b + m[5];
}

// A g: transforms a line from output gradients to point gradients.
[[gnu::always_inline]]
inline void GradientLine(const Vec g[4], Vec u[6]) {
  const Vec even_a = g[0] + kAA * g[2], odd_a = kA * (g[1] + kAA * g[3]);
  const Vec even_b = g[0] + kBB * g[2], odd_b = kB * (g[1] + kBB * g[3]);
  u[0] = g[0];
  u[1] = even_a + odd_a;
  u[2] = even_a - odd_a;
  u[3] = even_b + odd_b;
  u[4] = even_b - odd_b;
  u[5] = g[3];
}

// G w: transforms a line from weights to points.
[[gnu::always_inline]]
inline void KernelLine(const Vec w[3], Vec u[6]) {
  const Vec even_a = w[0] + kAA * w[2], odd_a = kA * w[1];
  const Vec even_b = w[0] + kBB * w[2], odd_b = kB * w[1];
  u[0] = (1 / kAt0) * w[0];
  u[1] = (1 / kAtA) * (even_a + odd_a);
  u[2] = (1 / kAtA) * (even_a - odd_a);
  u[3] = (1 / kAtB) * (even_b + odd_b);
  u[4] = (1 / kAtB) * (even_b - odd_b);
  u[5] = w[2];
}

// G'm: transforms a line from point gradients to weight gradients.
[[gnu::always_inline]]
inline void KernelGradientLine(const Vec m[6], Vec w[3]) {
  const Vec even_a = (1 / kAtA) * (m[1] + m[2]);
  const Vec even_b = (1 / kAtB) * (m[3] + m[4]);
  const Vec odd_a = (kA / kAtA) * (m[1] - m[2]);
  const Vec odd_b = (kB / kAtB) * (m[3] - m[4]);
  w[0] = (1 / kAt0) * m[0] + even_a + even_b;
  w[1] = odd_a + odd_b;
  w[2] = kAA * even_a + kBB * even_b + m[5];
}

// Applies a line's transform to all columns, then to all rows. Calls must be
// inlined and loops unrolled, because a vector with an address stays in memory.
template <int kFrom, int kTo, void (*kLine)(const Vec*, Vec*), typename Get,
          typename Put>
[[gnu::always_inline]]
inline void Transform(const Get& get, const Put& put) {
  Vec half[kTo][kFrom];
#pragma GCC unroll 6
  for (int j = 0; j < kFrom; ++j) {
    Vec from[kFrom], to[kTo];
#pragma GCC unroll 6
    for (int i = 0; i < kFrom; ++i) from[i] = get(i, j);
    kLine(from, to);
#pragma GCC unroll 6
    for (int i = 0; i < kTo; ++i) half[i][j] = to[i];
  }
#pragma GCC unroll 6
  for (int i = 0; i < kTo; ++i) {
    Vec to[kTo];
    kLine(half[i], to);
#pragma GCC unroll 6
    for (int j = 0; j < kTo; ++j) put(i, j, to[j]);
  }
}

// Number of tiles whose products stay in the cache.
constexpr int64_t kStrip = 32;

// Distance from one point to the next in a strip of tiles: an odd number of
// cache lines, so that the points of a tile do not compete for the same few
// lines.
inline int64_t PointStride(int64_t lanes) { return kStrip * lanes + 16; }

inline void TransformInput(const float* tile, int64_t row, int64_t lanes,
                           float* to, int64_t stride) {
  for (int64_t c = 0; c < lanes; c += kLanes) {
    Transform<kSide, kSide, InputLine>(
        [&](int i, int j) { return Load(tile + i * row + j * lanes + c); },
        [&](int i, int j, Vec u) {
          Store(to + (kSide * i + j) * stride + c, u);
        });
  }
}

// Outputs lie one row and one pixel inside the tile.
inline void TransformGradient(const float* tile, int64_t row, int64_t lanes,
                              float* to, int64_t stride) {
  for (int64_t c = 0; c < lanes; c += kLanes) {
    const float* inside = tile + row + lanes + c;
    Transform<kTile, kSide, GradientLine>(
        [&](int i, int j) { return Load(inside + i * row + j * lanes); },
        [&](int i, int j, Vec u) {
          Store(to + (kSide * i + j) * stride + c, u);
        });
  }
}

// Transforms 3x3 weights to [points, in_lanes, out_lanes].
void TransformKernel(const float* kernel, const Layer& s, float* to) {
  const int64_t tap = s.in * s.out, point = s.in_lanes() * s.out_lanes();
  std::fill_n(to, kPoints * point, 0.0f);
  for (int64_t c = 0; c < s.in; ++c) {
    for (int64_t o = 0; o < s.out; o += kLanes) {
      const float* w = kernel + c * s.out + o;
      float* u = to + c * s.out_lanes() + o;
      Transform<3, kSide, KernelLine>(
          [&](int i, int j) {
            return LoadSome(w + (3 * i + j) * tap, s.out - o);
          },
          [&](int i, int j, Vec v) { Store(u + (kSide * i + j) * point, v); });
    }
  }
}

// Transforms the gradient of the points to that of the 3x3 weights.
void TransformKernelGradient(const float* from, const Layer& s, float* kernel) {
  const int64_t tap = s.in * s.out, point = s.in_lanes() * s.out_lanes();
  for (int64_t c = 0; c < s.in; ++c) {
    for (int64_t o = 0; o < s.out; o += kLanes) {
      const float* m = from + c * s.out_lanes() + o;
      float* w = kernel + c * s.out + o;
      Transform<kSide, 3, KernelGradientLine>(
          [&](int i, int j) { return Load(m + (kSide * i + j) * point); },
          [&](int i, int j, Vec v) {
            StoreSome(w + (3 * i + j) * tap, v, s.out - o);
          });
    }
  }
}

// ---------------------------------------------------------------------------
// Products of small matrices, in registers. A single function for both, with a
// stride along the depth of a, was a few percent slower.

// c[kRows, kVecs * kLanes] = a[kRows, depth] b[depth, ...].
template <int kRows, int kVecs>
inline void Multiply(const float* a, int64_t a_row, const float* b,
                     int64_t b_row, int64_t depth, float* c, int64_t c_row) {
  Vec sum[kRows][kVecs] = {};
  for (int64_t k = 0; k < depth; ++k) {
    Vec right[kVecs];
    for (int v = 0; v < kVecs; ++v) right[v] = Load(b + k * b_row + v * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const Vec left = Same(a[r * a_row + k]);
      for (int v = 0; v < kVecs; ++v) sum[r][v] += left * right[v];
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVecs; ++v) {
      Store(c + r * c_row + v * kLanes, sum[r][v]);
    }
  }
}

// c[rows, columns] = a[rows, depth] b[depth, columns], with at most kRows rows;
// columns fill whole vectors.
template <int kRows>
inline void MultiplyRows(int64_t rows, const float* a, int64_t depth,
                         const float* b, int64_t columns, float* c) {
  if constexpr (kRows > 1) {
    if (rows < kRows) {
      return MultiplyRows<kRows - 1>(rows, a, depth, b, columns, c);
    }
  }
  int64_t o = 0;
  for (; o + 2 * kLanes <= columns; o += 2 * kLanes) {
    Multiply<kRows, 2>(a, depth, b + o, columns, depth, c + o, columns);
  }
  if (o < columns) {
    Multiply<kRows, 1>(a, depth, b + o, columns, depth, c + o, columns);
  }
}

// Numbers of rows of products for which there are registers: AVX-512 has 32.
constexpr int kMostRows = kLanes == 8 ? 6 : 8;
constexpr int kMostSumRows = kLanes == 8 ? 4 : 8;

// c[kRows, kVecs * kLanes] += a[depth, kRows]' b[depth, ...].
template <int kRows, int kVecs>
inline void MultiplyAdd(const float* a, int64_t a_row, const float* b,
                        int64_t b_row, int64_t depth, float* c, int64_t c_row) {
  Vec sum[kRows][kVecs];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVecs; ++v) {
      sum[r][v] = Load(c + r * c_row + v * kLanes);
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    Vec right[kVecs];
    for (int v = 0; v < kVecs; ++v) right[v] = Load(b + k * b_row + v * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const Vec left = Same(a[k * a_row + r]);
      for (int v = 0; v < kVecs; ++v) sum[r][v] += left * right[v];
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVecs; ++v) {
      Store(c + r * c_row + v * kLanes, sum[r][v]);
    }
  }
}

// ---------------------------------------------------------------------------
// Functions of one image and one layer; `padded` is the input, results have
// lanes.

// Convolution by Winograd; `points` are the transformed kernel. A bias of
// nullptr is none.
void ForwardTiles(const float* padded, const float* points, const float* bias,
                  const Layer& s, Plane y) {
  const int64_t in = s.in_lanes(), out = s.out_lanes();
  float* inputs = Memory(kLeft, kPoints * PointStride(in));
  float* products = Memory(kRight, kPoints * PointStride(out));
  const int64_t row = s.padded_width() * in, columns = s.tile_columns();
  for (int64_t first = 0; first < s.tiles(); first += kStrip) {
    const int64_t count = std::min(kStrip, s.tiles() - first);
    for (int64_t t = 0; t < count; ++t) {
      const int64_t i = (first + t) / columns, j = (first + t) % columns;
      TransformInput(padded + kTile * (i * row + j * in), row, in,
                     inputs + t * in, PointStride(in));
    }
    for (int64_t p = 0; p < kPoints; ++p) {
      const float* a = inputs + p * PointStride(in);
      const float* b = points + p * in * out;
      float* c = products + p * PointStride(out);
      for (int64_t t = 0; t < count; t += kMostRows) {
        MultiplyRows<kMostRows>(count - t, a + t * in, in, b, out, c + t * out);
      }
    }
    for (int64_t t = 0; t < count; ++t) {
      const int64_t i = kTile * ((first + t) / columns);
      const int64_t j = kTile * ((first + t) % columns);
      const int64_t rows = std::min(kTile, s.height - i);
      const int64_t pixels = std::min(kTile, s.width - j);
      const float* from = products + t * out;
      float* to = y.data + i * y.row + j * out;
      for (int64_t o = 0; o < out; o += kLanes) {
        const Vec shift = bias ? Load(bias + o) : Vec{};
        Vec tile[kTile][kTile];
        Transform<kSide, kTile, OutputLine>(
            [&](int64_t k, int64_t l) {
              return Load(from + (kSide * k + l) * PointStride(out) + o);
            },
            [&](int64_t k, int64_t l, Vec value) { tile[k][l] = value; });
        for (int64_t k = 0; k < rows; ++k) {
          for (int64_t l = 0; l < pixels; ++l) {
            const Vec value = tile[k][l] + shift;
            Store(to + k * y.row + l * out + o, s.elu ? Elu(value) : value);
          }
        }
      }
    }
  }
}

// Convolution with few channels on either side. `kernel` is
// [9, in_lanes, out_lanes] for few inputs, and [9, out, in_lanes] for few
// outputs. The last pixels of a row may be computed twice; a row that is
// narrower than a block is computed with pixels beyond it, which are not
// stored.
void ForwardDirect(const float* padded, const float* kernel, const float* bias,
                   const Layer& s, Plane y) {
  constexpr int kPixels = 6;
  const int64_t in = s.in_lanes(), out = s.out_lanes();
  const int64_t row = s.padded_width() * in;
  const int64_t pixels = std::min<int64_t>(kPixels, s.width);
  for (int64_t i = 0; i < s.height; ++i) {
    for (int64_t first = 0; first < s.width; first += pixels) {
      const int64_t j = std::min(first, s.width - pixels);
      const float* corner = padded + i * row + j * in;
      float* to = y.data + i * y.row + j * out;
      if (s.few_out()) {
        for (int64_t o = 0; o < out; ++o) {
          Vec sum[kPixels] = {};
          float single[kPixels] = {};
          for (int tap = 0; tap < 9; ++tap) {
            const float* x = corner + (tap / 3) * row + (tap % 3) * in;
            const float* w = kernel + (tap * out + o) * in;
            for (int64_t c = 0; s.few_in() && c < in; ++c) {
              for (int p = 0; p < kPixels; ++p) {
                single[p] += x[p * in + c] * w[c];
              }
            }
            for (int64_t c = 0; !s.few_in() && c < in; c += kLanes) {
              const Vec weight = Load(w + c);
              for (int p = 0; p < kPixels; ++p) {
                sum[p] += Load(x + p * in + c) * weight;
              }
            }
          }
          for (int64_t p = 0; p < pixels; ++p) {
            const float value =
                single[p] + Sum(sum[p]) + (bias ? bias[o] : 0.0f);
            to[p * out + o] = s.elu ? Elu(Same(value))[0] : value;
          }
        }
        continue;
      }
      for (int64_t o = 0; o < out; o += kLanes) {
        const Vec shift = bias ? Load(bias + o) : Vec{};
        Vec sum[kPixels];
        for (int p = 0; p < kPixels; ++p) sum[p] = shift;
        for (int tap = 0; tap < 9; ++tap) {
          const float* x = corner + (tap / 3) * row + (tap % 3) * in;
          for (int64_t c = 0; c < in; ++c) {
            const Vec w = Load(kernel + (tap * in + c) * out + o);
            for (int p = 0; p < kPixels; ++p) sum[p] += Same(x[p * in + c]) * w;
          }
        }
        for (int64_t p = 0; p < pixels; ++p) {
          Store(to + p * out + o, s.elu ? Elu(sum[p]) : sum[p]);
        }
      }
    }
  }
}

void Forward(const float* padded, const float* prepared, const float* bias,
             const Layer& layer, Plane y) {
  (layer.direct() ? ForwardDirect : ForwardTiles)(padded, prepared, bias, layer,
                                                  y);
}

// Adds to `points`, the gradient of the transformed kernel, and to `bias`.
void KernelGradientTiles(const float* padded, const float* gradient,
                         const Layer& s, float* points, float* bias) {
  const int64_t in = s.in_lanes(), out = s.out_lanes();
  float* inputs = Memory(kLeft, kPoints * PointStride(in));
  float* gradients = Memory(kRight, kPoints * PointStride(out));
  const int64_t columns = s.tile_columns();
  const int64_t row = s.padded_width() * in;
  const int64_t gradient_row = s.padded_width() * out;
  for (int64_t o = 0; o < out; o += kLanes) {
    Vec sum = Load(bias + o);
    for (int64_t p = 0; p < s.padded_pixels(); ++p) {
      sum += Load(gradient + p * out + o);
    }
    Store(bias + o, sum);
  }
  for (int64_t first = 0; first < s.tiles(); first += kStrip) {
    const int64_t count = std::min(kStrip, s.tiles() - first);
    for (int64_t t = 0; t < count; ++t) {
      const int64_t i = (first + t) / columns, j = (first + t) % columns;
      TransformInput(padded + kTile * (i * row + j * in), row, in,
                     inputs + t * in, PointStride(in));
      TransformGradient(gradient + kTile * (i * gradient_row + j * out),
                        gradient_row, out, gradients + t * out,
                        PointStride(out));
    }
    for (int64_t p = 0; p < kPoints; ++p) {
      const float* a = inputs + p * PointStride(in);
      const float* b = gradients + p * PointStride(out);
      float* c = points + p * in * out;
      for (int64_t i = 0; i < in; i += kMostSumRows) {
        int64_t o = 0;
        for (; o + 2 * kLanes <= out; o += 2 * kLanes) {
          MultiplyAdd<kMostSumRows, 2>(a + i, in, b + o, out, count,
                                       c + i * out + o, out);
        }
        if (o < out) {
          MultiplyAdd<kMostSumRows, 1>(a + i, in, b + o, out, count,
                                       c + i * out + o, out);
        }
      }
    }
  }
}

// Adds to `taps`, the gradient [9, in_lanes, out_lanes], and to `bias`.
void KernelGradientDirect(const float* padded, const float* gradient,
                          const Layer& s, float* taps, float* bias) {
  const int64_t in = s.in_lanes(), out = s.out_lanes();
  const int64_t row = s.padded_width() * in;
  const int64_t gradient_row = s.padded_width() * out;
  for (int64_t i = 0; i < s.height; ++i) {
    const float* g_row = gradient + (i + 1) * gradient_row + out;
    const float* x_row = padded + i * row;
    if (s.few_out()) {
      for (int64_t o = 0; o < out; ++o) {
        for (int64_t j = 0; j < s.width; ++j) bias[o] += g_row[j * out + o];
        for (int64_t c = 0; c < in; c += s.few_in() ? 1 : kLanes) {
          Vec sum[9] = {};
          float single[9] = {};
          for (int64_t j = 0; j < s.width; ++j) {
            const float g = g_row[j * out + o];
            const float* x = x_row + j * in + c;
            for (int tap = 0; tap < 9; ++tap) {
              const float* at = x + (tap / 3) * row + (tap % 3) * in;
              if (s.few_in()) {
                single[tap] += g * at[0];
              } else {
                sum[tap] += Same(g) * Load(at);
              }
            }
          }
          for (int tap = 0; tap < 9; ++tap) {
            for (int64_t l = 0; l < (s.few_in() ? 1 : kLanes); ++l) {
              taps[(tap * in + c + l) * out + o] +=
                  s.few_in() ? single[tap] : sum[tap][l];
            }
          }
        }
      }
      continue;
    }
    for (int64_t o = 0; o < out; o += kLanes) {
      Vec total = Load(bias + o);
      for (int64_t j = 0; j < s.width; ++j) total += Load(g_row + j * out + o);
      Store(bias + o, total);
      for (int64_t c = 0; c < in; ++c) {
        Vec sum[9];
        for (int tap = 0; tap < 9; ++tap) {
          sum[tap] = Load(taps + (tap * in + c) * out + o);
        }
        for (int64_t j = 0; j < s.width; ++j) {
          const Vec g = Load(g_row + j * out + o);
          const float* x = x_row + j * in + c;
          for (int tap = 0; tap < 9; ++tap) {
            sum[tap] += Same(x[(tap / 3) * row + (tap % 3) * in]) * g;
          }
        }
        for (int tap = 0; tap < 9; ++tap) {
          Store(taps + (tap * in + c) * out + o, sum[tap]);
        }
      }
    }
  }
}

// ---------------------------------------------------------------------------
// Kernels in the form in which they are multiplied with an image.

int64_t PreparedSize(const Layer& s) {
  return (s.direct() ? 9 : kPoints) * s.in_lanes() * s.out_lanes();
}

void PrepareKernel(const float* kernel, const Layer& s, float* to) {
  if (!s.direct()) {
    TransformKernel(kernel, s, to);
    return;
  }
  const int64_t in = s.in_lanes(), out = s.out_lanes();
  std::fill_n(to, PreparedSize(s), 0.0f);
  for (int64_t tap = 0; tap < 9; ++tap) {
    for (int64_t i = 0; i < s.in; ++i) {
      for (int64_t o = 0; o < s.out; ++o) {
        const float w = kernel[(tap * s.in + i) * s.out + o];
        to[s.few_out() ? (tap * s.out + o) * in + i
                       : (tap * in + i) * out + o] = w;
      }
    }
  }
}

// Turns [9, in, out] into [9, out, in] with the taps in reverse.
void TurnKernel(const float* kernel, const Layer& s, float* to) {
  for (int64_t tap = 0; tap < 9; ++tap) {
    const float* from = kernel + (8 - tap) * s.in * s.out;
    for (int64_t o = 0; o < s.out; ++o) {
      for (int64_t i = 0; i < s.in; ++i) *to++ = from[i * s.out + o];
    }
  }
}

// The inverse of PrepareKernel, for gradients that are sums over images.
void FinishKernelGradient(const float* sum, const Layer& s, float* kernel) {
  if (!s.direct()) {
    TransformKernelGradient(sum, s, kernel);
    return;
  }
  for (int64_t i = 0; i < 9 * s.in; ++i) {
    const int64_t row = i / s.in * s.in_lanes() + i % s.in;
    std::copy_n(sum + row * s.out_lanes(), s.out, kernel + i * s.out);
  }
}

// Every layer's kernels and biases in the form in which they are multiplied
// with images, once for every group, or once if all groups share them.
struct Prepared {
  std::vector<int64_t> begin, step;  // Offsets of every layer, in floats.
  std::vector<bool> shared;
  const float* data;

  const float* kernel(int64_t layer, int64_t group) const {
    return data + begin[layer] + (shared[layer] ? 0 : group) * step[layer];
  }
  const float* bias(int64_t layer, int64_t group, const Layer& s) const {
    return kernel(layer, group) + PreparedSize(s);
  }
};

// `biases` are empty for gradients, whose kernels are turned.
Prepared Prepare(ffi::ThreadPool& pool, const std::vector<Layer>& layers,
                 const std::vector<Operand>& kernels,
                 const std::vector<Operand>& biases) {
  const bool turn = biases.empty();
  const int64_t count = layers.size(), groups = kernels[0].begin.size();
  Prepared prepared;
  int64_t size = 0;
  for (int64_t l = 0; l < count; ++l) {
    const Layer s = turn ? layers[l].turned() : layers[l];
    const bool shared =
        kernels[l].shared() && (turn || biases[l].shared());
    prepared.begin.push_back(size);
    prepared.step.push_back(RoundUp(PreparedSize(s) + s.out_lanes(), 16));
    prepared.shared.push_back(shared);
    size += (shared ? 1 : groups) * prepared.step[l];
  }
  float* memory = Memory(kPrepared, size);
  prepared.data = memory;
  ParallelFor(pool, groups * count, [&](int64_t index) {
    const int64_t l = index / groups, g = index % groups;
    if (prepared.shared[l] && g > 0) return;
    const Layer& layer = layers[l];
    float* to = memory + prepared.begin[l] + g * prepared.step[l];
    if (turn) {
      float* turned = Memory(kLeft, layer.kernel_size());
      TurnKernel(kernels[l].of(g), layer, turned);
      PrepareKernel(turned, layer.turned(), to);
      return;
    }
    PrepareKernel(kernels[l].of(g), layer, to);
    float* bias = to + PreparedSize(layer);
    std::fill_n(bias, layer.out_lanes(), 0.0f);
    std::copy_n(biases[l].of(g), layer.out, bias);
  });
  return prepared;
}

// Parts of at most `size` images, into which groups of images are cut.
struct Parts {
  int64_t groups, images, size;

  int64_t per_group() const { return (images + size - 1) / size; }
  int64_t count() const { return groups * per_group(); }
  int64_t group(int64_t part) const { return part / per_group(); }
  int64_t begin(int64_t part) const { return part % per_group() * size; }
  int64_t end(int64_t part) const {
    return std::min(images, begin(part) + size);
  }
};

using Flags = ffi::Span<const int64_t>;

// Returns the sizes of every layer, from the kernels and the first layer's
// images.
std::vector<Layer> ReadLayers(const ffi::AnyBuffer& x,
                              const std::vector<ffi::AnyBuffer>& kernels,
                              Flags elu, Flags halve) {
  std::vector<Layer> layers;
  int64_t height = Axis(x, 3), width = Axis(x, 2);
  for (size_t l = 0; l < kernels.size(); ++l) {
    layers.push_back({height, width, Axis(kernels[l], 2), Axis(kernels[l], 1),
                      elu[l] != 0, halve[l] != 0});
    if (halve[l]) height /= 2, width /= 2;
  }
  return layers;
}

// The largest need of any layer.
template <typename Size>
int64_t Most(const std::vector<Layer>& layers, const Size& size) {
  int64_t most = 0;
  for (const Layer& layer : layers) most = std::max(most, size(layer));
  return most;
}

// Room for the padded input or output of any layer; convolutions of few
// channels may read a few pixels beyond it.
int64_t PaddedRoom(const std::vector<Layer>& layers) {
  return Most(layers, [](const Layer& layer) {
    return (layer.padded_pixels() + 8) *
           std::max(layer.in_lanes(), layer.out_lanes());
  });
}

// ---------------------------------------------------------------------------
// The functions that XLA calls. Python has checked all shapes.

// x, and a kernel and a bias of every layer -> the value of every layer before
// it is halved, if `save` is set; and the stack's result, unless it is the last
// of these values.
ffi::Error Stack(ffi::ThreadPool pool, ffi::RemainingArgs args,
                 ffi::RemainingRets rets, Flags elu, Flags halve, bool save) {
  const int64_t count = elu.size();
  const ffi::AnyBuffer x = *args.get<ffi::AnyBuffer>(0);
  std::vector<ffi::AnyBuffer> kernels, biases;
  for (int64_t l = 0; l < count; ++l) {
    kernels.push_back(*args.get<ffi::AnyBuffer>(1 + 2 * l));
    biases.push_back(*args.get<ffi::AnyBuffer>(2 + 2 * l));
  }
  const std::vector<Layer> layers = ReadLayers(x, kernels, elu, halve);
  std::vector<float*> saved(count, nullptr);
  float* result = nullptr;
  for (size_t r = 0; r < rets.size(); ++r) {
    ffi::AnyBuffer buffer = **rets.get<ffi::AnyBuffer>(r);
    float* data = buffer.typed_data<float>();
    WantLargePages(data, Product(OuterAxes(buffer, 0)));
    if (save && static_cast<int64_t>(r) < count) saved[r] = data;
    result = data;
  }
  if (save && !layers.back().halve) result = nullptr;  // It is a saved value.

  const std::vector<int64_t> axes = OuterAxes(**rets.get<ffi::AnyBuffer>(0), 4);
  const int64_t groups = Product(axes), images = Axis(x, 4);
  const Operand input(x, 4, axes);
  std::vector<Operand> kernel, bias;
  for (int64_t l = 0; l < count; ++l) {
    kernel.emplace_back(kernels[l], 4, axes);
    bias.emplace_back(biases[l], 1, axes);
  }
  const Prepared prepared = Prepare(pool, layers, kernel, bias);
  const Layer& first = layers.front();
  const Layer& last = layers.back();
  const int64_t result_size = last.halve
      ? (last.height / 2) * (last.width / 2) * last.out : last.out_size();
  const Parts parts{groups, images, 4};
  ParallelFor(pool, parts.count(), [&](int64_t part) {
    const int64_t g = parts.group(part), room = PaddedRoom(layers);
    float* plain = Memory(kPlain, room);
    for (int64_t n = parts.begin(part); n < parts.end(part); ++n) {
      float* padded = Memory(kPadded, room);
      float* next_padded = Memory(kNext, room);
      ToLanes(input.of(g) + n * first.in_size(), first.height, first.width,
              first.in, InsideOf(padded, first, first.in_lanes()));
      ZeroBorder(padded, first, first.in_lanes());
      for (int64_t l = 0; l < count; ++l) {
        const Layer& layer = layers[l];
        const int64_t lanes = layer.out_lanes();
        const Layer* next = l + 1 < count ? &layers[l + 1] : nullptr;
        Plane y{plain, layer.width * lanes};
        if (next && !layer.halve) y = InsideOf(next_padded, *next, lanes);
        Forward(padded, prepared.kernel(l, g), prepared.bias(l, g, layer),
                layer, y);
        if (saved[l]) {
          FromLanes(y, layer.height, layer.width, layer.out,
                    saved[l] + (g * images + n) * layer.out_size());
        }
        if (layer.halve) {
          const int64_t half = layer.width / 2;
          const Plane to = next ? InsideOf(next_padded, *next, lanes)
                                : Plane{next_padded, half * lanes};
          Halve(y, layer.height, layer.width, lanes, to);
          y = to;
        }
        if (next) {
          ZeroBorder(next_padded, *next, lanes);
          std::swap(padded, next_padded);
        } else if (result) {
          FromLanes(y, layer.height / (layer.halve ? 2 : 1),
                    layer.width / (layer.halve ? 2 : 1), layer.out,
                    result + (g * images + n) * result_size);
        }
      }
    }
  });
  return ffi::Error::Success();
}

// The gradient with respect to the stack's result; x, and a kernel and a bias
// of every layer; the results of the forward function with `save` -> the
// gradients with respect to x, and to a kernel and a bias of every layer.
ffi::Error StackGradient(ffi::ThreadPool pool, ffi::RemainingArgs args,
                         ffi::RemainingRets rets, Flags elu, Flags halve) {
  const int64_t count = elu.size();
  const ffi::AnyBuffer x = *args.get<ffi::AnyBuffer>(1);
  ffi::AnyBuffer x_gradient = **rets.get<ffi::AnyBuffer>(0);
  const std::vector<int64_t> axes = OuterAxes(x_gradient, 4);
  const int64_t groups = Product(axes), images = Axis(x, 4);
  std::vector<ffi::AnyBuffer> kernels;
  std::vector<Operand> values, kernel;
  for (int64_t l = 0; l < count; ++l) {
    kernels.push_back(*args.get<ffi::AnyBuffer>(2 + 2 * l));
    values.emplace_back(*args.get<ffi::AnyBuffer>(2 + 2 * count + l), 4, axes);
    kernel.emplace_back(kernels[l], 4, axes);
  }
  const Operand gradient(*args.get<ffi::AnyBuffer>(0), 4, axes);
  const Operand input(x, 4, axes);
  const std::vector<Layer> layers = ReadLayers(x, kernels, elu, halve);
  float* x_result = x_gradient.typed_data<float>();

  const Prepared prepared = Prepare(pool, layers, kernel, {});

  // Every part has sums for every layer's kernel and bias.
  std::vector<int64_t> begin;
  int64_t size = 0;
  for (const Layer& layer : layers) {
    begin.push_back(size);
    size += RoundUp(PreparedSize(layer) + layer.out_lanes(), 16);
  }

  const Layer& first = layers.front();
  const Layer& last = layers.back();
  const int64_t height = last.height / (last.halve ? 2 : 1);
  const int64_t width = last.width / (last.halve ? 2 : 1);
  // The sums of parts are added in a fixed order, so that results are always
  // the same. Few images make smaller parts, so that all threads have some.
  const Parts parts{groups, images, std::clamp<int64_t>(images / 8, 4, 16)};
  float* sums = Memory(kSums, parts.count() * size);
  ParallelFor(pool, parts.count(), [&](int64_t part) {
    const int64_t g = parts.group(part), room = PaddedRoom(layers);
    float* padded = Memory(kPadded, room);
    float* padded_gradient = Memory(kNext, room);
    float* plain = Memory(kPlain, room);
    std::fill_n(sums + part * size, size, 0.0f);
    for (int64_t n = parts.begin(part); n < parts.end(part); ++n) {
      ToLanes(gradient.of(g) + n * height * width * last.out, height, width,
              last.out, {plain, width * last.out_lanes()});
      for (int64_t l = count; l-- > 0;) {
        const Layer& layer = layers[l];
        const float* y = values[l].of(g) + n * layer.out_size();
        BackThroughActivation(plain, y, layer, padded_gradient);
        ZeroBorder(padded_gradient, layer, layer.out_lanes());

        const Plane inside = InsideOf(padded, layer, layer.in_lanes());
        if (l == 0) {
          ToLanes(input.of(g) + n * first.in_size(), first.height, first.width,
                  first.in, inside);
        } else {
          const Layer& before = layers[l - 1];
          const float* value = values[l - 1].of(g) + n * before.out_size();
          if (before.halve) {
            const int64_t row = before.width * before.out_lanes();
            ToLanes(value, before.height, before.width, before.out,
                    {plain, row});
            Halve({plain, row}, before.height, before.width,
                  before.out_lanes(), inside);
          } else {
            ToLanes(value, layer.height, layer.width, layer.in, inside);
          }
        }
        ZeroBorder(padded, layer, layer.in_lanes());

        float* sum = sums + part * size + begin[l];
        (layer.direct() ? KernelGradientDirect : KernelGradientTiles)(
            padded, padded_gradient, layer, sum, sum + PreparedSize(layer));
        const Layer turned = layer.turned();
        Forward(padded_gradient, prepared.kernel(l, g), nullptr, turned,
                {plain, layer.width * layer.in_lanes()});
      }
      FromLanes({plain, first.width * first.in_lanes()}, first.height,
                first.width, first.in,
                x_result + (g * images + n) * first.in_size());
    }
  });
  ParallelFor(pool, groups * count, [&](int64_t index) {
    const int64_t l = index / groups, g = index % groups;
    const Layer& layer = layers[l];
    const int64_t own = PreparedSize(layer) + layer.out_lanes();
    float* total = sums + g * parts.per_group() * size + begin[l];
    for (int64_t part = 1; part < parts.per_group(); ++part) {
      const float* more = total + part * size;
      for (int64_t i = 0; i < own; ++i) total[i] += more[i];
    }
    float* to = (**rets.get<ffi::AnyBuffer>(1 + 2 * l)).typed_data<float>();
    FinishKernelGradient(total, layer, to + g * layer.kernel_size());
    to = (**rets.get<ffi::AnyBuffer>(2 + 2 * l)).typed_data<float>();
    std::copy_n(total + PreparedSize(layer), layer.out, to + g * layer.out);
  });
  return ffi::Error::Success();
}

}  // namespace

ICM_DEFINE_CALL(IcmStack, Stack,
                ffi::Ffi::Bind()
                    .Ctx<ffi::ThreadPool>()
                    .RemainingArgs()
                    .RemainingRets()
                    .Attr<Flags>("elu")
                    .Attr<Flags>("halve")
                    .Attr<bool>("save"));

ICM_DEFINE_CALL(IcmStackGradient, StackGradient,
                ffi::Ffi::Bind()
                    .Ctx<ffi::ThreadPool>()
                    .RemainingArgs()
                    .RemainingRets()
                    .Attr<Flags>("elu")
                    .Attr<Flags>("halve"));

// Whether this machine has the instructions that this file was compiled for.
extern "C" bool IcmMachineCanRun() {
#if defined(__x86_64__) && defined(__AVX512F__)
  return __builtin_cpu_supports("avx512f") &&
         __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") &&
         __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
#elif defined(__x86_64__) && defined(__AVX2__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return true;
#endif
}
