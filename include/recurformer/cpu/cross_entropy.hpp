#ifndef RECURFORMER_CPU_CROSS_ENTROPY_HPP
#define RECURFORMER_CPU_CROSS_ENTROPY_HPP

// Next-token losses with their gradient in one call, and what evaluation reads off logits.
//
//   cross entropy   -log p[target],                     p = softmax(logits), q = softmax(teacher logits)
//   divergence      KL(q ‖ p) = Σ q · (log q - log p)
//   d_logits        gradient_scale · (cross_entropy_weight · (p - onehot(target)) + divergence_weight · (p -
//   q))
//
//   logits, teacher logits, d_logits  float (rows, vocabulary), row-major, dense
//   targets                           int32 (rows); ignored_target leaves the row out of everything
//
// Flow: rows are shared among threads. A row is read three times while it is in cache: its maximum; the sums
// over exponentials, which are left in d_logits; the gradient. Sums run in float over 64 vectors at a time
// and in double above that, and over rows in order: the bits do not depend on the number of threads.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "recurformer/core/config.hpp"
#include "recurformer/core/error.hpp"
#include "recurformer/core/parallel.hpp"
#include "recurformer/tile/simd.hpp"

namespace rf::cpu {

/// The target of a row that does not count.
inline constexpr std::int32_t ignored_target = -1;

/// What next_token_loss() works on; see the top of this file.
struct LossArguments {
  std::int64_t rows = 0;
  std::int64_t vocabulary = 0;
  const float* logits = nullptr;
  const std::int32_t* targets = nullptr;
  const float* teacher_logits = nullptr;  ///< or null: no divergence
  double cross_entropy_weight = 1;
  double divergence_weight = 0;
  float* d_logits = nullptr;  ///< null: losses only; may be `logits`. Ignored rows become zero
  double gradient_scale = 1;  ///< 1 / counted rows of the whole batch gives the gradient of the mean
};

/// Means over the counted rows, each term without its weight; 0 where no row counts.
struct Losses {
  double cross_entropy = 0;
  double divergence = 0;
  std::int64_t counted_rows = 0;
};

inline namespace RECURFORMER_ISA {

/// Number of rows whose target counts.
inline std::int64_t counted_rows(const std::int32_t* targets, std::int64_t rows) {
  return rows - std::count(targets, targets + rows, ignored_target);
}

namespace detail {

/// Largest element of a row.
inline float row_maximum(const float* row, std::int64_t size) {
  simd::Vec best = simd::broadcast(-std::numeric_limits<float>::infinity());
  simd::for_lanes(size, [&](std::int64_t i, auto n) {
    best = simd::max(best, simd::load_n(row + i, n, -std::numeric_limits<float>::infinity()));
  });
  return simd::reduce_max(best);
}

/// Calls body(first, count) for stretches short enough to sum in float.
template <class Body>
void for_stretches(std::int64_t size, Body&& body) {
  constexpr std::int64_t stretch = 64 * simd::width;
  for (std::int64_t first = 0; first < size; first += stretch) body(first, std::min(stretch, size - first));
}

/// Σ exp(row - maximum); where `exponentials` is not null the terms stay there (it may be the row).
inline double sum_exponentials(const float* row, float maximum, std::int64_t size, float* exponentials) {
  double total = 0;
  for_stretches(size, [&](std::int64_t first, std::int64_t count) {
    simd::Vec sum = simd::zero();
    simd::for_lanes(count, [&](std::int64_t i, auto n) {
      const simd::Vec in = simd::load_n(row + first + i, n, -std::numeric_limits<float>::infinity());
      const simd::Vec e = simd::exp(in - maximum);
      if (exponentials != nullptr) simd::store_n(exponentials + first + i, e, n);
      sum += e;
    });
    total += static_cast<double>(simd::reduce_add(sum));
  });
  return total;
}

/// Σ exp(teacher - maximum) and Σ exp(teacher - maximum) · (teacher - student).
struct TeacherSums {
  double exponentials = 0;
  double differences = 0;
};
inline TeacherSums sum_teacher(const float* teacher, float maximum, const float* student, std::int64_t size) {
  TeacherSums total;
  for_stretches(size, [&](std::int64_t first, std::int64_t count) {
    simd::Vec sum = simd::zero(), differences = simd::zero();
    simd::for_lanes(count, [&](std::int64_t i, auto n) {
      const simd::Vec in = simd::load_n(teacher + first + i, n, -std::numeric_limits<float>::infinity());
      const simd::Vec e = simd::exp(in - maximum);
      const simd::Vec product = e * (in - simd::load_n(student + first + i, n));
      sum += e;
      // A token the teacher excludes contributes nothing, whatever the student's logit (-inf included).
      differences += simd::select(e == 0.0f, simd::zero(), product);
    });
    total.exponentials += static_cast<double>(simd::reduce_add(sum));
    total.differences += static_cast<double>(simd::reduce_add(differences));
  });
  return total;
}

struct RowLoss {
  double cross_entropy = 0;
  double divergence = 0;
};

/// Losses and gradient of one counted row.
inline RowLoss row_loss(const LossArguments& arguments, std::int64_t r) {
  const std::int64_t size = arguments.vocabulary;
  const float* logits = arguments.logits + r * size;
  const float* teacher = arguments.teacher_logits == nullptr ? nullptr : arguments.teacher_logits + r * size;
  float* gradient = arguments.d_logits == nullptr ? nullptr : arguments.d_logits + r * size;
  const std::int32_t target = arguments.targets[r];
  const auto target_logit = static_cast<double>(logits[target]);
  const float maximum = row_maximum(logits, size);
  TeacherSums sums;
  float teacher_maximum = 0;
  if (teacher != nullptr) {  // before the exponentials may replace the logits
    teacher_maximum = row_maximum(teacher, size);
    sums = sum_teacher(teacher, teacher_maximum, logits, size);
  }
  const double exponentials = sum_exponentials(logits, maximum, size, gradient);
  const double log_sum = static_cast<double>(maximum) + std::log(exponentials);
  RowLoss loss{.cross_entropy = log_sum - target_logit};
  if (teacher != nullptr)
    loss.divergence = sums.differences / sums.exponentials + log_sum -
                      (static_cast<double>(teacher_maximum) + std::log(sums.exponentials));
  if (gradient == nullptr) return loss;

  const double weight = arguments.cross_entropy_weight + arguments.divergence_weight;
  const auto student_scale = static_cast<float>(arguments.gradient_scale * weight / exponentials);
  if (teacher == nullptr) {
    simd::for_lanes(size, [&](std::int64_t i, auto n) {
      simd::store_n(gradient + i, simd::load_n(gradient + i, n) * student_scale, n);
    });
  } else {
    const auto teacher_scale =
        static_cast<float>(arguments.gradient_scale * arguments.divergence_weight / sums.exponentials);
    simd::for_lanes(size, [&](std::int64_t i, auto n) {
      const simd::Vec q = simd::exp(simd::load_n(teacher + i, n) - teacher_maximum);
      simd::store_n(gradient + i, simd::load_n(gradient + i, n) * student_scale - q * teacher_scale, n);
    });
  }
  gradient[target] -= static_cast<float>(arguments.gradient_scale * arguments.cross_entropy_weight);
  return loss;
}

inline void check_targets(const std::int32_t* targets, std::int64_t rows, std::int64_t vocabulary) {
  for (std::int64_t r = 0; r < rows; ++r)
    check(targets[r] >= ignored_target && targets[r] < vocabulary, "target ", targets[r], " in row ", r,
          "; allowed: 0 to ", vocabulary - 1, ", or -1 to ignore the row");
}

/// Calls row(r) for every row, about 16 thousand logits per turn of a thread.
template <class Row>
void for_logit_rows(std::int64_t rows, std::int64_t vocabulary, Row&& row) {
  const std::int64_t block = std::max<std::int64_t>(1, 16384 / vocabulary);
  parallel_for((rows + block - 1) / block, [&](std::int64_t b) {
    for (std::int64_t r = b * block; r < std::min(rows, (b + 1) * block); ++r) row(r);
  });
}

}  // namespace detail

/// Mean cross entropy and divergence over the counted rows and, where d_logits is given, the gradient of
/// their weighted sum. rows >= 0, vocabulary >= 1. A target outside the vocabulary is an error.
inline Losses next_token_loss(const LossArguments& arguments) {
  check(arguments.rows >= 0 && arguments.vocabulary >= 1, "next_token_loss got ", arguments.rows,
        " rows and a vocabulary of ", arguments.vocabulary, "; allowed: 0 or more, and at least 1");
  check(arguments.teacher_logits != nullptr || arguments.divergence_weight == 0, "next_token_loss got a ",
        "divergence weight of ", arguments.divergence_weight, " but no teacher logits");
  detail::check_targets(arguments.targets, arguments.rows, arguments.vocabulary);
  std::vector<detail::RowLoss> row_losses(static_cast<std::size_t>(arguments.rows));
  detail::for_logit_rows(arguments.rows, arguments.vocabulary, [&](std::int64_t r) {
    if (arguments.targets[r] != ignored_target)
      row_losses[static_cast<std::size_t>(r)] = detail::row_loss(arguments, r);
    else if (arguments.d_logits != nullptr)
      std::fill_n(arguments.d_logits + r * arguments.vocabulary, arguments.vocabulary, 0.0f);
  });
  Losses mean{.counted_rows = counted_rows(arguments.targets, arguments.rows)};
  if (mean.counted_rows == 0) return mean;
  for (const auto& loss : row_losses) {
    mean.cross_entropy += loss.cross_entropy;
    mean.divergence += loss.divergence;
  }
  mean.cross_entropy /= static_cast<double>(mean.counted_rows);
  mean.divergence /= static_cast<double>(mean.counted_rows);
  return mean;
}

/// -log softmax(logits)[target] of every row into `out` (rows); 0 for ignored rows.
inline void negative_log_likelihoods(const float* logits, const std::int32_t* targets, std::int64_t rows,
                                     std::int64_t vocabulary, double* out) {
  check(rows >= 0 && vocabulary >= 1, "negative_log_likelihoods got ", rows, " rows and a vocabulary of ",
        vocabulary, "; allowed: 0 or more, and at least 1");
  detail::check_targets(targets, rows, vocabulary);
  const LossArguments arguments{.rows = rows, .vocabulary = vocabulary, .logits = logits, .targets = targets};
  detail::for_logit_rows(rows, vocabulary, [&](std::int64_t r) {
    out[r] = targets[r] == ignored_target ? 0.0 : detail::row_loss(arguments, r).cross_entropy;
  });
}

/// Index of the largest logit of every row into `out` (rows), the lowest among equals.
inline void argmax(const float* logits, std::int64_t rows, std::int64_t vocabulary, std::int32_t* out) {
  check(rows >= 0 && vocabulary >= 1 && vocabulary <= std::numeric_limits<std::int32_t>::max(), "argmax got ",
        rows, " rows and a vocabulary of ", vocabulary, "; allowed: 0 or more, and 1 to 2^31 - 1");
  detail::for_logit_rows(rows, vocabulary, [&](std::int64_t r) {
    const float* row = logits + r * vocabulary;
    float best = -std::numeric_limits<float>::infinity();
    std::int64_t best_first = 0, best_count = 1;
    detail::for_stretches(vocabulary, [&](std::int64_t first, std::int64_t count) {
      const float maximum = detail::row_maximum(row + first, count);
      if (maximum > best) best = maximum, best_first = first, best_count = count;
    });
    const float* stretch = row + best_first;
    const float* found = std::find(stretch, stretch + best_count, best);
    out[r] = static_cast<std::int32_t>(found == stretch + best_count ? 0 : found - row);
  });
}

}  // namespace RECURFORMER_ISA
}  // namespace rf::cpu

#endif  // RECURFORMER_CPU_CROSS_ENTROPY_HPP
