// Proof that the quotient of tanh and the root of a normal's radius are rounded correctly on a device. The quotient:
// every number that can come is tried with every approximation of its reciprocal that the device may give. The root:
// its steps are the device's own, as cuda_arithmetic.py finds; every number that can come is in the range in which the
// device takes them, and rounded correctly where the approximation is the nearest. Prints what fails; exits with the
// count.
#include <atomic>
#include <cmath>
#include <cstdio>
#include <thread>

#include "scm/noise.h"
#include "scm/parallel.h"

namespace scm = settx::scm;

namespace {

// PTX promises 2⁻²³ for the reciprocal of a number in [1, 2), two units of the last place: a float within that is two
// from the nearest.
constexpr int REACH = 2;
constexpr int64_t CHUNK = 1 << 20;

// How many of the floats from first to last, or of every step-th, are wrong.
template <class IsWrong>
int64_t count_wrong(float first, float last, int64_t step, const IsWrong& is_wrong) {
    const int64_t low = scm::to_bits(first), count = (int64_t(scm::to_bits(last)) - low) / step + 1;
    std::atomic<int64_t> wrong{0};
    const int threads = int(std::thread::hardware_concurrency());
    scm::parallel_for((count + CHUNK - 1) / CHUNK, threads > 0 ? threads : 1, [&](int, int64_t chunk) {
        const int64_t end = std::min(count, (chunk + 1) * CHUNK);
        int32_t found = 0;
        for (int64_t i = chunk * CHUNK; i < end; ++i)
            found += is_wrong(scm::from_bits(uint32_t(low + i * step))) ? 1 : 0;
        wrong += found;
    });
    return wrong;
}

bool differ(float a, float b) {
    return scm::to_bits(a) != scm::to_bits(b);
}

// tanh is odd, and so is every step of its quotient; all numbers beyond 7.9 are one.
bool is_wrong_quotient(float x) {
    const scm::Fraction f = scm::fraction_of_tanh(x);
    const uint32_t nearest = scm::to_bits(1.0f / f.denominator);
    bool wrong = false;
    for (int off = -REACH; off <= REACH; ++off) {
        const float reciprocal = scm::from_bits(nearest + uint32_t(off));
        wrong |= differ(scm::refine_quotient(f.numerator, f.denominator, reciprocal), f.numerator / f.denominator);
    }
    return wrong;
}

bool is_wrong_root(float odd) {
    const float x = scm::square_of_radius(odd), safe = x > scm::LEAST_SQUARE ? x : scm::LEAST_SQUARE;
    return differ(scm::refine_root(x, float(1.0 / std::sqrt(double(safe)))), scm::sqrt(x));
}

// The device takes its steps from 2⁻¹⁰¹ on; 0 is taken for the least.
bool is_out_of_range(float odd) {
    const float x = scm::square_of_radius(odd);
    return !(x == 0.0f || (x >= scm::LEAST_SQUARE && x < 64.0f));
}

int report(const char* what, int64_t wrong) {
    if (wrong > 0) std::printf("FAILED: %s: %lld are not as they should be\n", what, static_cast<long long>(wrong));
    return wrong > 0;
}

}  // namespace

// Below it the denominator is 1, whose refined reciprocal is 1: nothing there depends on the numerator.
constexpr float SMALL = 1.220703125e-4f;   // 2⁻¹³
constexpr float MOST_ODD = 2147483648.0f;  // signed_odd of the largest word, rounded

int main() {
    const int failures =
        report("denominators of small numbers", scm::fraction_of_tanh(SMALL).denominator == 1.0f ? 0 : 1) +
        report("quotients of tanh of small numbers", count_wrong(0.0f, SMALL, 1021, is_wrong_quotient)) +
        report("quotients of tanh", count_wrong(SMALL, 7.9f, 1, is_wrong_quotient)) +
        report("roots of radii", count_wrong(1.0f, MOST_ODD, 1, is_wrong_root)) +
        report("ranges of radii", count_wrong(1.0f, MOST_ODD, 1, is_out_of_range));
    if (failures == 0) std::printf("every quotient and every root is rounded correctly\n");
    return failures;
}
