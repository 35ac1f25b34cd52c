#include "recurformer/core/tensor.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <memory_resource>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "../support/error_message.hpp"
#include "../support/fake_device.hpp"
#include "recurformer/core/dtype.hpp"

namespace {

using rf::CountingMemory;
using rf::Dims;
using rf::dynamic;
using rf::Extents;
using rf::Tensor;
using rf::TensorView;
using rf::test::FakeDevice;

template <class From, class To>
constexpr bool implicit = std::is_convertible_v<From, To>;

// Views: const may be added, static extents forgotten; nothing else happens by itself.
using Fixed = Extents<2, 3>;
static_assert(implicit<TensorView<float, Fixed>, TensorView<const float, Fixed>>);
static_assert(implicit<TensorView<float, Fixed>, TensorView<float, Dims<2>>>);
static_assert(implicit<TensorView<float, Fixed>, TensorView<const float, Extents<2, dynamic>>>);
static_assert(!implicit<TensorView<const float, Fixed>, TensorView<float, Fixed>>);
static_assert(!std::is_constructible_v<TensorView<float>, TensorView<const float>>);
static_assert(!implicit<TensorView<float, Dims<2>>, TensorView<float, Fixed>>);
static_assert(std::is_constructible_v<TensorView<float, Fixed>, TensorView<float, Dims<2>>>);
static_assert(!std::is_constructible_v<TensorView<float, Dims<2>>, TensorView<float, Dims<3>>>);
static_assert(!std::is_constructible_v<TensorView<double>, TensorView<float>>);
static_assert(!std::is_constructible_v<TensorView<float>, TensorView<float, Dims<1>, FakeDevice>>);
static_assert(std::is_trivially_copyable_v<TensorView<float, Extents<2, dynamic>>>);

// What operations do to static extents.
using Matrix = TensorView<float, Fixed>;
static_assert(std::is_same_v<decltype(Matrix().sub(0)), TensorView<float, Extents<3>>>);
static_assert(std::is_same_v<decltype(Matrix().sub(0).sub(0)), TensorView<float, Extents<>>>);
static_assert(std::is_same_v<decltype(Matrix().transposed()), TensorView<float, Extents<3, 2>>>);
static_assert(std::is_same_v<decltype(Matrix().slice(0, 0, 1)), TensorView<float, Dims<2>>>);
static_assert(std::is_same_v<decltype(Matrix().transposed(0, 1)), TensorView<float, Dims<2>>>);
static_assert(std::is_same_v<decltype(Matrix().reshaped(Extents<6>())), TensorView<float, Extents<6>>>);
static_assert(
    std::is_same_v<decltype(TensorView(static_cast<float*>(nullptr), Fixed())), TensorView<float, Fixed>>);

// Tensors: moved, not copied; a constant tensor has constant elements.
static_assert(!std::is_copy_constructible_v<Tensor<float>> && !std::is_copy_assignable_v<Tensor<float>>);
static_assert(std::is_nothrow_move_constructible_v<Tensor<float>>);
static_assert(std::is_nothrow_move_assignable_v<Tensor<float>>);
static_assert(!implicit<Dims<1>, Tensor<float>>);
static_assert(implicit<Tensor<float, Fixed>&, TensorView<const float, Dims<2>>>);
static_assert(implicit<const Tensor<float, Fixed>&, TensorView<const float, Dims<2>>>);
static_assert(!implicit<const Tensor<float, Fixed>&, TensorView<float, Dims<2>>>);
static_assert(std::is_same_v<decltype(std::declval<const Tensor<float>&>()(0)), const float&>);
static_assert(rf::TensorLike<Tensor<float>> && rf::TensorLike<const Tensor<float>>);
static_assert(rf::TensorLike<TensorView<float>> && !rf::TensorLike<std::vector<float>>);

// A view works in constant expressions, too.
constexpr int constants[] = {0, 1, 2, 3, 4, 5};
constexpr TensorView constant_view(constants, Fixed());
static_assert(constant_view(1, 2) == 5 && constant_view.transposed()(2, 1) == 5);
static_assert(constant_view.sub(1)(0) == 3 && constant_view.sub(1).sub(1)() == 4);
static_assert(constant_view.slice(1, 1, 3)(1, 0) == 4);
static_assert(constant_view.reshaped(Extents<3, 2>())(2, 0) == 4);

/// Elements 0, 1, 2, … in row-major order.
template <class E>
Tensor<int, E> counting(const E& extents) {
  Tensor<int, E> out(extents);
  for (std::int64_t i = 0; i < out.size(); ++i) out.data()[i] = static_cast<int>(i);
  return out;
}

int total(TensorView<const int, Dims<2>> view) {
  int sum = 0;
  for (std::int64_t i = 0; i < view.extent(0); ++i)
    for (std::int64_t j = 0; j < view.extent(1); ++j) sum += view(i, j);
  return sum;
}

template <class Action>
std::string error(Action action) {
  return rf::test::message_of<rf::ArgumentError>([&] { (void)action(); });
}

}  // namespace

TEST_CASE("tensor: new ones are zeros, aligned, and take exactly their elements") {
  CountingMemory memory;
  for (const std::int64_t n : {1, 3, 16, 1000}) {
    Tensor<float, Extents<dynamic, 3>> t({n, 3}, &memory);
    CHECK(reinterpret_cast<std::uintptr_t>(t.data()) % rf::tensor_alignment == 0);
    CHECK(t.size() == n * 3);
    CHECK(t.bytes() == static_cast<std::size_t>(n) * 12);
    CHECK(memory.live_bytes() == static_cast<std::int64_t>(t.bytes()));
    CHECK(t.memory() == &memory);
    CHECK(t.extents() == Dims<2>(n, 3));
    bool all_zero = true;
    for (std::int64_t i = 0; i < t.size(); ++i) all_zero = all_zero && t.data()[i] == 0;
    CHECK(all_zero);
  }
  CHECK(memory.live_bytes() == 0);
  CHECK(memory.allocations() == 4);
}

TEST_CASE("tensor: uninitialised ones leave the memory as it is") {
  alignas(rf::tensor_alignment) std::byte buffer[256];
  std::memset(buffer, 0x5a, sizeof buffer);
  std::pmr::monotonic_buffer_resource memory(buffer, sizeof buffer, std::pmr::null_memory_resource());
  const auto t = Tensor<std::uint8_t>::uninitialised(10, &memory);
  CHECK(t(0) == 0x5a);
  CHECK(t(9) == 0x5a);
  Tensor<std::uint8_t> zeros(10, &memory);
  CHECK(zeros(0) == 0);
  CHECK(buffer[64 + 9] == std::byte{0});
  CHECK(buffer[64 + 10] == std::byte{0x5a});
}

TEST_CASE("tensor: shapes given in any way") {
  CHECK(Tensor<float>(5).size() == 5);
  CHECK(Tensor<float>({6}).size() == 6);
  CHECK(Tensor<float, Dims<2>>({2, 3}).size() == 6);
  CHECK(Tensor<float, Dims<2>>({2, 0}).size() == 0);
  CHECK(Tensor<float, Fixed>().size() == 6);
  CHECK(Tensor<float, Extents<4, dynamic>>({3}).extents() == Dims<2>(4, 3));
  CHECK(Tensor<float, Extents<4>>({4}).size() == 4);
  Tensor<rf::bf16, Extents<>> scalar;
  scalar() = rf::bf16(2.0f);
  CHECK(float(scalar.view()()) == 2.0f);
  CHECK(scalar.bytes() == 2);
}

TEST_CASE("tensor: empty ones allocate nothing") {
  CountingMemory memory;
  Tensor<float> none(0, &memory);
  Tensor<float, Dims<3>> nothing({4, 0, 5}, &memory);
  CHECK(none.data() == nullptr);
  CHECK(none.bytes() == 0);
  CHECK(nothing.view().sub(3).size() == 0);
  CHECK(nothing.view().slice(0, 2, 4).size() == 0);
  CHECK(nothing.view().slice(2, 5, 5).extents() == Dims<3>(4, 0, 0));
  CHECK(nothing.view().is_contiguous());
  CHECK(nothing.view().transposed(0, 2).is_contiguous());
  CHECK(nothing.view().reshaped(Dims<1>(0)).span().empty());
  CHECK(nothing.clone().size() == 0);
  CHECK(Tensor<float>().size() == 0);
  CHECK(memory.allocations() == 0);
}

TEST_CASE("tensor: moving takes the elements along, once") {
  CountingMemory memory;
  Tensor<int> a({3}, &memory);
  a(1) = 7;
  const int* elements = a.data();
  Tensor<int> b(std::move(a));
  CHECK(b.data() == elements);
  CHECK(b(1) == 7);
  Tensor<int> c({5}, &memory);
  c = std::move(b);
  CHECK(c.data() == elements);
  CHECK(c.size() == 3);
  CHECK(memory.live_bytes() == 3 * 4);
  a = Tensor<int>({2}, &memory);
  CHECK(a.size() == 2);
  auto& same = a;
  a = std::move(same);
  CHECK(a.size() == 2);
  std::vector<Tensor<int>> many;
  for (int i = 0; i < 10; ++i) many.emplace_back(i, &memory);
  CHECK(many[9].size() == 9);
  many.clear();
  CHECK(memory.live_bytes() == 5 * 4);
}

TEST_CASE("tensor: moving takes the memory resource along") {
  CountingMemory first, second;
  Tensor<int> a({3}, &first), b({5}, &second);
  a = std::move(b);
  CHECK(a.memory() == &second);
  CHECK(first.live_bytes() == 0);
  a = Tensor<int>();
  CHECK(second.live_bytes() == 0);
}

TEST_CASE("tensor: a clone is deep, in the same memory or another") {
  CountingMemory first, second;
  Tensor<int, Dims<2>> a({2, 2}, &first);
  a(1, 0) = 5;
  auto b = a.clone();
  auto c = a.clone(&second);
  a(1, 0) = 6;
  CHECK(b(1, 0) == 5);
  CHECK(c(1, 0) == 5);
  CHECK(c.extents() == a.extents());
  CHECK(first.live_bytes() == 2 * 16);
  CHECK(second.live_bytes() == 16);
}

TEST_CASE("tensor: what cannot be allocated is an error that names the shape") {
  const std::int64_t huge = std::int64_t{1} << 61;
  CHECK(error([&] { return Tensor<float>(huge); }) ==
        "a tensor of shape (2305843009213693952) does not fit the address space");
  CHECK(error([] {
          return Tensor<float, Dims<2>>({2, 3}, nullptr);
        }) == "a tensor of shape (2, 3) got no memory resource");
  CHECK_THROWS_AS(Tensor<float>(3, std::pmr::null_memory_resource()), std::bad_alloc);
}

TEST_CASE("tensor: device memory is reached through copies only, and those are of the space") {
  Tensor<int, Dims<2>, FakeDevice> a({2, 3});
  auto b = a.clone();
  CHECK(b.bytes() == 24);
  CHECK(b.data() != a.data());
  const TensorView<const int, Dims<2>, FakeDevice> view = b;
  CHECK(view.transposed().extents() == Dims<2>(3, 2));
  CHECK(view.sub(1).data() == b.data() + 3);
}

TEST_CASE("view: elements are where strides say") {
  auto t = counting(Dims<3>(2, 3, 4));
  const auto v = t.view();
  CHECK(v.strides() == std::array<std::int64_t, 3>{12, 4, 1});
  bool right = true;
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 3; ++j)
      for (int k = 0; k < 4; ++k) right = right && v(i, j, k) == 12 * i + 4 * j + k;
  CHECK(right);
  v(1, 2, 3) = -1;
  CHECK(t(1, 2, 3) == -1);
  // Every second column of a buffer, and one row repeated by a stride of 0.
  const TensorView<int, Dims<2>> columns(t.data(), {3, 2}, {4, 2});
  CHECK(columns(2, 1) == 10);
  CHECK(!columns.is_contiguous());
  const TensorView<int, Dims<2>> repeated(t.data(), {5, 3}, {0, 1});
  CHECK(repeated(4, 2) == 2);
}

TEST_CASE("view: sub, slice and transposed see the same elements") {
  auto t = counting(Extents<2, dynamic, 4>(3));
  const auto v = t.view();
  CHECK(v.sub(1).sub(2)(3) == t(1, 2, 3));
  CHECK(v.sub(1).extents() == Dims<2>(3, 4));
  const auto middle = v.slice(1, 1, 3).slice(2, 2, 3);
  CHECK(middle.extents() == Dims<3>(2, 2, 1));
  CHECK(middle(1, 1, 0) == t(1, 2, 2));
  CHECK(v.slice(0, 1, 1).size() == 0);
  CHECK(v.slice(1, 0, 3).extents() == v.extents());
  const auto swapped = v.transposed(0, 2);
  CHECK(swapped.extents() == Dims<3>(4, 3, 2));
  CHECK(swapped(3, 2, 1) == t(1, 2, 3));
  CHECK(swapped.transposed(2, 0)(1, 2, 3) == t(1, 2, 3));
  CHECK(v.transposed(1, 1)(1, 2, 3) == t(1, 2, 3));
  const auto matrix = v.sub(0);
  CHECK(matrix.transposed()(3, 2) == t(0, 2, 3));
  CHECK(matrix.transposed().transposed().is_contiguous());
}

TEST_CASE("view: contiguity") {
  auto t = counting(Dims<3>(2, 3, 4));
  const auto v = t.view();
  CHECK(v.is_contiguous());
  CHECK(v.sub(1).is_contiguous());
  CHECK(v.slice(0, 1, 2).is_contiguous());
  CHECK(!v.slice(1, 0, 2).is_contiguous());
  CHECK(v.slice(0, 0, 1).slice(1, 0, 2).is_contiguous());  // one block of whole rows
  CHECK(!v.slice(2, 0, 1).is_contiguous());
  CHECK(!v.transposed(0, 1).is_contiguous());
  CHECK(v.slice(1, 0, 1).transposed(1, 2).is_contiguous() == false);
  CHECK(v.slice(0, 0, 1).transposed(0, 1).is_contiguous());  // a dimension of one may stand anywhere
  CHECK(Tensor<int, Dims<2>>({3, 1}).view().transposed().is_contiguous());
}

TEST_CASE("view: reshaped and span") {
  auto t = counting(Dims<2>(3, 4));
  CHECK(t.view().reshaped(Extents<2, 6>())(1, 1) == 7);
  CHECK(t.view().reshaped(Extents(2, 3, 2))(1, 2, 1) == 11);
  CHECK(t.view().slice(0, 1, 3).reshaped(Dims<1>(8))(0) == 4);
  const auto row = t.view().sub(2).span();
  CHECK(std::vector<int>(row.begin(), row.end()) == std::vector<int>{8, 9, 10, 11});
  CHECK(t.view().span().size() == 12);
  const std::string not_contiguous = " is not contiguous; copy it to a tensor first (rf::copy)";
  CHECK(error([&] { return t.view().transposed().reshaped(Dims<1>(12)); }) ==
        "reshaped: a view of shape (4, 3) with strides (1, 4)" + not_contiguous);
  CHECK(error([&] { return t.view().transposed().sub(1).span(); }) ==
        "span: a view of shape (3) with strides (4)" + not_contiguous);
  CHECK(error([&] { return t.view().reshaped(Dims<2>(3, 5)); }) ==
        "reshaped: shape (3, 4) has 12 elements, shape (3, 5) has 15");
}

TEST_CASE("view: conversions keep pointer, shape and strides") {
  auto t = counting(Fixed());
  CHECK(total(t) == 15);
  CHECK(total(std::as_const(t)) == 15);
  CHECK(total(t.view().transposed()) == 15);
  CHECK(total(counting(Extents<2, dynamic>(2))) == 6);
  const TensorView<int, Dims<2>> dynamic_view = t.view().transposed();
  const TensorView<const int, Extents<3, 2>> fixed(dynamic_view);
  CHECK(fixed(2, 1) == 5);
  CHECK(error([&] { return TensorView<int, Extents<3, 4>>(dynamic_view); }) ==
        "extent 1 of shape (3, 2) is 2, but the type fixes it at 4");
  CHECK(TensorView<float>().size() == 0);
  CHECK(TensorView<float>().data() == nullptr);
}

TEST_CASE("view: dimensions and ranges are checked in every build") {
  auto t = counting(Dims<2>(3, 4));
  const auto v = t.view();
  CHECK(error([&] { return v.slice(1, 2, 5); }) ==
        "slice [2, 5) of dimension 1 of shape (3, 4); allowed: 0 <= begin <= end <= 4");
  CHECK_THROWS_AS(v.slice(0, -1, 2), rf::ArgumentError);
  CHECK_THROWS_AS(v.slice(0, 2, 1), rf::ArgumentError);
  CHECK(error([&] { return v.slice(2, 0, 1); }) == "dimension 2 of shape (3, 4); allowed: 0 to 1");
  CHECK_THROWS_AS(v.slice(-1, 0, 1), rf::ArgumentError);
  CHECK_THROWS_AS(v.transposed(0, 2), rf::ArgumentError);
  CHECK_THROWS_AS(v.transposed(-1, 0), rf::ArgumentError);
}
