#include "pool.h"

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <mutex>
#include <thread>
#include <vector>

namespace compress_native {
namespace {

// Parts are taken from a counter, since a thread may lose its core for a while. Which thread computes a row does not
// show in the row, so the result does not depend on it.
struct Task {
  Work work;
  const void* context;
  int64_t count, part;
  std::atomic<int64_t> next{0};

  void take() {
    for (int64_t begin; (begin = next.fetch_add(part)) < count;) {
      work(context, begin, begin + part < count ? begin + part : count);
    }
  }
};

OpenMp openmp = nullptr;

// std::condition_variable would tie the library to the C++ runtime of GCC 12, std::mutex::try_lock to glibc 2.34: a wheel
// runs with older ones.
class Condition {
 public:
  template <class Test>
  void wait(std::unique_lock<std::mutex>& lock, Test holds) {
    while (!holds()) pthread_cond_wait(&condition_, lock.mutex()->native_handle());
  }
  void notify_one() { pthread_cond_signal(&condition_); }
  void notify_all() { pthread_cond_broadcast(&condition_); }

 private:
  pthread_cond_t condition_ = PTHREAD_COND_INITIALIZER;
};

// Holds a flag from its creation to its end, if nobody else does.
class Claim {
 public:
  explicit Claim(std::atomic<bool>& flag) : flag_(flag), ours(!flag.exchange(true)) {}
  Claim(const Claim&) = delete;
  ~Claim() {
    if (ours) flag_ = false;
  }

 private:
  std::atomic<bool>& flag_;

 public:
  const bool ours;
};

class Pool {
 public:
  void run(Task& task, int threads) {
    const Claim claim(busy_);
    if (!claim.ours) return task.take();  // another thread of the program uses the pool: do it alone
    {
      std::lock_guard<std::mutex> lock(mutex_);
      while (int(workers_.size()) < threads - 1) workers_.emplace_back([this, i = workers_.size()] { serve(int(i)); });
      task_ = &task, wanted_ = threads - 1, running_ = threads - 1, ++round_;
    }
    start_.notify_all();
    task.take();
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return running_ == 0; });
  }

 private:
  [[noreturn]] void serve(int index) {
    uint64_t seen = 0;
    for (;;) {
      std::unique_lock<std::mutex> lock(mutex_);
      start_.wait(lock, [&] { return round_ != seen; });
      seen = round_;
      if (index >= wanted_) continue;
      Task* task = task_;
      lock.unlock();
      task->take();
      lock.lock();
      if (--running_ == 0) done_.notify_one();
    }
  }

  std::atomic<bool> busy_{false};
  std::mutex mutex_;
  Condition start_, done_;
  std::vector<std::thread> workers_;
  Task* task_ = nullptr;
  int wanted_ = 0, running_ = 0;
  uint64_t round_ = 0;
};

// The pool is never destroyed: its threads wait for work until the process ends. A forked child has none of them and
// starts with a new pool.
std::atomic<Pool*> pool{nullptr};
std::atomic<pid_t> owner{0};

Pool& own_pool() {
  if (owner.load() != getpid()) {
    static std::mutex making;
    std::lock_guard<std::mutex> lock(making);
    if (owner.load() != getpid()) {
      pool = new Pool;
      owner = getpid();
    }
  }
  return *pool;
}

void take(void* task) { static_cast<Task*>(task)->take(); }

}  // namespace

void use_openmp(OpenMp entry) { openmp = entry; }

void run(Work work, const void* context, int64_t count, int threads, int parts) {
  const int64_t part = count / (threads * parts) > 1 ? count / (threads * parts) : 1;
  Task task{work, context, count, part};
  if (threads > count) threads = int(count);
  if (threads <= 1) return task.take();
  if (openmp) return openmp(take, &task, unsigned(threads), 0);
  own_pool().run(task, threads);
}

}  // namespace compress_native
