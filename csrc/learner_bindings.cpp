// Steps of a learner's view that go over rows.
#include <pybind11/stl.h>

#include "bindings.h"
#include "interruptible.h"
#include "scm/learner.h"

namespace py = pybind11;

namespace settx {
namespace {

template <class T>
T* at(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

// B, R, V, train_size; values, is_missing, order of the rows, 0 where there is none.
using Drawn = std::tuple<std::array<int64_t, 4>, std::array<uintptr_t, 3>>;

scm::Drawn as_drawn(const Drawn& drawn) {
    const auto& [sizes, where] = drawn;
    return {sizes[0], sizes[1], sizes[2], sizes[3], at<float>(where[0]), at<bool>(where[1]), at<int64_t>(where[2])};
}

void survey(const Drawn& drawn, const std::array<uintptr_t, 3>& out, int num_threads) {
    run_interruptibly(
        [&] { scm::survey(as_drawn(drawn), at<float>(out[0]), at<float>(out[1]), at<bool>(out[2]), num_threads); });
}

void show(const Drawn& drawn, uintptr_t columns, uintptr_t count, int64_t C, float clip, uintptr_t X, int num_threads) {
    run_interruptibly([&] {
        scm::show(as_drawn(drawn), at<int64_t>(columns), at<int64_t>(count), C, clip, at<float>(X), num_threads);
    });
}

// B, R, C; function, slope, shift of every column; u, X, is_missing, which may be 0.
void view(const std::array<int64_t, 3>& sizes, const std::array<uintptr_t, 3>& views,
          const std::array<uintptr_t, 3>& columns, int num_threads) {
    run_interruptibly([&] {
        scm::view({sizes[0], sizes[1], sizes[2], at<int64_t>(views[0]), at<float>(views[1]), at<float>(views[2])},
                  at<float>(columns[0]), at<float>(columns[1]), at<bool>(columns[2]), num_threads);
    });
}

using Cut = std::array<int64_t, 4>;  // B, R, L, train_size

void classify(const Cut& c, uintptr_t x, uintptr_t cuts, uintptr_t classes, uintptr_t counts, int num_threads) {
    run_interruptibly([&] {
        scm::classify({c[0], c[1], c[2], c[3]}, at<float>(x), at<float>(cuts), at<int64_t>(classes),
                      at<int64_t>(counts), num_threads);
    });
}

void recode(const Cut& c, uintptr_t code, uintptr_t classes, int num_threads) {
    run_interruptibly(
        [&] { scm::recode({c[0], c[1], c[2], c[3]}, at<int64_t>(code), at<int64_t>(classes), num_threads); });
}

}  // namespace

void bind_learner(py::module_& m) {
    m.def("survey", &survey, "Extremes of columns over the rows to learn from, and which are finite.");
    m.def("show", &show, "Chosen columns, standardised if they are to be.");
    m.def("view", &view, "Functions of columns in place of some of them.");
    m.def("classify", &classify, "Classes of rows by cuts, and how many are in each.");
    m.def("recode", &recode, "Other codes for classes.");
}

}  // namespace settx
