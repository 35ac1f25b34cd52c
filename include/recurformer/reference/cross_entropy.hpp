#ifndef RECURFORMER_REFERENCE_CROSS_ENTROPY_HPP
#define RECURFORMER_REFERENCE_CROSS_ENTROPY_HPP

// Losses of next-token prediction in double. Logits are row-major, (rows, vocabulary).
//
//   cross entropy   -log softmax(logits)[target]
//   divergence      KL(teacher ‖ student) = Σ p_teacher · (log p_teacher - log p_student)

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

namespace rf::reference {

/// log Σ exp of one row.
inline double log_sum_exp(std::span<const double> row) {
  double largest = row[0], sum = 0;
  for (const double x : row) largest = x > largest ? x : largest;
  for (const double x : row) sum += std::exp(x - largest);
  return largest + std::log(sum);
}

/// -log softmax(row)[target].
inline double negative_log_likelihood(std::span<const double> row, std::int32_t target) {
  return log_sum_exp(row) - row[static_cast<std::size_t>(target)];
}

/// KL(teacher ‖ student) of one row; a teacher probability of 0 contributes 0.
inline double divergence(std::span<const double> student, std::span<const double> teacher) {
  const double student_lse = log_sum_exp(student), teacher_lse = log_sum_exp(teacher);
  double sum = 0;
  for (std::size_t i = 0; i < student.size(); ++i) {
    const double p = std::exp(teacher[i] - teacher_lse);
    if (p > 0) sum += p * ((teacher[i] - teacher_lse) - (student[i] - student_lse));
  }
  return sum;
}

}  // namespace rf::reference

#endif  // RECURFORMER_REFERENCE_CROSS_ENTROPY_HPP
