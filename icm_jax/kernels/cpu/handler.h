// The entry points of compiled calls, which any version of XLA can load.

#ifndef ICM_JAX_KERNELS_CPU_HANDLER_H_
#define ICM_JAX_KERNELS_CPU_HANDLER_H_

#include <algorithm>

#include "xla/ffi/api/ffi.h"

namespace icm {

// Answers XLA's question about a handler, which comes before the first call;
// everything else goes to the handler.
//
// XLA asks which version of its interface the handler was compiled against, and
// refuses a newer one than its own. What these calls use (buffers, attributes,
// the thread pool) has been the same since version 0.1, so the answer is the
// older of both versions. Only fields that version 0.1 has are written: the
// record that XLA lends is as long as XLA's own version makes it.
inline XLA_FFI_Error* Answer(XLA_FFI_Handler* handler,
                             XLA_FFI_CallFrame* frame) {
  const auto* extension = frame->extension_start;
  if (extension == nullptr || extension->type != XLA_FFI_Extension_Metadata) {
    return handler(frame);
  }
  XLA_FFI_Metadata* metadata =
      reinterpret_cast<XLA_FFI_Metadata_Extension*>(frame->extension_start)
          ->metadata;
  // Version 0.1 does not say with its question which version it is.
  const int theirs = frame->api ? frame->api->api_version.minor_version : 1;
  metadata->api_version = XLA_FFI_Api_Version{
      XLA_FFI_Api_Version_STRUCT_SIZE, /*extension_start=*/nullptr,
      XLA_FFI_API_MAJOR, std::min(XLA_FFI_API_MINOR, theirs)};
  metadata->traits = 0;
  return nullptr;
}

}  // namespace icm

// Defines the function `symbol` of the library as a call of `implementation`.
#define ICM_DEFINE_CALL(symbol, implementation, binding)          \
  extern "C" XLA_FFI_Error* symbol(XLA_FFI_CallFrame* frame) {    \
    XLA_FFI_DEFINE_HANDLER(handler, implementation, binding);     \
    return icm::Answer(handler, frame);                           \
  }                                                               \
  static_assert(true, "a semicolon follows")

#endif  // ICM_JAX_KERNELS_CPU_HANDLER_H_
