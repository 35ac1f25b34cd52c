#ifndef RECURFORMER_CHECKPOINT_DEVICE_CACHE_FILE_HPP
#define RECURFORMER_CHECKPOINT_DEVICE_CACHE_FILE_HPP

// A device's cache in the file of checkpoint/cache_file.hpp, by way of a cache on the host: what one backend
// has saved another one loads, where the kinds of the runs agree.

#include <string>

#include "recurformer/checkpoint/cache_file.hpp"
#include "recurformer/model/device_cache_copy.hpp"

namespace rf {

/// Writes what the cache remembers. FileError if writing fails.
template <class Device>
void save_cache(const DeviceCache<Device>& cache, const std::string& path) {
  save_cache(copy_to_host(cache), path);
}

/// Replaces what the cache remembers by a file's content. FileError, saying what differs, as for a cache on
/// the host; the cache is then as before.
template <class Device>
void load_cache(DeviceCache<Device>& cache, const std::string& path) {
  Cache host(cache.layout(), cache.options());
  load_cache(host, path);
  copy_from_host(host, cache);
}

}  // namespace rf

#endif  // RECURFORMER_CHECKPOINT_DEVICE_CACHE_FILE_HPP
