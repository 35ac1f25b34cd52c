#include "recurformer/interop/dlpack.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "support/error_message.hpp"

namespace {

using rf::Dims;
using rf::DlpackTensor;
using rf::Tensor;
using rf::TensorView;
using rf::test::contains;
using rf::test::message_of;

/// A tensor as another framework makes one, by hand: float32 (2, 3) row-major on the CPU. Counts its
/// deleter's calls.
struct Foreign {
  std::array<float, 8> values = {0, 1, 2, 3, 4, 5, 6, 7};
  std::array<std::int64_t, 3> shape = {2, 3, 1};
  std::array<std::int64_t, 3> strides = {3, 1, 1};
  int deleted = 0;
  DLManagedTensor managed{};

  Foreign() {
    managed.dl_tensor.data = values.data();
    managed.dl_tensor.device = {kDLCPU, 0};
    managed.dl_tensor.ndim = 2;
    managed.dl_tensor.dtype = {kDLFloat, 32, 1};
    managed.dl_tensor.shape = shape.data();
    managed.dl_tensor.strides = strides.data();
    managed.manager_ctx = this;
    managed.deleter = [](DLManagedTensor* self) { ++static_cast<Foreign*>(self->manager_ctx)->deleted; };
  }
  DLTensor& tensor() { return managed.dl_tensor; }
};

using Matrix = DlpackTensor<float, Dims<2>>;

/// What importing says about a tensor after `change`; its deleter must not be called then.
template <class Imported = Matrix, class Change>
std::string refused(Change change) {
  Foreign foreign;
  change(foreign);
  const std::string message = message_of<rf::ArgumentError>([&] { Imported imported(&foreign.managed); });
  if (message != "no error") CHECK(foreign.deleted == 0);
  return message;
}

/// As much of a GPU as memory spaces need: number 3, whose memory is the host's.
struct FakeGpu {
  int device() const { return 3; }
  void* allocate(std::size_t bytes) { return std::aligned_alloc(256, (bytes + 255) / 256 * 256); }
  void deallocate(void* memory, std::size_t) { std::free(memory); }
  void zero(void* memory, std::size_t bytes) { std::memset(memory, 0, bytes); }
  void copy_to_device(void* to, const void* from, std::size_t bytes) { std::memcpy(to, from, bytes); }
  void copy_to_host(void* to, const void* from, std::size_t bytes) { std::memcpy(to, from, bytes); }
  void copy_on_device(void* to, const void* from, std::size_t bytes) { std::memcpy(to, from, bytes); }
  void synchronize() {}
};

template <class View>
concept Exportable = requires(const View& view) {
  rf::to_dlpack(view);
};
static_assert(Exportable<TensorView<float>> && !Exportable<TensorView<const float>>);
static_assert(std::is_nothrow_move_constructible_v<Matrix> && !std::is_copy_constructible_v<Matrix>);

}  // namespace

TEST_CASE("dlpack: an imported tensor is seen in place, and its deleter is called once") {
  Foreign foreign;
  {
    Matrix first(&foreign.managed);
    CHECK(first.view().data() == foreign.values.data());
    CHECK(first.view().extents() == Dims<2>(2, 3));
    CHECK(first.view()(1, 2) == 5);
    Matrix second = std::move(first);
    second.view()(0, 1) = 9;
    CHECK(foreign.deleted == 0);
  }
  CHECK(foreign.values[1] == 9);
  CHECK(foreign.deleted == 1);

  Foreign undeletable;
  undeletable.managed.deleter = nullptr;  // allowed where the memory needs no deleter
  CHECK(Matrix(&undeletable.managed).view()(1, 0) == 3);
}

TEST_CASE("dlpack: strides, none for row-major as older frameworks have it, byte offset, constant elements") {
  Foreign transposed;
  transposed.strides = {1, 2, 1};
  CHECK(Matrix(&transposed.managed).view()(1, 2) == 5);
  CHECK(Matrix(&transposed.managed).view()(0, 1) == 2);

  Foreign compact;
  compact.tensor().strides = nullptr;
  CHECK(Matrix(&compact.managed).view().strides() == std::array<std::int64_t, 2>{3, 1});

  Foreign repeated;
  repeated.strides = {0, 1, 1};
  CHECK(Matrix(&repeated.managed).view()(1, 2) == 2);

  Foreign shifted;
  shifted.tensor().byte_offset = 8;
  CHECK(DlpackTensor<const float, Dims<2>>(&shifted.managed).view()(0, 0) == 2);

  Foreign one_row;  // the stride of a dimension of extent 1 means nothing
  one_row.shape = {1, 3, 1};
  one_row.strides = {-7, 1, 1};
  CHECK(Matrix(&one_row.managed).view()(0, 2) == 2);

  Foreign scalar;
  scalar.tensor().ndim = 0;
  scalar.tensor().shape = scalar.tensor().strides = nullptr;
  CHECK(DlpackTensor<float, Dims<0>>(&scalar.managed).view()() == 0);

  Foreign empty;
  empty.shape = {0, 3, 1};
  empty.tensor().data = nullptr;
  CHECK(Matrix(&empty.managed).view().size() == 0);

  Foreign page_locked;
  page_locked.tensor().device.device_type = kDLCUDAHost;
  CHECK(Matrix(&page_locked.managed).view()(1, 1) == 4);

  Foreign fixed;
  CHECK(DlpackTensor<float, rf::Extents<rf::dynamic, 3>>(&fixed.managed).view()(1, 1) == 4);
}

TEST_CASE("dlpack: what does not fit is refused, with what was found and expected, and stays the caller's") {
  CHECK(refused([](Foreign&) {}) == "no error");
  CHECK(message_of<rf::ArgumentError>([] { Matrix imported(nullptr); }) ==
        "dlpack: there is no tensor: the pointer is null");
  CHECK(refused([](Foreign& f) { f.tensor().dtype.bits = 64; }) ==
        "dlpack: the elements are float64; expected float32");
  CHECK(refused([](Foreign& f) {
          f.tensor().dtype = {kDLBfloat, 16, 1};
        }) == "dlpack: the elements are bfloat16; expected float32");
  CHECK(refused([](Foreign& f) { f.tensor().dtype.lanes = 4; }) ==
        "dlpack: the elements are float32 in 4 lanes; expected float32");
  CHECK(refused([](Foreign& f) { f.tensor().dtype.code = 17; }) ==
        "dlpack: the elements are type code 17 of 32 bits; expected float32");
  CHECK(refused([](Foreign& f) {
          f.tensor().device = {kDLCUDA, 1};
        }) == "dlpack: the tensor is on CUDA device 1; expected CPU");
  CHECK(refused([](Foreign& f) {
          f.tensor().device = {kDLROCM, 2};
        }) == "dlpack: the tensor is on device type 10, number 2; expected CPU");
  CHECK(refused([](Foreign& f) { f.tensor().ndim = 3; }) ==
        "dlpack: the tensor has 3 dimensions; expected 2");
  CHECK(refused([](Foreign& f) { f.tensor().ndim = -1; }) ==
        "dlpack: the tensor has -1 dimensions; expected 2");
  CHECK(refused([](Foreign& f) { f.tensor().shape = nullptr; }) ==
        "dlpack: the tensor has 2 dimensions and no shape");
  CHECK(contains(refused([](Foreign& f) { f.shape[0] = -2; }), "is negative"));
  CHECK(contains(refused([](Foreign& f) {
                   f.shape = {std::int64_t{1} << 40, std::int64_t{1} << 40, 1};
                 }),
                 "more than 2^63 - 1 elements"));
  using FourColumns = DlpackTensor<float, rf::Extents<rf::dynamic, 4>>;
  CHECK(contains(refused<FourColumns>([](Foreign&) {}), "is 3, but the type fixes it at 4"));
  CHECK(
      refused([](Foreign& f) { f.strides[1] = -1; }) ==
      "dlpack: stride 1 of a tensor of shape (2, 3) is -1; expected 0 or more, within what memory can hold");
  const auto farthest = std::numeric_limits<std::int64_t>::max() / 4;
  CHECK(contains(refused([&](Foreign& f) { f.strides[0] = farthest; }), "stride 1"));
  CHECK(contains(refused([&](Foreign& f) { f.strides[0] = farthest + 1; }), "stride 0"));
  CHECK(refused([](Foreign& f) { f.tensor().data = nullptr; }) ==
        "dlpack: the tensor has 6 elements and no data");
  CHECK(refused([](Foreign& f) { f.tensor().byte_offset = 2; }) ==
        "dlpack: the first element (byte_offset 2) is not aligned; expected a multiple of 4 bytes");
}

TEST_CASE("dlpack: an exported tensor lives until its deleter is called, in whatever memory") {
  rf::CountingMemory memory;
  rf::Tensor<float, Dims<2>> tensor({2, 3}, &memory);
  tensor(1, 2) = 5;
  rf::DlpackPointer exported = rf::to_dlpack(std::move(tensor));
  CHECK(exported->dl_tensor.ndim == 2);
  CHECK(exported->dl_tensor.shape[1] == 3);
  CHECK(exported->dl_tensor.strides[0] == 3);
  CHECK(exported->dl_tensor.device.device_type == kDLCPU);
  CHECK(memory.live_bytes() == 24);
  {
    const Matrix imported(exported.release());
    CHECK(imported.view()(1, 2) == 5);
    CHECK(memory.live_bytes() == 24);
  }
  CHECK(memory.live_bytes() == 0);
}

TEST_CASE("dlpack: an exported view keeps its strides, and its owner if it is given one") {
  auto owner = std::make_shared<Tensor<float, Dims<2>>>(Dims<2>(2, 3));
  (*owner)(1, 2) = 5;
  rf::DlpackPointer exported = rf::to_dlpack(owner->view().transposed(), owner);
  CHECK(owner.use_count() == 2);
  CHECK(DlpackTensor<float, Dims<2>>(exported.release()).view()(2, 1) == 5);
  CHECK(owner.use_count() == 1);

  exported = rf::to_dlpack(owner->view().slice(1, 1, 3));  // borrowed
  CHECK(exported->dl_tensor.data == &(*owner)(0, 1));
  CHECK(owner.use_count() == 1);
}

TEST_CASE_TEMPLATE("dlpack: element types there and back", T, double, float, rf::bf16, rf::fp16, std::int64_t,
                   std::int32_t, std::int16_t, std::int8_t, std::uint8_t, bool) {
  Tensor<T> tensor({3});
  rf::DlpackPointer exported = rf::to_dlpack(std::move(tensor));
  CHECK(exported->dl_tensor.dtype.bits == 8 * sizeof(T));
  CHECK(exported->dl_tensor.dtype.lanes == 1);
  CHECK(DlpackTensor<T>(exported.release()).view().extent(0) == 3);
}

TEST_CASE("dlpack: types that C++ has two of 16 bits for, or two of 8, are told apart") {
  const auto code = [](rf::DType dtype) { return int{rf::dlpack_type(dtype).code}; };
  CHECK(code(rf::DType::F16) == kDLFloat);
  CHECK(code(rf::DType::BF16) == kDLBfloat);
  CHECK(code(rf::DType::I16) == kDLInt);
  CHECK(code(rf::DType::I8) == kDLInt);
  CHECK(code(rf::DType::U8) == kDLUInt);
  CHECK(code(rf::DType::BOOL) == 6);
}

TEST_CASE("dlpack: a tensor in a GPU's memory names that GPU, and is imported for no other") {
  FakeGpu gpu;
  rf::cuda::DeviceMemory<FakeGpu> memory(gpu);
  using Space = rf::cuda::DeviceSpace<FakeGpu>;
  const Space space(memory);
  Tensor<rf::bf16, Dims<2>, Space> tensor({2, 3}, &memory);
  const rf::bf16* const data = tensor.data();
  rf::DlpackPointer exported = rf::to_dlpack(std::move(tensor));
  CHECK(exported->dl_tensor.device.device_type == kDLCUDA);
  CHECK(exported->dl_tensor.device.device_id == 3);
  CHECK(message_of<rf::ArgumentError>([&] { DlpackTensor<rf::bf16, Dims<2>> host(exported.get()); }) ==
        "dlpack: the tensor is on CUDA device 3; expected CPU");
  CHECK(contains(
      message_of<rf::ArgumentError>([&] { DlpackTensor<rf::bf16, Dims<2>, Space> nowhere(exported.get()); }),
      "names no device"));
  exported->dl_tensor.device.device_id = 0;
  CHECK(message_of<rf::ArgumentError>([&] {
          DlpackTensor<rf::bf16, Dims<2>, Space> other(exported.get(), space);
        }) == "dlpack: the tensor is on CUDA device 0; expected CUDA device 3");
  exported->dl_tensor.device.device_id = 3;
  CHECK(DlpackTensor<rf::bf16, Dims<2>, Space>(exported.release(), space).view().data() == data);
}
