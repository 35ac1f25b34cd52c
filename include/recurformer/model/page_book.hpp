#ifndef RECURFORMER_MODEL_PAGE_BOOK_HPP
#define RECURFORMER_MODEL_PAGE_BOOK_HPP

// Who uses which pages of a DeviceCache's pools. Pages are indices here; what they hold is the cache's.

#include <cstddef>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace rf {

namespace detail {

/// Which pages of the pools are in use, and by how many sequences and snapshots.
class PageBook {
 public:
  /// A page that nobody uses, now used once; none if all are in use.
  std::optional<int> take() {
    if (free_.empty()) return std::nullopt;
    const int page = free_.back();
    free_.pop_back();
    uses_[static_cast<std::size_t>(page)] = 1;
    return page;
  }
  void share(int page) { ++uses_[static_cast<std::size_t>(page)]; }
  void give_back(int page) {
    if (--uses_[static_cast<std::size_t>(page)] == 0) free_.push_back(page);
  }
  bool is_shared(int page) const { return uses_[static_cast<std::size_t>(page)] > 1; }
  int pages() const { return static_cast<int>(uses_.size()); }
  void grow(int pages) {
    for (int page = pages - 1; page >= this->pages(); --page) free_.push_back(page);
    uses_.resize(static_cast<std::size_t>(pages), 0);
  }

 private:
  std::vector<int> uses_;
  std::vector<int> free_;
};

/// The pages of one sequence, in the order of positions. Gives them back when it goes.
class PageList {
 public:
  explicit PageList(std::shared_ptr<PageBook> book) : book_(std::move(book)) {}
  PageList(const PageList& other) : book_(other.book_), pages_(other.pages_) {
    for (const int page : pages_) book_->share(page);
  }
  PageList(PageList&& other) noexcept : book_(other.book_), pages_(std::exchange(other.pages_, {})) {}
  PageList& operator=(PageList other) noexcept {
    std::swap(book_, other.book_);
    std::swap(pages_, other.pages_);
    return *this;
  }
  ~PageList() { shrink(0); }

  const std::vector<int>& pages() const { return pages_; }
  std::size_t size() const { return pages_.size(); }
  void append(int page) { pages_.push_back(page); }
  /// Puts `page`, taken for this, in the place of another one, which is given back.
  void replace(std::size_t index, int page) { book_->give_back(std::exchange(pages_[index], page)); }
  void shrink(std::size_t size) {
    for (; pages_.size() > size; pages_.pop_back()) book_->give_back(pages_.back());
  }

 private:
  std::shared_ptr<PageBook> book_;
  std::vector<int> pages_;
};

}  // namespace detail

}  // namespace rf

#endif  // RECURFORMER_MODEL_PAGE_BOOK_HPP
