#ifndef RECURFORMER_CORE_TENSOR_OPS_HPP
#define RECURFORMER_CORE_TENSOR_OPS_HPP

// Operations on whole tensors or views of any strides:
//   fill(out, v)  copy(from, to)  cast<To>(a)  map(a, f, out)  zip(a, b, f, out)
//   reduce(a, initial, f)  sum(a)  max_abs(a)  matmul(a, b, out)  all_close(a, b)  to_text(a)
// Arguments are tensors or views; shapes must be equal, there is no broadcasting. Functions see bf16 and fp16
// elements as float and may return any number; results are rounded once to the output's element type.
// Elements are visited one after the other in row-major order on the calling thread, so results have the same
// bits every time. These are for set-up, tests and small things: the kernels made for speed are in cpu/ and
// cuda/ (products of matrices: cpu/gemm.hpp).

#include <charconv>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <string>
#include <string_view>
#include <type_traits>

#include "recurformer/core/config.hpp"
#include "recurformer/core/dtype.hpp"
#include "recurformer/core/error.hpp"
#include "recurformer/core/tensor.hpp"

namespace rf {

/// What counts as close: |a - b| <= absolute + relative·|b|.
struct Tolerance {
  double relative = 1e-5;
  double absolute = 1e-8;
};

/// How tensors are printed: digits of a number; a tensor of more than `threshold` elements shows the first
/// and last `edge` of each dimension.
struct TextOptions {
  int significant_digits = 6;
  std::int64_t edge = 3;
  std::int64_t threshold = 1000;
};

namespace detail {

/// How functions see an element.
template <class T>
using Wide = std::conditional_t<std::same_as<T, bf16> || std::same_as<T, fp16>, float, T>;
/// What sums of a tensor are kept in.
template <class T>
using Total = std::conditional_t<std::integral<T>, std::int64_t, double>;
/// What sums of products are kept in: double if there is one, then float, integers in 64 bits.
template <class A, class B>
using ProductSum =
    std::conditional_t<std::integral<A> && std::integral<B>, std::int64_t,
                       std::conditional_t<std::same_as<A, double> || std::same_as<B, double>, double, float>>;

template <class V>
using ValueOf = typename std::remove_cvref_t<V>::value_type;
template <class V>
using ExtentsOf = typename std::remove_cvref_t<V>::extents_type;

inline namespace RECURFORMER_ISA {

template <class T>
constexpr Wide<T> wide(T value) {
  return convert<Wide<T>>(value);
}

template <class A, class B>
void check_same_shape(std::string_view operation, const A& a, const B& b) {
  static_assert(A::rank() == B::rank(), "recurformer: ranks differ");
  static_assert(can_be_equal<ExtentsOf<A>, ExtentsOf<B>>(), "recurformer: static extents differ");
  if (!(a.extents() == b.extents())) [[unlikely]]
    throw ArgumentError(text(operation, ": shapes ", to_text(a.extents()), " and ", to_text(b.extents()),
                             " differ; they must be equal"));
}

template <class Out>
constexpr void require_writable(const Out&) {
  static_assert(!std::is_const_v<typename Out::element_type>, "recurformer: the output is read-only");
}

/// Calls f(element of first, element of others…) for views of equal shapes, row by row.
template <class F, class First, class... Others>
void each_strided(F& f, const First& first, const Others&... others) {
  if constexpr (First::rank() == 0) {
    f(first(), others()...);
  } else if constexpr (First::rank() == 1) {
    for (std::int64_t i = 0; i < first.extent(0); ++i) f(first(i), others(i)...);
  } else {
    for (std::int64_t i = 0; i < first.extent(0); ++i) each_strided(f, first.sub(i), others.sub(i)...);
  }
}

template <class F, class First, class... Others>
void each(F f, const First& first, const Others&... others) {
  (require_host_access<typename First::memory_space>(), ...,
   require_host_access<typename Others::memory_space>());
  if (first.is_contiguous() && (others.is_contiguous() && ...)) {  // one loop, which compilers vectorise
    const std::int64_t size = first.size();
    for (std::int64_t i = 0; i < size; ++i) f(first.data()[i], others.data()[i]...);
  } else {
    each_strided(f, first, others...);
  }
}

}  // namespace RECURFORMER_ISA
}  // namespace detail

inline namespace RECURFORMER_ISA {

/// Sets every element to `value`.
template <TensorLike Out, class Value>
void fill(Out&& out, Value value) {
  const auto to = as_view(out);
  using T = detail::ValueOf<decltype(to)>;
  detail::require_writable(to);
  detail::each([converted = convert<T>(value)](T& element) { element = converted; }, to);
}

/// Copies the elements of `from` to `to`, converting between element types. From and to other memory spaces,
/// both must be contiguous and of one element type. The two may not overlap, unless they are the same
/// elements.
template <TensorLike From, TensorLike To>
void copy(const From& from, To&& to) {
  const auto source = as_view(from);
  const auto target = as_view(to);
  using S = detail::ValueOf<decltype(source)>;
  using T = detail::ValueOf<decltype(target)>;
  using SourceSpace = typename decltype(source)::memory_space;
  using TargetSpace = typename decltype(target)::memory_space;
  constexpr bool on_host = SourceSpace::host_accessible && TargetSpace::host_accessible;
  detail::require_writable(target);
  detail::check_same_shape("copy", source, target);
  if constexpr (std::same_as<S, T>) {
    if (source.is_contiguous() && target.is_contiguous()) {
      copy_bytes(target.space(), target.data(), source.space(), source.data(),
                 static_cast<std::size_t>(source.size()) * sizeof(T));
      return;
    }
  }
  if constexpr (on_host) {
    detail::each([](const S& element, T& out) { out = convert<T>(element); }, source, target);
  } else {
    static_assert(
        std::same_as<S, T>,
        "recurformer: copying to or from device memory does not convert; cast on the host (rf::cast)");
    throw ArgumentError(
        text("copy: a view of shape ", to_text(source.extents()),
             " to or from device memory is not contiguous; make it so on the host (rf::copy)"));
  }
}

/// A new row-major tensor of the same shape with elements of type To.
template <class To, TensorLike A>
auto cast(const A& a, std::pmr::memory_resource* memory = default_memory()) {
  const auto from = as_view(a);
  auto out = Tensor<To, detail::ExtentsOf<decltype(from)>>::uninitialised(from.extents(), memory);
  copy(from, out);
  return out;
}

/// out = f(a), element by element; out may be a.
template <TensorLike A, class F, TensorLike Out>
void map(const A& a, F f, Out&& out) {
  const auto from = as_view(a);
  const auto to = as_view(out);
  using T = detail::ValueOf<decltype(to)>;
  detail::require_writable(to);
  detail::check_same_shape("map", from, to);
  detail::each([&f](const auto& x, T& y) { y = convert<T>(f(detail::wide(x))); }, from, to);
}

/// out = f(a, b), element by element; out may be a or b.
template <TensorLike A, TensorLike B, class F, TensorLike Out>
void zip(const A& a, const B& b, F f, Out&& out) {
  const auto left = as_view(a);
  const auto right = as_view(b);
  const auto to = as_view(out);
  using T = detail::ValueOf<decltype(to)>;
  detail::require_writable(to);
  detail::check_same_shape("zip", left, right);
  detail::check_same_shape("zip", left, to);
  detail::each(
      [&f](const auto& x, const auto& y, T& z) { z = convert<T>(f(detail::wide(x), detail::wide(y))); }, left,
      right, to);
}

/// f(… f(f(initial, first element), second element) …) in row-major order.
template <TensorLike A, class Result, class F>
Result reduce(const A& a, Result initial, F f) {
  detail::each([&](const auto& x) { initial = f(initial, detail::wide(x)); }, as_view(a));
  return initial;
}

/// Sum of all elements, in double (std::int64_t for integers); 0 for none.
template <TensorLike A>
auto sum(const A& a) {
  using Total = detail::Total<detail::ValueOf<decltype(as_view(a))>>;
  return reduce(a, Total{0}, [](Total total, auto x) { return total + static_cast<Total>(x); });
}

/// Largest absolute value; 0 for no elements, NaN if any element is NaN.
template <TensorLike A>
double max_abs(const A& a) {
  return reduce(a, 0.0, [](double largest, auto x) {
    const double size = std::abs(static_cast<double>(x));
    return size > largest || std::isnan(size) ? size : largest;  // once NaN, no comparison is true
  });
}

/// out (m, n) = a (m, k) · b (k, n), each sum over k in order, in float (double if a or b is, 64 bits for
/// integers). Simple loops over blocks of 64 columns, for small things; cpu/gemm.hpp has the kernels for
/// speed. out may overlap neither a nor b.
template <TensorLike A, TensorLike B, TensorLike Out>
void matmul(const A& a, const B& b, Out&& out) {
  const auto left = as_view(a);
  const auto right = as_view(b);
  const auto to = as_view(out);
  detail::require_writable(to);
  static_assert(left.rank() == 2 && right.rank() == 2 && to.rank() == 2,
                "recurformer: matmul multiplies matrices");
  using LeftE = detail::ExtentsOf<decltype(left)>;
  using RightE = detail::ExtentsOf<decltype(right)>;
  static_assert(can_be_equal<Extents<LeftE::static_extent(1)>, Extents<RightE::static_extent(0)>>() &&
                    can_be_equal<Extents<LeftE::static_extent(0), RightE::static_extent(1)>,
                                 detail::ExtentsOf<decltype(to)>>(),
                "recurformer: static extents differ; matmul is (m, k) times (k, n) into (m, n)");
  using T = detail::ValueOf<decltype(to)>;
  using Sum = detail::ProductSum<detail::ValueOf<decltype(left)>, detail::ValueOf<decltype(right)>>;
  const std::int64_t m = left.extent(0), depth = left.extent(1), n = right.extent(1);
  if (right.extent(0) != depth || to.extent(0) != m || to.extent(1) != n)
    throw ArgumentError(text("matmul: ", to_text(left.extents()), " times ", to_text(right.extents()),
                             " into ", to_text(to.extents()), "; allowed: (m, k) times (k, n) into (m, n)"));
  constexpr std::int64_t block = 64;
  for (std::int64_t first = 0; first < n; first += block) {
    const std::int64_t columns = n - first < block ? n - first : block;
    for (std::int64_t i = 0; i < m; ++i) {
      Sum total[block] = {};
      for (std::int64_t k = 0; k < depth; ++k) {
        const Sum x = convert<Sum>(left(i, k));
        for (std::int64_t j = 0; j < columns; ++j) total[j] += x * convert<Sum>(right(k, first + j));
      }
      for (std::int64_t j = 0; j < columns; ++j) to(i, first + j) = convert<T>(total[j]);
    }
  }
}

/// Is every element of a close to that of b? NaN is close to nothing, an infinity to itself only.
template <TensorLike A, TensorLike B>
bool all_close(const A& a, const B& b, Tolerance tolerance = {}) {
  const auto left = as_view(a);
  const auto right = as_view(b);
  detail::check_same_shape("all_close", left, right);
  bool close = true;
  detail::each(
      [&](const auto& p, const auto& q) {
        const auto x = convert<double>(p), y = convert<double>(q);
        const double allowed = tolerance.absolute + tolerance.relative * std::abs(y);
        close = close && (x == y || (std::isfinite(y) && std::abs(x - y) <= allowed));
      },
      left, right);
  return close;
}

}  // namespace RECURFORMER_ISA

namespace detail {

/// Writes a tensor the way NumPy prints arrays; a first pass finds the width of the widest number.
struct TensorText {
  TextOptions options;
  bool abbreviate = false;
  std::size_t width = 0;
  std::string out{};

  template <class T>
  void number(T value) {
    char buffer[64];
    char* end = buffer;
    if constexpr (std::same_as<T, bool>) {
      end = std::to_chars(buffer, buffer + sizeof buffer, value ? 1 : 0).ptr;
    } else if constexpr (std::integral<T>) {
      end = std::to_chars(buffer, buffer + sizeof buffer, std::int64_t{value}).ptr;
    } else {
      end = std::to_chars(buffer, buffer + sizeof buffer, convert<double>(value), std::chars_format::general,
                          options.significant_digits)
                .ptr;
    }
    const auto length = static_cast<std::size_t>(end - buffer);
    if (length < width) out.append(width - length, ' ');
    out.append(buffer, length);
    width = length > width ? length : width;
  }

  template <class V>
  void brackets(const V& view, int depth) {
    if constexpr (V::rank() == 0) {
      number(view());
    } else {
      const std::int64_t extent = view.extent(0);
      const bool gap = abbreviate && extent > 2 * options.edge;
      out += '[';
      for (std::int64_t i = 0; i < extent; ++i) {
        if (i > 0) separator(V::rank(), depth);
        if (gap && i == options.edge) {
          out += "...";
          separator(V::rank(), depth);
          i = extent - options.edge;
        }
        brackets(view.sub(i), depth + 1);
      }
      out += ']';
    }
  }

  void separator(int rank, int depth) {
    if (rank == 1) {
      out += ' ';
    } else {
      out.append(static_cast<std::size_t>(rank - 1), '\n');
      out.append(static_cast<std::size_t>(depth + 1), ' ');
    }
  }
};

}  // namespace detail

/// The elements as text, nested in brackets and in columns like NumPy's.
template <TensorLike A>
std::string to_text(const A& a, TextOptions options = {}) {
  check(options.significant_digits >= 1 && options.significant_digits <= 20,
        "to_text: significant_digits is ", options.significant_digits, "; allowed: 1 to 20");
  check(options.edge >= 1, "to_text: edge is ", options.edge, "; allowed: 1 or more");
  const auto view = as_view(a);
  detail::TensorText writer{.options = options, .abbreviate = view.size() > options.threshold};
  writer.brackets(view, 0);
  writer.out.clear();
  writer.brackets(view, 0);
  return writer.out;
}

}  // namespace rf

#endif  // RECURFORMER_CORE_TENSOR_OPS_HPP
