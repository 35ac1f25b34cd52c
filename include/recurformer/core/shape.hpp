#ifndef RECURFORMER_CORE_SHAPE_HPP
#define RECURFORMER_CORE_SHAPE_HPP

// Extents of a tensor, each known at compile time or at run time (the conventions of std::mdspan's extents):
//   Extents<8, dynamic> e(n);   // shape (8, n); only n is stored
//   Dims<2> d(8, n);            // both at run time
// A shape converts implicitly to one that is static in fewer places; the other way is explicit and checked.

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <utility>

#include "recurformer/core/config.hpp"
#include "recurformer/core/error.hpp"

namespace rf {

/// In a list of static extents: this one is given at run time.
inline constexpr std::int64_t dynamic = -1;

/// "(2, 3)" for the sizes 2 and 3, "()" for none; of long shapes the first eight sizes.
inline std::string shape_text(const std::int64_t* sizes, int rank) {
  std::string out = "(";
  for (int i = 0; i < rank && i < 8; ++i) out += text(i == 0 ? "" : ", ", sizes[i]);
  if (rank > 8) out += text(", ... ", rank, " dimensions");
  return out + ")";
}

/// The same for sizes that are known at run time only.
inline std::string shape_text(std::span<const std::int64_t> sizes) {
  return shape_text(sizes.data(), static_cast<int>(sizes.size()));
}

/// The extents of a tensor of rank sizeof...(Sizes); every size is 0 or more, or `dynamic`. The number of
/// elements fits std::int64_t, also when empty dimensions are left out of the product.
template <std::int64_t... Sizes>
class Extents {
  static_assert(((Sizes >= 0 || Sizes == dynamic) && ...),
                "recurformer: a static extent is negative; use 0 or more, or rf::dynamic");

 public:
  RECURFORMER_HOST_DEVICE static constexpr int rank() { return static_cast<int>(sizeof...(Sizes)); }
  RECURFORMER_HOST_DEVICE static constexpr int rank_dynamic() { return (0 + ... + (Sizes == dynamic)); }
  /// The extent of dimension i in [0, rank) as the type knows it: a size, or `dynamic`.
  RECURFORMER_HOST_DEVICE static constexpr std::int64_t static_extent(int i) {
    std::int64_t out = 0;
    int position = 0;
    ((out = position++ == i ? Sizes : out), ...);
    return out;
  }

  /// Extents given at run time start at 0.
  constexpr Extents() = default;

  /// From all extents, or from those given at run time only. A negative extent, one that contradicts a static
  /// extent, or more elements than std::int64_t counts throw ArgumentError.
  template <std::integral... I>
  requires(sizeof...(I) > 0 &&
           (sizeof...(I) == sizeof...(Sizes) ||
            static_cast<int>(sizeof...(I)) == rank_dynamic())) constexpr Extents(I... sizes) {
    const std::int64_t given[] = {static_cast<std::int64_t>(sizes)...};
    if constexpr (sizeof...(I) == sizeof...(Sizes)) {
      set_all(given);
    } else {
      for (int i = 0; i < rank_dynamic(); ++i) sizes_[i] = given[i];
    }
    validate();
  }

  /// From another shape of the same rank. Explicit where an extent becomes static, since that is checked at
  /// run time (ArgumentError).
  template <std::int64_t... Others>
  requires(sizeof...(Others) == sizeof...(Sizes) && !std::same_as<Extents<Others...>, Extents>)  //
      constexpr explicit(((Sizes != dynamic && Others == dynamic) || ...))
          Extents(const Extents<Others...>& other) {
    static_assert(((Sizes == dynamic || Others == dynamic || Sizes == Others) && ...),
                  "recurformer: static extents differ");
    if constexpr (sizeof...(Sizes) > 0) {
      const auto given = other.array();
      set_all(given.data());
    }
  }

  /// From sizes known at run time only (a file's, say); the checks are those of the constructor.
  static constexpr Extents from_array(const std::array<std::int64_t, sizeof...(Sizes)>& sizes) {
    Extents out;
    out.set_all(sizes.data());
    out.validate();
    return out;
  }
  /// The same without checks, for sizes taken from a shape.
  static constexpr Extents from_valid(const std::array<std::int64_t, sizeof...(Sizes)>& sizes) {
    Extents out;
    out.set_all(sizes.data());
    return out;
  }

  /// The extent of dimension i in [0, rank).
  RECURFORMER_HOST_DEVICE constexpr std::int64_t extent(int i) const {
    if constexpr (rank_dynamic() == rank()) {
      return sizes_[i];
    } else {  // a chain of selections that folds away when i is a constant
      std::int64_t out = 0;
      int position = 0, slot = 0;
      ((out = position++ == i ? (Sizes == dynamic ? sizes_[slot] : Sizes) : out, slot += Sizes == dynamic),
       ...);
      return out;
    }
  }

  /// Number of elements: the product of the extents, 1 for rank 0.
  RECURFORMER_HOST_DEVICE constexpr std::int64_t size() const {
    std::int64_t out = 1;
    for (int i = 0; i < rank(); ++i) out *= extent(i);
    return out;
  }

  constexpr std::array<std::int64_t, sizeof...(Sizes)> array() const {
    std::array<std::int64_t, sizeof...(Sizes)> out{};
    for (int i = 0; i < rank(); ++i) out[static_cast<std::size_t>(i)] = extent(i);
    return out;
  }

 private:
  constexpr void set_all(const std::int64_t* given) {
    const std::int64_t fixed[] = {Sizes..., 0};  // one more, as an array cannot be empty
    int slot = 0;
    for (int i = 0; i < rank(); ++i) {
      if (fixed[i] == dynamic)
        sizes_[slot++] = given[i];
      else if (given[i] != fixed[i])
        throw ArgumentError(text("extent ", i, " of shape ", shape_text(given, rank()), " is ", given[i],
                                 ", but the type fixes it at ", fixed[i]));
    }
  }

  constexpr void validate() const {
    std::int64_t elements = 1;  // empty dimensions left out, so that the strides fit as well
    for (int i = 0; i < rank(); ++i) {
      if (extent(i) < 0)
        throw ArgumentError(text("extent ", i, " of shape ", shape_text(array().data(), rank()),
                                 " is negative; extents are 0 or more"));
      if (extent(i) == 0) continue;
      if (elements > std::numeric_limits<std::int64_t>::max() / extent(i))
        throw ArgumentError(
            text("shape ", shape_text(array().data(), rank()), " has more than 2^63 - 1 elements"));
      elements *= extent(i);
    }
  }

  // one slot at least, as an array cannot be empty
  std::int64_t sizes_[(std::size_t{0} + ... + (Sizes == dynamic)) + (((Sizes == dynamic) || ...) ? 0 : 1)] =
      {};
};

template <std::integral... I>
Extents(I...) -> Extents<(static_cast<void>(sizeof(I)), dynamic)...>;

namespace detail {

template <std::size_t... I>
Extents<(static_cast<void>(I), dynamic)...> dims_of(std::index_sequence<I...>);

template <class E>
struct DropFirst;
template <std::int64_t First, std::int64_t... Rest>
struct DropFirst<Extents<First, Rest...>> {
  using type = Extents<Rest...>;
};

}  // namespace detail

/// A shape of `Rank` extents, all given at run time.
template <int Rank>
using Dims = decltype(detail::dims_of(std::make_index_sequence<static_cast<std::size_t>(Rank)>{}));

/// Can shapes of these types be equal: the same rank, and no dimension with two different static extents?
template <class E, class F>
constexpr bool can_be_equal() {
  if constexpr (E::rank() != F::rank()) {
    return false;
  } else {
    for (int i = 0; i < E::rank(); ++i) {
      const std::int64_t a = E::static_extent(i), b = F::static_extent(i);
      if (a != dynamic && b != dynamic && a != b) return false;
    }
    return true;
  }
}

/// Equal ranks and equal extents, static or not.
template <std::int64_t... A, std::int64_t... B>
constexpr bool operator==(const Extents<A...>& a, const Extents<B...>& b) {
  if constexpr (sizeof...(A) != sizeof...(B)) {
    return false;
  } else {
    return a.array() == b.array();
  }
}

/// "(2, 3)".
template <std::int64_t... Sizes>
std::string to_text(const Extents<Sizes...>& extents) {
  return shape_text(extents.array().data(), extents.rank());
}

}  // namespace rf

#endif  // RECURFORMER_CORE_SHAPE_HPP
