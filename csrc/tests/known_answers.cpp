// Known answers of the sampler's arithmetic, on every path this machine runs. Prints what fails; exits with the count.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <vector>

#include "scm/noise.h"
#include "scm/paths.h"

namespace scm = settx::scm;

namespace {

int failures = 0;

void check(bool holds, const char* what, const char* where) {
    if (holds) return;
    std::printf("FAILED: %s (%s)\n", what, where);
    ++failures;
}

// Random123's published answers for philox4x32-10.
void test_philox() {
    const auto is = [](scm::Address counter, uint64_t seed, scm::Words want) {
        const scm::Words got = scm::philox(counter, seed);
        return std::memcmp(&got, &want, sizeof got) == 0;
    };
    const uint32_t ones = 0xFFFFFFFFu;
    check(is({0, 0, 0, 0}, 0, {0x6627E8D5u, 0xE169C58Du, 0xBC57AC4Cu, 0x9B00DBD8u}), "philox of zeros", "scalar");
    check(is({ones, ones, ones, ones}, ~uint64_t(0), {0x408F276Du, 0x41C83B0Eu, 0xA20BC7C6u, 0x6D5451FDu}),
          "philox of ones", "scalar");
    check(is({0x243F6A88u, 0x85A308D3u, 0x13198A2Eu, 0x03707344u}, 0x299F31D0A4093822u,
             {0xD16CFE09u, 0x94FDCCEBu, 0x5001E420u, 0x24126EA1u}),
          "philox of the digits of pi", "scalar");
}

// The lanes of a path are the scalar generator's words: row r has word r mod 64 div 16 of counter r div 64 · 16 + r
// mod 16.
void test_lanes(const scm::Path& path) {
    const uint64_t seed = 0x0123456789ABCDEFu, dataset = 0x123456789ABu;
    const int32_t variable = 77;
    std::vector<float> rows(256);
    path.fill_noise({scm::UNIFORM, {}, seed, int64_t(dataset), variable}, 0, 256, rows.data());
    bool same = true;
    for (uint32_t r = 0; r < 256; ++r) {
        scm::Address at = scm::address(dataset, 0, uint32_t(variable), scm::FOR_NOISE);
        at.block = r / 64 * 16 + r % 16;
        const scm::Words w = scm::philox(at, seed);
        const uint32_t words[4] = {w.w0, w.w1, w.w2, w.w3};
        same &= rows[r] == scm::uniform(words[r % 64 / 16]);
    }
    check(same, "lanes equal the scalar generator", path.name);
}

void test_functions(const scm::Path& path) {
    const float infinity = std::numeric_limits<float>::infinity();
    const auto is = [&](const char* function, float x, float want) {
        float got;
        return path.apply(function, &x, 1, &got) && std::memcmp(&got, &want, sizeof got) == 0;
    };
    check(is("log", 1.0f, 0.0f), "log 1 = 0", path.name);
    check(is("log", 2.0f, 0.693147182f), "log 2", path.name);
    check(is("exp", 0.0f, 1.0f), "exp 0 = 1", path.name);
    check(is("exp", 1.0f, 2.71828175f), "exp 1", path.name);
    check(is("exp", -infinity, 0.0f) && is("exp", infinity, infinity), "exp saturates", path.name);
    check(is("tanh", 0.0f, 0.0f) && is("tanh", 20.0f, 0.99999964f) && is("tanh", -20.0f, -0.99999964f), "tanh",
          path.name);
    check(is("sin", 0.0f, 0.0f), "sin 0 = 0", path.name);
    float ignored;
    check(!path.apply("abacus", &infinity, 1, &ignored), "unknown functions are refused", path.name);
}

uint64_t hash(const std::vector<float>& values) {
    uint64_t h = 14695981039346656037u;  // FNV-1a over words
    for (const float value : values) h = (h ^ scm::to_bits(value)) * 1099511628211u;
    return h;
}

// One million numbers of every noise have these bits on every path, on every machine.
void test_noise_bits(const scm::Path& path) {
    struct Answer {
        scm::NoiseKind kind;
        uint64_t hash;
        const char* name;
    };
    for (const Answer& answer :
         {Answer{scm::GAUSSIAN, 0x064F89E3B8045584u, "gaussian"}, Answer{scm::LAPLACE, 0x76DBA688830333FEu, "laplace"},
          Answer{scm::UNIFORM, 0xA296875A1B2290C8u, "uniform"},
          Answer{scm::STUDENT_T, 0x2D32D3B52DD0001Bu, "student_t"}}) {
        std::vector<float> values(1 << 20);
        path.fill_noise({answer.kind, {4.5f}, 42, 7, 3}, 0, int64_t(values.size()), values.data());
        const uint64_t got = hash(values);
        if (got != answer.hash) std::printf("%s: 0x%016lx\n", answer.name, static_cast<unsigned long>(got));
        check(got == answer.hash, answer.name, path.name);
    }
}

}  // namespace

int main() {
    test_philox();
    for (int i = 0; i < scm::num_paths(); ++i) {
        test_lanes(scm::path(i));
        test_functions(scm::path(i));
        test_noise_bits(scm::path(i));
    }
    if (failures == 0) std::printf("all known answers hold on %d paths\n", scm::num_paths());
    return failures;
}
