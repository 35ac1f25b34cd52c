#ifndef RECURFORMER_INTEROP_DLPACK_HPP
#define RECURFORMER_INTEROP_DLPACK_HPP

// DLPack: tensors to and from other frameworks, without a copy of their elements.
//   rf::DlpackPointer out = rf::to_dlpack(std::move(tensor));  // or of a view: the elements stay its owner's
//   PyCapsule_New(out.release(), "dltensor", …);               // whoever takes it calls its deleter, once
//   rf::DlpackTensor<float, rf::Dims<2>> in(managed);          // calls the deleter when it goes
//   layer.prefill(in.view(), cache);
// Needs <dlpack/dlpack.h> (Debian: libdlpack-dev), version 0.6 or newer. What is exchanged is
// DLManagedTensor; it cannot say that elements are constant, so constant views are not exported.
//
// DLPack knows no streams: elements on a GPU are those after everything that its owner put onto its stream.
// Whoever uses them on another stream waits for that one first.

#include <dlpack/dlpack.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "recurformer/core/dtype.hpp"
#include "recurformer/core/error.hpp"
#include "recurformer/core/memory.hpp"
#include "recurformer/core/tensor.hpp"
#include "recurformer/cuda/device_space.hpp"

namespace rf {

/// Where a space's memory is, in DLPack's terms. A memory space of your own needs an overload beside it.
inline DLDevice dlpack_device(HostSpace) { return {kDLCPU, 0}; }

namespace cuda {

/// A GPU with its number; the memory of a simulated device is the host's.
template <class Device>
DLDevice dlpack_device(const DeviceSpace<Device>& space) {
  check(space.device != nullptr, "dlpack: the memory space names no device; make it from a DeviceMemory");
  if constexpr (requires { space.device->device(); })
    return {kDLCUDA, space.device->device()};
  else
    return {kDLCPU, 0};
}

}  // namespace cuda

namespace detail {

inline constexpr std::uint8_t dlpack_bool = 6;  // kDLBool, which headers before 0.8 do not name

constexpr std::uint8_t dlpack_code(DType dtype) {
  switch (dtype) {
    case DType::F64:
    case DType::F32:
    case DType::F16:
      return kDLFloat;
    case DType::BF16:
      return kDLBfloat;
    case DType::U8:
      return kDLUInt;
    case DType::BOOL:
      return dlpack_bool;
    default:
      return kDLInt;
  }
}

/// "float32", "bool8", "int8 in 4 lanes".
inline std::string dlpack_text(const DLDataType& type) {
  constexpr std::array<std::string_view, 7> names = {"int",    "uint",    "float", "opaque",
                                                     "bfloat", "complex", "bool"};
  std::string out = type.code < names.size()
                        ? text(names[type.code], int{type.bits})
                        : text("type code ", int{type.code}, " of ", int{type.bits}, " bits");
  if (type.lanes != 1) out += text(" in ", type.lanes, " lanes");
  return out;
}

/// "CPU", "CUDA device 1".
inline std::string dlpack_text(const DLDevice& device) {
  if (device.device_type == kDLCPU) return "CPU";
  if (device.device_type == kDLCUDA) return text("CUDA device ", device.device_id);
  return text("device type ", static_cast<int>(device.device_type), ", number ", device.device_id);
}

}  // namespace detail

/// Elements of type `dtype` in DLPack's terms.
constexpr DLDataType dlpack_type(DType dtype) {
  return {detail::dlpack_code(dtype), static_cast<std::uint8_t>(8 * size_of(dtype)), 1};
}

namespace detail {

template <class T>
void check_dlpack_type(const DLTensor& tensor) {
  const DLDataType &found = tensor.dtype, expected = dlpack_type(dtype_of<std::remove_cv_t<T>>);
  check(found.code == expected.code && found.bits == expected.bits && found.lanes == 1,
        "dlpack: the elements are ", dlpack_text(found), "; expected ", dlpack_text(expected));
}

/// Host tensors may also be in page-locked memory, which is the host's.
template <class Space>
void check_dlpack_device(const DLTensor& tensor, const Space& space) {
  const DLDevice &found = tensor.device, expected = dlpack_device(space);
  const bool same = found.device_type == expected.device_type && found.device_id == expected.device_id;
  check(same || (expected.device_type == kDLCPU && found.device_type == kDLCUDAHost),
        "dlpack: the tensor is on ", dlpack_text(found), "; expected ", dlpack_text(expected));
}

template <class E>
E dlpack_extents(const DLTensor& tensor) {
  check(tensor.ndim == E::rank(), "dlpack: the tensor has ", tensor.ndim, " dimensions; expected ",
        E::rank());
  check(tensor.shape != nullptr || E::rank() == 0, "dlpack: the tensor has ", tensor.ndim,
        " dimensions and no shape");
  std::array<std::int64_t, static_cast<std::size_t>(E::rank())> sizes{};
  for (std::size_t d = 0; d < sizes.size(); ++d) sizes[d] = tensor.shape[d];
  return E::from_array(sizes);
}

/// The tensor's strides, or those of row-major elements where it has none.
template <class E>
auto dlpack_strides(const DLTensor& tensor, const E& extents, std::size_t element_bytes) {
  auto strides = row_major_strides(extents);
  for (std::size_t d = 0; tensor.strides != nullptr && d < strides.size(); ++d)
    strides[d] = tensor.strides[d];
  if (extents.size() == 0) return strides;
  // elements that a pointer can reach beyond the first
  std::int64_t reach = std::numeric_limits<std::int64_t>::max() / static_cast<std::int64_t>(element_bytes);
  for (std::size_t d = 0; d < strides.size(); ++d) {
    const std::int64_t steps = extents.extent(static_cast<int>(d)) - 1, stride = strides[d];
    if (steps == 0) continue;  // such strides mean nothing
    check(stride >= 0 && stride <= reach / steps, "dlpack: stride ", d, " of a tensor of shape ",
          to_text(extents), " is ", stride, "; expected 0 or more, within what memory can hold");
    reach -= steps * stride;
  }
  return strides;
}

template <class T>
T* dlpack_data(const DLTensor& tensor, std::int64_t elements) {
  auto* data = static_cast<std::byte*>(tensor.data);
  check(data != nullptr || elements == 0, "dlpack: the tensor has ", elements, " elements and no data");
  if (data == nullptr) return nullptr;
  data += tensor.byte_offset;
  check(reinterpret_cast<std::uintptr_t>(data) % alignof(T) == 0, "dlpack: the first element (byte_offset ",
        tensor.byte_offset, ") is not aligned; expected a multiple of ", alignof(T), " bytes");
  return reinterpret_cast<T*>(data);
}

}  // namespace detail

/// The elements of somebody else's tensor, which stays theirs; T may be const. ArgumentError, with what was
/// found and expected, unless its type, device and rank are those asked for, the static extents of E agree,
/// strides are 0 or more, and the first element is aligned.
template <class T, class E, class Space = HostSpace>
TensorView<T, E, Space> dlpack_view(const DLTensor& tensor, const Space& space = {}) {
  detail::check_dlpack_type<T>(tensor);
  detail::check_dlpack_device(tensor, space);
  const E extents = detail::dlpack_extents<E>(tensor);
  const auto strides = detail::dlpack_strides(tensor, extents, sizeof(T));
  return {detail::dlpack_data<T>(tensor, extents.size()), extents, strides, space};
}

struct DlpackDeleter {
  void operator()(DLManagedTensor* managed) const {
    if (managed->deleter != nullptr) managed->deleter(managed);
  }
};
/// A tensor on its way to another framework: release() hands it over, otherwise its deleter is called.
using DlpackPointer = std::unique_ptr<DLManagedTensor, DlpackDeleter>;

/// Another framework's tensor, owned: its deleter is called once, when this goes. T may be const. One that
/// was moved from may only be assigned to or destroyed.
template <class T, class E = Dims<1>, class Space = HostSpace>
class DlpackTensor {
 public:
  /// Takes `managed` over, unless it throws: then it remains the caller's. The errors are dlpack_view()'s.
  explicit DlpackTensor(DLManagedTensor* managed, const Space& space = {})
      : view_(dlpack_view<T, E, Space>(checked(managed).dl_tensor, space)), managed_(managed) {}

  /// Valid as long as this tensor.
  TensorView<T, E, Space> view() const { return view_; }

 private:
  static DLManagedTensor& checked(DLManagedTensor* managed) {
    check(managed != nullptr, "dlpack: there is no tensor: the pointer is null");
    return *managed;
  }

  TensorView<T, E, Space> view_;
  DlpackPointer managed_;
};

namespace detail {

/// What a DLManagedTensor of ours points to.
struct DlpackExport {
  DLManagedTensor managed{};
  std::vector<std::int64_t> shape, strides;
  std::shared_ptr<void> owner;
};

inline DlpackPointer export_dlpack(void* data, DType dtype, const DLDevice& device,
                                   std::span<const std::int64_t> shape, std::span<const std::int64_t> strides,
                                   std::shared_ptr<void> owner) {
  auto out = std::make_unique<DlpackExport>();
  out->shape.assign(shape.begin(), shape.end());
  out->strides.assign(strides.begin(), strides.end());
  out->owner = std::move(owner);
  DLTensor& tensor = out->managed.dl_tensor;
  tensor.data = data;
  tensor.device = device;
  tensor.ndim = static_cast<int>(shape.size());
  tensor.dtype = dlpack_type(dtype);
  tensor.shape = out->shape.data();
  tensor.strides = out->strides.data();
  out->managed.manager_ctx = out.get();
  out->managed.deleter = [](DLManagedTensor* self) { delete static_cast<DlpackExport*>(self->manager_ctx); };
  return DlpackPointer(&out.release()->managed);
}

}  // namespace detail

/// The elements of a view, with its strides. `owner` is kept until the deleter is called; without one, the
/// elements must live that long by other means.
template <class T, class E, class Space>
requires(!std::is_const_v<T>)  //
    DlpackPointer to_dlpack(const TensorView<T, E, Space>& view, std::shared_ptr<void> owner = {}) {
  const auto shape = view.extents().array();
  return detail::export_dlpack(view.data(), dtype_of<T>, dlpack_device(view.space()), shape, view.strides(),
                               std::move(owner));
}

/// A tensor, which lives until the deleter is called; its memory resource must live as long.
template <class T, class E, class Space>
DlpackPointer to_dlpack(Tensor<T, E, Space>&& tensor) {
  auto owner = std::make_shared<Tensor<T, E, Space>>(std::move(tensor));
  return to_dlpack(owner->view(), owner);
}

}  // namespace rf

#endif  // RECURFORMER_INTEROP_DLPACK_HPP
