#ifndef RECURFORMER_CORE_TENSOR_HPP
#define RECURFORMER_CORE_TENSOR_HPP

// Tensors and views of them.
//   Tensor<float, Dims<2>> t({3, 4});          // owns 12 floats, zeros, row-major, aligned to 64 bytes
//   TensorView<const float, Dims<2>> v = t;    // pointer + extents + strides; copying a view copies no
//   element v(1, 2);  v.sub(1);  v.slice(1, 0, 2);  v.transposed();  v.reshaped(Dims<1>(12));
// A view is as constant as its element type says, and is valid as long as the memory it points into. Strides
// count elements and may be anything; a tensor's are row-major. Elements are T as stored; operations on whole
// tensors are in core/tensor_ops.hpp.
//
// With RECURFORMER_BOUNDS_CHECK (debug builds) element access and sub() check every index and throw
// ArgumentError; everything else is always checked. Elements in a memory space that the host cannot reach are
// a compile-time error to access.

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <type_traits>
#include <utility>

#include "recurformer/core/config.hpp"
#include "recurformer/core/error.hpp"
#include "recurformer/core/memory.hpp"
#include "recurformer/core/shape.hpp"

namespace rf {

namespace detail {

[[noreturn]] inline void throw_index(int dimension, std::int64_t index, const std::int64_t* sizes, int rank) {
  throw ArgumentError(text("index ", index, " of dimension ", dimension, " is out of bounds: the extent is ",
                           sizes[dimension], " (shape ", shape_text(sizes, rank), ", indices count from 0)"));
}

template <class E>
constexpr auto row_major_strides(const E& extents) {
  std::array<std::int64_t, static_cast<std::size_t>(E::rank())> out{};
  std::int64_t stride = 1;
  for (int i = E::rank(); i-- > 0; stride *= extents.extent(i)) out[static_cast<std::size_t>(i)] = stride;
  return out;
}

}  // namespace detail

/// A window onto elements of type T (possibly const) that somebody else owns.
template <class T, class E = Dims<1>, class Space = HostSpace>
class TensorView {
 public:
  using element_type = T;
  using value_type = std::remove_cv_t<T>;
  using extents_type = E;
  using memory_space = Space;
  using Strides = std::array<std::int64_t, static_cast<std::size_t>(E::rank())>;

  /// Points at nothing.
  constexpr TensorView() = default;
  /// Row-major elements starting at data, which may be null if there are none.
  constexpr TensorView(T* data, const E& extents, const Space& space = {})
      : TensorView(data, extents, detail::row_major_strides(extents), space) {}
  /// Element (i, j, …) at data + i·strides[0] + j·strides[1] + ….
  constexpr TensorView(T* data, const E& extents, const Strides& strides, const Space& space = {})
      : data_(data), extents_(extents), strides_(strides), space_(space) {}
  /// Adds const, or turns static extents into dynamic ones. Explicit and checked where a dynamic extent
  /// becomes static.
  template <class U, class F>
  requires(std::is_convertible_v<U (*)[], T (*)[]>&& E::rank() == F::rank() &&
           !std::same_as<TensorView<U, F, Space>, TensorView>)  //
      constexpr explicit(!std::is_convertible_v<F, E>) TensorView(const TensorView<U, F, Space>& other)
      : TensorView(other.data(), E(other.extents()), other.strides(), other.space()) {}

  RECURFORMER_HOST_DEVICE static constexpr int rank() { return E::rank(); }
  RECURFORMER_HOST_DEVICE constexpr const E& extents() const { return extents_; }
  /// Dimensions are 0 to rank - 1, strides count elements.
  RECURFORMER_HOST_DEVICE constexpr std::int64_t extent(int dimension) const {
    return extents_.extent(dimension);
  }
  constexpr const Strides& strides() const { return strides_; }
  constexpr std::int64_t stride(int dimension) const { return strides_[static_cast<std::size_t>(dimension)]; }
  /// Number of elements.
  RECURFORMER_HOST_DEVICE constexpr std::int64_t size() const { return extents_.size(); }
  RECURFORMER_HOST_DEVICE constexpr T* data() const { return data_; }
  /// Which memory the elements are in.
  constexpr const Space& space() const { return space_; }

  /// Are the elements adjacent and in row-major order? Strides of dimensions of extent 1 do not matter.
  constexpr bool is_contiguous() const {
    std::int64_t expected = 1;
    bool contiguous = true;
    for (int i = rank(); i-- > 0; expected *= extent(i))
      contiguous = contiguous && (extent(i) == 1 || stride(i) == expected);
    return contiguous || size() == 0;
  }

  // Inlined always, so that files built with and without bounds checks never share one function.

  /// The element at the given indices, one per dimension.
  template <std::integral... I>
  requires(sizeof...(I) == static_cast<std::size_t>(E::rank()))  //
      [[gnu::always_inline]] constexpr T&
      operator()(I... indices) const {
    detail::require_host_access<Space>();
    std::int64_t offset = 0;
    int dimension = 0;
    ((offset += step(dimension, static_cast<std::int64_t>(indices)), ++dimension), ...);
    return data_[offset];
  }

  /// Element, row or sub-tensor i of the leading dimension.
  [[gnu::always_inline]] constexpr auto sub(std::int64_t i) const requires(E::rank() > 0) {
    using Rest = typename detail::DropFirst<E>::type;
    std::array<std::int64_t, static_cast<std::size_t>(E::rank() - 1)> sizes{}, strides{};
    for (std::size_t d = 0; d < sizes.size(); ++d) {
      sizes[d] = extent(static_cast<int>(d) + 1);
      strides[d] = strides_[d + 1];
    }
    return TensorView<T, Rest, Space>(data_ + step(0, i), Rest::from_valid(sizes), strides, space_);
  }

  /// Indices begin to end - 1 of one dimension; 0 <= begin <= end <= extent. The result's extents are
  /// dynamic.
  constexpr auto slice(int dimension, std::int64_t begin, std::int64_t end) const {
    check_dimension(dimension);
    if (begin < 0 || begin > end || end > extent(dimension)) [[unlikely]]
      throw ArgumentError(text("slice [", begin, ", ", end, ") of dimension ", dimension, " of shape ",
                               to_text(extents_), "; allowed: 0 <= begin <= end <= ", extent(dimension)));
    auto sizes = extents_.array();
    sizes[static_cast<std::size_t>(dimension)] = end - begin;
    const std::int64_t offset = size() == 0 ? 0 : begin * stride(dimension);  // null has no neighbours
    return TensorView<T, Dims<E::rank()>, Space>(data_ + offset, Dims<E::rank()>::from_valid(sizes), strides_,
                                                 space_);
  }

  /// The matrix with rows and columns exchanged.
  constexpr auto transposed() const requires(E::rank() == 2) {
    using Swapped = Extents<E::static_extent(1), E::static_extent(0)>;
    return TensorView<T, Swapped, Space>(data_, Swapped::from_valid({extent(1), extent(0)}),
                                         {stride(1), stride(0)}, space_);
  }
  /// Dimensions a and b exchanged. The result's extents are dynamic.
  constexpr auto transposed(int a, int b) const {
    check_dimension(a);
    check_dimension(b);
    auto sizes = extents_.array();
    auto strides = strides_;
    std::swap(sizes[static_cast<std::size_t>(a)], sizes[static_cast<std::size_t>(b)]);
    std::swap(strides[static_cast<std::size_t>(a)], strides[static_cast<std::size_t>(b)]);
    return TensorView<T, Dims<E::rank()>, Space>(data_, Dims<E::rank()>::from_valid(sizes), strides, space_);
  }

  /// The same elements in row-major order under another shape of as many elements. Contiguous views only.
  template <std::int64_t... Sizes>
  constexpr auto reshaped(const Extents<Sizes...>& shape) const {
    if (!is_contiguous()) [[unlikely]]
      throw ArgumentError(text("reshaped: a view of shape ", to_text(extents_), " with strides ",
                               shape_text(strides_.data(), rank()),
                               " is not contiguous; copy it to a tensor first (rf::copy)"));
    if (shape.size() != size()) [[unlikely]]
      throw ArgumentError(text("reshaped: shape ", to_text(extents_), " has ", size(), " elements, shape ",
                               to_text(shape), " has ", shape.size()));
    return TensorView<T, Extents<Sizes...>, Space>(data_, shape, space_);
  }

  /// All elements in row-major order. Contiguous views only.
  constexpr std::span<T> span() const {
    detail::require_host_access<Space>();
    if (!is_contiguous()) [[unlikely]]
      throw ArgumentError(text("span: a view of shape ", to_text(extents_), " with strides ",
                               shape_text(strides_.data(), rank()),
                               " is not contiguous; copy it to a tensor first (rf::copy)"));
    return {data_, static_cast<std::size_t>(size())};
  }

 private:
  [[gnu::always_inline]] constexpr std::int64_t step(int dimension, std::int64_t index) const {
    if constexpr (RECURFORMER_BOUNDS_CHECK != 0) {
      if (index < 0 || index >= extent(dimension)) [[unlikely]]
        detail::throw_index(dimension, index, extents_.array().data(), rank());
    }
    return index * stride(dimension);
  }
  constexpr void check_dimension(int dimension) const {
    if (dimension < 0 || dimension >= rank())
      throw ArgumentError(
          text("dimension ", dimension, " of shape ", to_text(extents_), "; allowed: 0 to ", rank() - 1));
  }

  T* data_ = nullptr;
  E extents_{};
  Strides strides_ = detail::row_major_strides(E{});
  [[no_unique_address]] Space space_{};
};

template <class T, std::int64_t... Sizes>
TensorView(T*, const Extents<Sizes...>&) -> TensorView<T, Extents<Sizes...>>;

/// Owns row-major elements, all zero unless made by uninitialised(). Moves; copies only by clone(), because a
/// copy of a weight or a cache is seldom meant. A moved-from tensor may only be assigned to or destroyed.
template <class T, class E = Dims<1>, class Space = HostSpace>
class Tensor {
  static_assert(std::is_trivially_copyable_v<T> && !std::is_const_v<T>,
                "recurformer: elements of a tensor are plain numbers, not const");
  static_assert(MemorySpace<Space>);

 public:
  using element_type = T;
  using value_type = T;
  using extents_type = E;
  using memory_space = Space;
  using Resource = typename Space::Resource;

  /// Static extents as the type says, dynamic ones 0.
  Tensor() : Tensor(E{}) {}
  /// Zeros. `memory` must outlive the tensor.
  explicit Tensor(const E& extents, Resource* memory = Space::default_memory())
      : Tensor(Uninitialised{}, extents, memory) {
    space().zero(data_, bytes());
  }
  /// The same for {n}, which would otherwise be as good a start for a tensor to move from.
  template <std::integral I>
  requires(E::rank() == 1 || E::rank_dynamic() == 1)  //
      explicit Tensor(const I (&size)[1], Resource* memory = Space::default_memory())
      : Tensor(E(size[0]), memory) {}
  /// Elements hold whatever the memory held; for outputs that are written in full.
  static Tensor uninitialised(const E& extents, Resource* memory = Space::default_memory()) {
    return Tensor(Uninitialised{}, extents, memory);
  }

  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;
  Tensor(Tensor&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        extents_(std::exchange(other.extents_, E{})),
        memory_(other.memory_) {}
  Tensor& operator=(Tensor&& other) noexcept {
    Tensor moved(std::move(other));
    std::swap(data_, moved.data_);
    std::swap(extents_, moved.extents_);
    std::swap(memory_, moved.memory_);
    return *this;
  }
  ~Tensor() {
    if (data_ != nullptr) memory_->deallocate(data_, bytes(), tensor_alignment);
  }

  /// A second tensor with the same elements, in the same memory resource or another one.
  Tensor clone() const { return clone(memory_); }
  Tensor clone(Resource* memory) const {
    Tensor out = uninitialised(extents_, memory);
    copy_bytes(out.space(), out.data_, space(), data_, bytes());
    return out;
  }

  static constexpr int rank() { return E::rank(); }
  const E& extents() const { return extents_; }
  std::int64_t extent(int dimension) const { return extents_.extent(dimension); }
  std::int64_t size() const { return extents_.size(); }
  /// Bytes allocated: exactly the elements.
  std::size_t bytes() const { return static_cast<std::size_t>(size()) * sizeof(T); }
  Resource* memory() const { return memory_; }
  /// Which memory the elements are in.
  Space space() const { return space_of<Space>(*memory_); }

  /// Aligned to tensor_alignment; null when there are no elements.
  T* data() { return data_; }
  const T* data() const { return data_; }

  TensorView<T, E, Space> view() { return {data_, extents_, space()}; }
  TensorView<const T, E, Space> view() const { return {data_, extents_, space()}; }
  /// To every view that view() converts to.
  template <class U, class F>
  requires std::is_convertible_v<TensorView<T, E, Space>, TensorView<U, F, Space>>
  operator TensorView<U, F, Space>() { return view(); }
  template <class U, class F>
  requires std::is_convertible_v<TensorView<const T, E, Space>, TensorView<U, F, Space>>
  operator TensorView<U, F, Space>() const { return view(); }

  template <std::integral... I>
  requires(sizeof...(I) == static_cast<std::size_t>(E::rank()))  //
      [[gnu::always_inline]] T&
      operator()(I... indices) {
    return view()(indices...);
  }
  template <std::integral... I>
  requires(sizeof...(I) == static_cast<std::size_t>(E::rank()))  //
      [[gnu::always_inline]] const T&
      operator()(I... indices) const {
    return view()(indices...);
  }

 private:
  struct Uninitialised {};
  Tensor(Uninitialised, const E& extents, Resource* memory) : extents_(extents), memory_(memory) {
    if (memory == nullptr)
      throw ArgumentError(text("a tensor of shape ", to_text(extents), " got no memory resource"));
    if (size() > std::numeric_limits<std::int64_t>::max() / static_cast<std::int64_t>(sizeof(T)))
      throw ArgumentError(text("a tensor of shape ", to_text(extents), " does not fit the address space"));
    if (size() != 0) data_ = static_cast<T*>(memory->allocate(bytes(), tensor_alignment));
  }

  T* data_ = nullptr;
  E extents_{};
  Resource* memory_ = nullptr;
};

/// The view of a tensor or a view: what operations on either begin with.
template <class T, class E, class Space>
constexpr TensorView<T, E, Space> as_view(const TensorView<T, E, Space>& view) {
  return view;
}
template <class T, class E, class Space>
TensorView<T, E, Space> as_view(Tensor<T, E, Space>& tensor) {
  return tensor.view();
}
template <class T, class E, class Space>
TensorView<const T, E, Space> as_view(const Tensor<T, E, Space>& tensor) {
  return tensor.view();
}

/// A tensor or a view.
template <class A>
concept TensorLike = requires(A& a) {
  as_view(a);
};

}  // namespace rf

#endif  // RECURFORMER_CORE_TENSOR_HPP
