#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

namespace settx::scm {

// Asked now and then by the thread that called parallel_for, whether to stop; nullptr: nobody can tell.
inline thread_local bool (*is_interrupted)() = nullptr;

// What parallel_for throws where it was told to stop, when no thread works any more.
struct Interrupted : std::exception {};

class Interruptions {
  public:
    bool happened() {
        const Clock::time_point now = Clock::now();
        if (is_interrupted == nullptr || now - asked_ < EVERY) return false;
        asked_ = now;
        return is_interrupted();
    }

  private:
    using Clock = std::chrono::steady_clock;
    static constexpr std::chrono::milliseconds EVERY{100};  // to ask takes the interpreter's lock
    Clock::time_point asked_ = Clock::now();
};

// Waits for threads wherever it is left, be it that this thread ends when it asks: see `without_lock`.
class Threads {
  public:
    explicit Threads(int most) { threads_.reserve(size_t(most)); }
    ~Threads() {
        for (std::thread& thread : threads_) thread.join();
    }
    Threads(const Threads&) = delete;
    Threads& operator=(const Threads&) = delete;

    template <class Run>
    void add(const Run& run, int number) {
        threads_.emplace_back(run, number);
    }

  private:
    std::vector<std::thread> threads_;
};

// Calls work(thread, item) for every item; work must not throw. A thread takes `at_once` neighbours: more than one
// where their results share cache lines.
template <class Work>
void parallel_for(int64_t items, int num_threads, const Work& work, int64_t at_once = 1) {
    std::atomic<int64_t> next{0};
    Interruptions interruptions;
    bool stopped = false;
    const auto run = [&](int thread) {
        for (int64_t first; (first = next.fetch_add(at_once, std::memory_order_relaxed)) < items;) {
            for (int64_t item = first; item < first + at_once && item < items; ++item) work(thread, item);
            if (thread == 0 && interruptions.happened()) {
                stopped = true;
                next.store(items, std::memory_order_relaxed);
            }
        }
    };
    {
        Threads threads(num_threads);
        try {
            for (int thread = 1; thread < num_threads && thread * at_once < items; ++thread) threads.add(run, thread);
        } catch (const std::exception&) {  // the system gives no more of them: those that there are do it all
        }
        run(0);
    }
    if (stopped) throw Interrupted{};
}

}  // namespace settx::scm
