#ifndef RECURFORMER_SPEC_MIXER_HPP
#define RECURFORMER_SPEC_MIXER_HPP

// A mixer is what a head computes along time. It is a small value type: template parameters decide which
// kernel is instantiated, data members (a window, say) are read at run time. It declares itself through
//
//   static constexpr std::string_view name;     in plans, e.g. "mamba"
//   static constexpr std::string_view module;   in tensor names, e.g. "mamba"; mixers with one module share
//                                               tensors
//   std::array<ParameterSpec, n> parameters(HeadShape) const;
//   std::array<CacheField, m> cache_fields(HeadShape) const;
//
// and, optionally, through run-time options that a plan may set:
//
//   static constexpr std::array<std::string_view, k> option_names;
//   std::int64_t& option(std::size_t index);    and its const twin
//
// and how C++ calls it, for plans that are written as headers (plan/emit_header.hpp):
//
//   static constexpr std::string_view header;   that defines it, e.g. "recurformer/spec/mamba.hpp"
//   std::string type_name() const;              with options and policies, e.g. "rf::Mamba<>"
//
// Its kernels are a specialisation of rf::cpu::MixerKernel, its definition one of
// rf::reference::MixerReference.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "recurformer/spec/cache_field.hpp"
#include "recurformer/spec/parameter.hpp"

namespace rf {

template <class M>
concept NamedMixer = requires {
  { M::name } -> std::convertible_to<std::string_view>;
  { M::module } -> std::convertible_to<std::string_view>;
};

template <class M>
concept MixerWithParameters = requires(const M mixer, HeadShape shape) {
  { mixer.parameters(shape)[0] } -> std::convertible_to<ParameterSpec>;
  mixer.parameters(shape).size();
};

template <class M>
concept MixerWithCache = requires(const M mixer, HeadShape shape) {
  { mixer.cache_fields(shape)[0] } -> std::convertible_to<CacheField>;
  mixer.cache_fields(shape).size();
};

template <class M>
concept Mixer = std::default_initializable<M> && std::copyable<M> && NamedMixer<M> &&
    MixerWithParameters<M> && MixerWithCache<M>;

/// A mixer with options that a plan may set at run time.
template <class M>
concept MixerWithOptions = requires(M mixer, const M constant, std::size_t i) {
  { M::option_names[i] } -> std::convertible_to<std::string_view>;
  { mixer.option(i) } -> std::same_as<std::int64_t&>;
  { constant.option(i) } -> std::convertible_to<std::int64_t>;
};

/// A mixer whose heads may be any is_mamba_width() wide, not only one of supported_d_head.
template <class M>
inline constexpr bool has_any_width = requires {
  requires M::any_width;
};

/// A mixer that an emitted header can name.
template <class M>
concept MixerWithTypeName = requires(const M mixer) {
  { M::header } -> std::convertible_to<std::string_view>;
  { mixer.type_name() } -> std::convertible_to<std::string>;
};

/// Columns of the run's projected activations that one KV group owns: the rows of all its projections.
template <Mixer M>
constexpr std::int64_t projection_width(const M& mixer, const HeadShape& shape) {
  std::int64_t rows = 0;
  for (const auto& parameter : mixer.parameters(shape))
    if (parameter.role == Role::projection) rows += parameter.group_rows(shape);
  return rows;
}

}  // namespace rf

#endif  // RECURFORMER_SPEC_MIXER_HPP
