#pragma once
#include <atomic>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

namespace settx::scm {

// Calls work(thread, item) for every item; work must not throw. A thread takes `at_once` neighbours: more than one
// where their results share cache lines.
template <class Work>
void parallel_for(int64_t items, int num_threads, const Work& work, int64_t at_once = 1) {
    std::atomic<int64_t> next{0};
    const auto run = [&](int thread) {
        for (int64_t first; (first = next.fetch_add(at_once, std::memory_order_relaxed)) < items;)
            for (int64_t item = first; item < first + at_once && item < items; ++item) work(thread, item);
    };
    std::vector<std::thread> threads;
    threads.reserve(size_t(num_threads));
    try {
        for (int thread = 1; thread < num_threads && thread * at_once < items; ++thread)
            threads.emplace_back(run, thread);
    } catch (const std::exception&) {  // the system gives no more of them: those that there are do it all
    }
    run(0);
    for (std::thread& thread : threads) thread.join();
}

}  // namespace settx::scm
