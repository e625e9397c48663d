// Batch normalisation followed by ELU, on a CPU, for XLA.
//
// Arrays are float32 and row-major: images [..., N, H, W, C], and values of
// channels [..., C]. Leading axes are group axes, such as that of experts; each
// group has statistics of its own (see operands.h). XLA's own programs read and
// write images several times more often than necessary.
//
// Results do not depend on the number of threads: every image has a sum of its
// own, and these sums are added in order.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "cpu.h"
#include "handler.h"
#include "operands.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

using namespace icm;

// The layout of a call's images.
struct Images {
  int64_t groups, count, pixels, channels;

  explicit Images(const ffi::AnyBuffer& buffer)
      : groups(Product(OuterAxes(buffer, 4))),
        count(Axis(buffer, 4)),
        pixels(Axis(buffer, 3) * Axis(buffer, 2)),
        channels(Axis(buffer, 1)) {}

  int64_t size() const { return pixels * channels; }
  // Number of pixels of a group.
  double all() const { return static_cast<double>(count) * pixels; }
};

// Calls task(g, n, c, some) for image n of group g and `some` channels from c
// on, at most as many as a vector has. A full vector is a constant to the
// compiler.
template <typename Task>
void ForChannels(ffi::ThreadPool& pool, const Images& images,
                 const Task& task) {
  ParallelFor(pool, images.groups * images.count, [&](int64_t index) {
    const int64_t g = index / images.count, n = index % images.count;
    int64_t c = 0;
    for (; c + kLanes <= images.channels; c += kLanes) {
      task(g, n, c, std::integral_constant<int64_t, kLanes>());
    }
    if (c < images.channels) task(g, n, c, images.channels - c);
  });
}

// Two sums over the pixels of an image, for every channel.
struct Sums {
  const Images images;
  std::vector<float> of_image;

  explicit Sums(const Images& images)
      : images(images),
        of_image(images.groups * images.count * 2 * images.channels) {}

  float* first(int64_t g, int64_t n) {
    return of_image.data() + (g * images.count + n) * 2 * images.channels;
  }
  float* second(int64_t g, int64_t n) { return first(g, n) + images.channels; }

  // Means over a group's pixels; `offset` selects the sum: 0 or `channels`.
  double Mean(int64_t g, int64_t c, int64_t offset) const {
    double sum = 0.0;
    for (int64_t n = 0; n < images.count; ++n) {
      sum += of_image[(g * images.count + n) * 2 * images.channels + offset +
                      c];
    }
    return sum / images.all();
  }
};

float* Result(ffi::RemainingRets& rets, size_t index) {
  ffi::AnyBuffer buffer = **rets.get<ffi::AnyBuffer>(index);
  float* data = buffer.typed_data<float>();
  WantLargePages(data, Product(OuterAxes(buffer, 0)));
  return data;
}

// x, scale, shift -> y, mean, variance, where y is
// ELU(scale * (x - mean) / sqrt(variance + epsilon) + shift).
ffi::Error BatchNorm(ffi::ThreadPool pool, ffi::RemainingArgs args,
                     ffi::RemainingRets rets, float epsilon) {
  const ffi::AnyBuffer y_buffer = **rets.get<ffi::AnyBuffer>(0);
  const Images images(y_buffer);
  const int64_t channels = images.channels;
  const std::vector<int64_t> axes = OuterAxes(y_buffer, 4);
  const Operand x(*args.get<ffi::AnyBuffer>(0), 4, axes);
  const Operand scale(*args.get<ffi::AnyBuffer>(1), 1, axes);
  const Operand shift(*args.get<ffi::AnyBuffer>(2), 1, axes);
  float* y = Result(rets, 0);
  float* mean = Result(rets, 1);
  float* variance = Result(rets, 2);

  // Sums are of differences from the first pixel: if the mean is far from zero,
  // the mean of squares and the square of the mean are nearly equal, and their
  // difference would have few digits.
  Sums sums(images);
  ForChannels(pool, images, [&](int64_t g, int64_t n, int64_t c, auto some) {
    const Vec origin = LoadSome(x.of(g) + c, some);
    const float* from = x.of(g) + n * images.size() + c;
    Vec sum = {}, squares = {};
    for (int64_t p = 0; p < images.pixels; ++p, from += channels) {
      const Vec difference = LoadSome(from, some) - origin;
      sum += difference;
      squares += difference * difference;
    }
    StoreSome(sums.first(g, n) + c, sum, some);
    StoreSome(sums.second(g, n) + c, squares, some);
  });

  std::vector<float> factor(images.groups * channels);
  for (int64_t g = 0; g < images.groups; ++g) {
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t at = g * channels + c;
      const double moved = sums.Mean(g, c, 0);
      const double spread =
          std::max(0.0, sums.Mean(g, c, channels) - moved * moved);
      mean[at] = x.of(g)[c] + moved;
      variance[at] = spread;
      factor[at] = scale.of(g)[c] / std::sqrt(spread + epsilon);
    }
  }

  ForChannels(pool, images, [&](int64_t g, int64_t n, int64_t c, auto some) {
    const int64_t at = g * channels + c;
    const Vec centre = LoadSome(mean + at, some);
    const Vec times = LoadSome(factor.data() + at, some);
    const Vec plus = LoadSome(shift.of(g) + c, some);
    const float* from = x.of(g) + n * images.size() + c;
    float* to = y + (g * images.count + n) * images.size() + c;
    for (int64_t p = 0; p < images.pixels; ++p) {
      const Vec value = (LoadSome(from, some) - centre) * times + plus;
      StoreSome(to, Elu(value), some);
      from += channels, to += channels;
    }
  });
  return ffi::Error::Success();
}

// Gradients with respect to y, mean and variance (the last two are ignored); x,
// scale, shift; y, mean, variance -> gradients with respect to x, scale and
// shift.
ffi::Error BatchNormGradient(ffi::ThreadPool pool, ffi::RemainingArgs args,
                             ffi::RemainingRets rets, float epsilon) {
  const ffi::AnyBuffer x_buffer = **rets.get<ffi::AnyBuffer>(0);
  const Images images(x_buffer);
  const int64_t channels = images.channels;
  const std::vector<int64_t> axes = OuterAxes(x_buffer, 4);
  const Operand gradient(*args.get<ffi::AnyBuffer>(0), 4, axes);
  const Operand x(*args.get<ffi::AnyBuffer>(3), 4, axes);
  const Operand scale(*args.get<ffi::AnyBuffer>(4), 1, axes);
  const Operand y(*args.get<ffi::AnyBuffer>(6), 4, axes);
  const Operand mean(*args.get<ffi::AnyBuffer>(7), 1, axes);
  const Operand variance(*args.get<ffi::AnyBuffer>(8), 1, axes);
  float* x_result = Result(rets, 0);
  float* scale_result = Result(rets, 1);
  float* shift_result = Result(rets, 2);

  // Sums of the gradient before ELU, and of its product with the distance from
  // the mean.
  Sums sums(images);
  ForChannels(pool, images, [&](int64_t g, int64_t n, int64_t c, auto some) {
    const int64_t begin = n * images.size() + c;
    const Vec centre = LoadSome(mean.of(g) + c, some);
    Vec sum = {}, products = {};
    for (int64_t p = 0; p < images.pixels; ++p) {
      const int64_t at = begin + p * channels;
      const Vec slope = LoadSome(gradient.of(g) + at, some) *
                        EluSlope(LoadSome(y.of(g) + at, some));
      sum += slope;
      products += slope * (LoadSome(x.of(g) + at, some) - centre);
    }
    StoreSome(sums.first(g, n) + c, sum, some);
    StoreSome(sums.second(g, n) + c, products, some);
  });

  // dx = factor * (slope - sunk - (x - mean) * tilt)
  std::vector<float> factor(images.groups * channels);
  std::vector<float> sunk(factor.size()), tilt(factor.size());
  for (int64_t g = 0; g < images.groups; ++g) {
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t at = g * channels + c;
      const double precision = 1.0 / (variance.of(g)[c] + double{epsilon});
      const double slope = sums.Mean(g, c, 0);
      const double product = sums.Mean(g, c, channels);
      factor[at] = scale.of(g)[c] * std::sqrt(precision);
      sunk[at] = slope;
      tilt[at] = product * precision;
      shift_result[at] = slope * images.all();
      scale_result[at] = product * std::sqrt(precision) * images.all();
    }
  }

  ForChannels(pool, images, [&](int64_t g, int64_t n, int64_t c, auto some) {
    const int64_t begin = n * images.size() + c, of = g * channels + c;
    const Vec centre = LoadSome(mean.of(g) + c, some);
    const Vec times = LoadSome(factor.data() + of, some);
    const Vec minus = LoadSome(sunk.data() + of, some);
    const Vec along = LoadSome(tilt.data() + of, some);
    float* to = x_result + g * images.count * images.size();
    for (int64_t p = 0; p < images.pixels; ++p) {
      const int64_t at = begin + p * channels;
      const Vec slope = LoadSome(gradient.of(g) + at, some) *
                        EluSlope(LoadSome(y.of(g) + at, some));
      const Vec distance = LoadSome(x.of(g) + at, some) - centre;
      StoreSome(to + at, times * (slope - minus - distance * along), some);
    }
  });
  return ffi::Error::Success();
}

}  // namespace

ICM_DEFINE_CALL(IcmBatchNorm, BatchNorm,
                ffi::Ffi::Bind()
                    .Ctx<ffi::ThreadPool>()
                    .RemainingArgs()
                    .RemainingRets()
                    .Attr<float>("epsilon"));

ICM_DEFINE_CALL(IcmBatchNormGradient, BatchNormGradient,
                ffi::Ffi::Bind()
                    .Ctx<ffi::ThreadPool>()
                    .RemainingArgs()
                    .RemainingRets()
                    .Attr<float>("epsilon"));
