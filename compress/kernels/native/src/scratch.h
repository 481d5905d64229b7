// Memory that grows to what its largest use needed; one of each thread.
#pragma once
#include <cstdint>
#include <cstdlib>

namespace compress_native {

class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  ~Scratch() { std::free(data_); }

  // At least `count` floats on a boundary of 64 bytes, or null where there is no memory.
  float* floats(int64_t count) {
    if (count > capacity_) {
      std::free(data_);
      capacity_ = (count + 15) / 16 * 16;
      data_ = std::aligned_alloc(64, size_t(capacity_) * sizeof(float));
      if (!data_) capacity_ = 0;
    }
    return static_cast<float*>(data_);
  }

 private:
  void* data_ = nullptr;
  int64_t capacity_ = 0;
};

}  // namespace compress_native
