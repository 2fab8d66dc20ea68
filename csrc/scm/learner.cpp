#include "learner.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "math.h"
#include "parallel.h"

namespace settx::scm {
namespace {

constexpr int64_t WIDTH = 32;  // columns that a thread takes at once

// Neighbouring columns of one dataset.
struct Stripe {
    int64_t dataset, first, width;
};

// A thread takes all stripes of a dataset, which share cache lines and pages, unless there are too few datasets.
template <class Work>
void for_each_stripe(int64_t datasets, int64_t columns, int num_threads, const Work& work) {
    const int64_t stripes = (columns + WIDTH - 1) / WIDTH;
    const auto work_on = [&](int thread, int64_t item) {
        const int64_t first = item % stripes * WIDTH;
        work(thread, Stripe{item / stripes, first, std::min(WIDTH, columns - first)});
    };
    parallel_for(datasets * stripes, num_threads, work_on, datasets < num_threads ? 1 : stripes);
}

bool is_number(float x) {
    return x == x;
}

struct Extremes {
    float low[WIDTH], high[WIDTH];
    uint32_t largest[WIDTH]{};  // bits of |x|: as whole numbers they are in order, ∞ and NaN last

    Extremes() {
        std::fill_n(low, WIDTH, std::numeric_limits<float>::infinity());
        std::fill_n(high, WIDTH, -std::numeric_limits<float>::infinity());
    }
    void compare(const float* x, int64_t width) {
        for (int64_t v = 0; v < width; ++v) {
            low[v] = x[v] < low[v] ? x[v] : low[v];
            high[v] = x[v] > high[v] ? x[v] : high[v];
        }
    }
    void measure(const float* x, const bool* is_missing, int64_t width) {
        for (int64_t v = 0; v < width; ++v) {
            const uint32_t size = is_missing != nullptr && is_missing[v] ? 0 : to_bits(x[v]) & 0x7FFFFFFFu;
            largest[v] = std::max(largest[v], size);
        }
    }
};

const float* row_of(const Drawn& d, int64_t b, int64_t r) {
    return d.values + (b * d.rows + (d.order == nullptr ? r : d.order[b * d.rows + r])) * d.variables;
}

// Rows of a stripe summed by halves, so that no bit depends on how many columns or threads there are. scratch
// (rows / 2, WIDTH).
template <class Term>
void sum_by_halves(const float* x, int64_t stride, int64_t rows, int64_t width, float* scratch, float* total,
                   const Term& term) {
    int64_t half = rows / 2;
    for (int64_t v = 0; v < width; ++v) total[v] = rows % 2 == 0 ? 0.0f : term(x[(rows - 1) * stride + v]);
    for (int64_t i = 0; i < half; ++i)
        for (int64_t v = 0; v < width; ++v)
            scratch[i * WIDTH + v] = term(x[i * stride + v]) + term(x[(i + half) * stride + v]);
    while (half > 1) {
        for (int64_t v = 0; v < width && half % 2 == 1; ++v) total[v] += scratch[(half - 1) * WIDTH + v];
        half /= 2;
        for (int64_t i = 0; i < half * WIDTH; ++i) scratch[i] += scratch[i + half * WIDTH];
    }
    for (int64_t v = 0; v < width; ++v) total[v] += scratch[v];
}

// Of `rows` rows of X, `train_size` of them to learn from.
struct Columns {
    int64_t rows, train_size, stride, width;
    float* X;

    template <class Change>
    void change(const Change& change) const {
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t v = 0; v < width; ++v) X[r * stride + v] = change(X[r * stride + v], v);
    }
    template <class Term>
    void sum(float* scratch, float* total, const Term& term) const {
        sum_by_halves(X, stride, train_size, width, scratch, total, term);
    }
};

void count_numbers(const Columns& c, float* count) {
    for (int64_t r = 0; r < c.train_size; ++r)
        for (int64_t v = 0; v < c.width; ++v) count[v] += is_number(c.X[r * c.stride + v]) ? 1.0f : 0.0f;
}

void standardise(const Columns& c, bool may_miss, float clip, float* scratch) {
    float count[WIDTH]{}, total[WIDTH], scale[WIDTH];
    if (may_miss)
        count_numbers(c, count);
    else
        std::fill_n(count, WIDTH, float(c.train_size));
    c.sum(scratch, total, [](float x) { return is_number(x) ? x : 0.0f; });
    for (int64_t v = 0; v < c.width; ++v) total[v] /= count[v];
    c.change([&](float x, int64_t v) { return x - total[v]; });
    c.sum(scratch, scale, [](float x) { return is_number(x) ? x * x : 0.0f; });
    for (int64_t v = 0; v < c.width; ++v) {
        const float variance = scale[v] / (count[v] - 1.0f);
        scale[v] = variance > 0.0f ? 1.0f / sqrt(variance) : 0.0f;
    }
    c.change([&](float x, int64_t v) { return canonical(settx::scm::clamp(x * scale[v], -clip, clip)); });
}

float whole(float t) {
    return (t + 12582912.0f) - 12582912.0f;
}

template <class Use>
void with_view(int64_t function, const Use& use) {
    switch (function) {
        case SIZE:
            return use([](float t) { return settx::scm::abs(t); });
        case SQUARED:
            return use([](float t) { return t * t; });
        case POSITIVE:
            return use([](float t) { return t > 0.0f ? t : 0.0f; });
        case ABOVE:
            return use([](float t) { return t > 0.0f ? 1.0f : 0.0f; });
        case REMAINDER:
            return use([](float t) { return t - whole(t); });
        case WHOLE:
            return use(whole);
    }
}

}  // namespace

void survey(const Drawn& d, float* low, float* high, bool* is_finite, int num_threads) {
    for_each_stripe(d.datasets, d.variables, num_threads, [&](int, const Stripe& s) {
        Extremes found;
        for (int64_t r = 0; r < d.rows; ++r) {
            const float* x = row_of(d, s.dataset, r) + s.first;
            if (r < d.train_size) found.compare(x, s.width);
            found.measure(x, d.is_missing == nullptr ? nullptr : d.is_missing + (x - d.values), s.width);
        }
        const int64_t at = s.dataset * d.variables + s.first;
        std::copy_n(found.low, s.width, low + at);
        std::copy_n(found.high, s.width, high + at);
        for (int64_t v = 0; v < s.width; ++v) is_finite[at + v] = found.largest[v] < 0x7F800000u;
    });
}

void show(const Drawn& d, const int64_t* columns, const int64_t* count, int64_t C, float clip, float* X,
          int num_threads) {
    const size_t floats = clip > 0.0f ? size_t(d.train_size / 2 * WIDTH) : 0;
    std::vector<std::vector<float>> scratch(static_cast<size_t>(num_threads), std::vector<float>(floats));
    for_each_stripe(d.datasets, C, num_threads, [&](int thread, const Stripe& s) {
        float* out = X + s.dataset * d.rows * C + s.first;
        const int64_t width = std::max(int64_t(0), std::min(s.width, count[s.dataset] - s.first));
        const int64_t* from = columns + s.dataset * C + s.first;
        for (int64_t r = 0; r < d.rows; ++r) {
            const float* x = row_of(d, s.dataset, r);
            for (int64_t v = 0; v < width; ++v) out[r * C + v] = x[from[v]];
            std::fill(out + r * C + width, out + r * C + s.width, 0.0f);
        }
        if (clip > 0.0f && width > 0)
            standardise({d.rows, d.train_size, C, width, out}, d.is_missing != nullptr, clip,
                        scratch[size_t(thread)].data());
    });
}

void view(const View& w, const float* u, float* X, bool* is_missing, int num_threads) {
    const int64_t C = w.columns;
    for_each_stripe(w.datasets, C, num_threads, [&](int, const Stripe& s) {
        for (int64_t v = s.first; v < s.first + s.width; ++v) {
            const float slope = w.slope[s.dataset * C + v], shift = w.shift[s.dataset * C + v];
            const int64_t first = s.dataset * w.rows * C + v, last = first + w.rows * C;
            with_view(w.function[s.dataset * C + v], [&](auto function) {
                for (int64_t i = first; i < last; i += C) {
                    const float t = u[i] * slope + shift;
                    X[i] = is_number(t) ? function(t) : from_bits(NAN_BITS);
                }
            });
            for (int64_t i = first; i < last && is_missing != nullptr; i += C) is_missing[i] = !is_number(X[i]);
        }
    });
}

void classify(const Cut& c, const float* x, const float* cuts, int64_t* classes, int64_t* counts, int num_threads) {
    parallel_for(c.datasets, num_threads, [&](int, int64_t b) {
        const float* const mine = cuts + b * c.cuts;
        int64_t* const counted = counts + b * (c.cuts + 1) * 2;
        const auto lies_below = [](float cut, float value) { return !(cut >= value); };
        for (int64_t r = 0; r < c.rows; ++r) {
            const int64_t found = std::lower_bound(mine, mine + c.cuts, x[b * c.rows + r], lies_below) - mine;
            classes[b * c.rows + r] = found;
            ++counted[2 * found + (r >= c.train_size)];
        }
    });
}

void recode(const Cut& c, const int64_t* code, int64_t* classes, int num_threads) {
    parallel_for(c.datasets, num_threads, [&](int, int64_t b) {
        for (int64_t r = 0; r < c.rows; ++r) classes[b * c.rows + r] = code[b * (c.cuts + 1) + classes[b * c.rows + r]];
    });
}

}  // namespace settx::scm
