// Entry points of compiled functions, which any version of XLA can load.

#ifndef ICM_JAX_KERNELS_CPU_HANDLER_H_
#define ICM_JAX_KERNELS_CPU_HANDLER_H_

#include <algorithm>

#include "xla/ffi/api/ffi.h"

namespace icm {

// Answers XLA's query of a handler's metadata, which precedes the first call,
// and passes everything else to the handler.
//
// XLA asks which version of its interface the handler was compiled against, and
// refuses a version newer than its own. The parts that these functions use
// (buffers, attributes, the thread pool) have not changed since version 0.1, so
// the answer is the older of both versions. Only fields of version 0.1 are
// written, because the record that XLA passes has the length of XLA's version.
inline XLA_FFI_Error* Answer(XLA_FFI_Handler* handler,
                             XLA_FFI_CallFrame* frame) {
  const auto* extension = frame->extension_start;
  if (extension == nullptr || extension->type != XLA_FFI_Extension_Metadata) {
    return handler(frame);
  }
  XLA_FFI_Metadata* metadata =
      reinterpret_cast<XLA_FFI_Metadata_Extension*>(frame->extension_start)
          ->metadata;
  // A query of version 0.1 does not say which version it is.
  const int theirs = frame->api ? frame->api->api_version.minor_version : 1;
  metadata->api_version = XLA_FFI_Api_Version{
      XLA_FFI_Api_Version_STRUCT_SIZE, /*extension_start=*/nullptr,
      XLA_FFI_API_MAJOR, std::min(XLA_FFI_API_MINOR, theirs)};
  metadata->traits = 0;
  return nullptr;
}

}  // namespace icm

// Defines the library's function `symbol`, which calls `implementation`.
#define ICM_DEFINE_CALL(symbol, implementation, binding)          \
  extern "C" XLA_FFI_Error* symbol(XLA_FFI_CallFrame* frame) {    \
    XLA_FFI_DEFINE_HANDLER(handler, implementation, binding);     \
    return icm::Answer(handler, frame);                           \
  }                                                               \
  static_assert(true, "a semicolon follows")

#endif  // ICM_JAX_KERNELS_CPU_HANDLER_H_
