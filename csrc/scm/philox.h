// Philox4x32-10: Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
#pragma once
#include <cstdint>

// SETTX_FN, SETTX_METHOD: part of the caller. SETTX_CALL: a call, which keeps the device's compiler to seconds.
#ifdef __CUDACC__
#define SETTX_FN __host__ __device__ __forceinline__
#define SETTX_METHOD __host__ __device__ __forceinline__
#define SETTX_CALL __host__ __device__ __noinline__
#else
#define SETTX_FN static inline __attribute__((always_inline))
#define SETTX_METHOD inline __attribute__((always_inline))
#define SETTX_CALL
#endif

namespace settx::scm {

// What a random word is for. The numbers are part of the stream: they never change.
enum Purpose : uint32_t {
    FOR_NOISE = 0,  // and 1: the second word of noises that need two
    FOR_PILOT = 2,  // and 3: the noise of the pilot rows
    FOR_SIZES = 8,
    FOR_ORDER = 9,
    FOR_EDGES = 10,
    FOR_TARGET = 11,
    FOR_WEIGHT = 12,
    FOR_BIAS = 13,
    FOR_NOISE_SCALE = 14,
    FOR_NOISE_KIND = 15,
    FOR_MECHANISM = 16,
    FOR_PARAMETERS = 17,
    FOR_INTERVENTION = 18,
    FOR_PLACE = 19,
    FOR_NOISE_EFFECT = 20,
    FOR_REMOVAL = 21,
    FOR_OBSERVATION = 22,
    FOR_ACCEPTANCE = 23,
    FOR_ERROR = 24,
    FOR_LOSS = 25,
    FOR_PILOT_ERROR = 26,
    FOR_TARGET_SHARE = 27,
    FOR_SHIFTS = 28,   // what a dataset draws once for all shifts
    FOR_MUTABLE = 29,  // which parts of a variable move, and how strongly
    FOR_MOVE = 30,     // where to, in an environment
    FOR_MOVED_WEIGHT = 31,
    FOR_ROW_WEIGHT = 32,
    FOR_SAME_MECHANISM = 33,
};

// Where in the stream a word lies: one counter for every (block, variable, purpose, environment, dataset).
struct Address {
    uint32_t block;                // word 0: rows, or a running number
    uint32_t variable_purpose;     // word 1: variable in the low 12 bits, attempt in the next 12, purpose above
    uint32_t dataset_low;          // word 2
    uint32_t dataset_environment;  // word 3: bits 32 to 47 of the dataset's index, environment above
};

SETTX_FN Address address(uint64_t dataset, uint32_t environment, uint32_t variable, uint32_t purpose) {
    return {0, variable | purpose << 24, uint32_t(dataset), uint32_t(dataset >> 32) | environment << 16};
}

// The second word of noises that need two.
SETTX_FN Address second_words(Address at) {
    at.variable_purpose += 1u << 24;
    return at;
}

constexpr uint32_t EVERY_ENVIRONMENT = 0xFFFFu;  // for draws that environments share

constexpr uint32_t ROUNDS = 10;
constexpr uint32_t MULTIPLIER_0 = 0xD2511F53u, MULTIPLIER_1 = 0xCD9E8D57u;
constexpr uint32_t KEY_STEP_0 = 0x9E3779B9u, KEY_STEP_1 = 0xBB67AE85u;

struct Words {
    uint32_t w0, w1, w2, w3;
};

// One instruction of a device, where the plain product takes two.
SETTX_FN uint64_t wide_product(uint32_t a, uint32_t b) {
#ifdef __CUDA_ARCH__
    uint64_t product;
    asm("mul.wide.u32 %0, %1, %2;" : "=l"(product) : "r"(b), "r"(a));
    return product;
#else
    return uint64_t(a) * b;
#endif
}

// first(round), second(round): the key of a round.
template <class First, class Second>
SETTX_FN Words philox_rounds(Address counter, const First& first, const Second& second) {
    uint32_t w0 = counter.block, w1 = counter.variable_purpose;
    uint32_t w2 = counter.dataset_low, w3 = counter.dataset_environment;
    for (uint32_t round = 0; round < ROUNDS; ++round) {
        const uint64_t product0 = wide_product(MULTIPLIER_0, w0);
        const uint64_t product1 = wide_product(MULTIPLIER_1, w2);
        w0 = uint32_t(product1 >> 32) ^ w1 ^ first(round);
        w1 = uint32_t(product1);
        w2 = uint32_t(product0 >> 32) ^ w3 ^ second(round);
        w3 = uint32_t(product0);
    }
    return {w0, w1, w2, w3};
}

SETTX_FN uint32_t first_key(uint64_t seed, uint32_t round) {
    return uint32_t(seed) + round * KEY_STEP_0;
}

SETTX_FN uint32_t second_key(uint64_t seed, uint32_t round) {
    return uint32_t(seed >> 32) + round * KEY_STEP_1;
}

SETTX_FN Words philox(Address counter, uint64_t seed) {
    return philox_rounds(
        counter, [=](uint32_t round) { return first_key(seed, round); },
        [=](uint32_t round) { return second_key(seed, round); });
}

// The keys of the ten rounds: they change with the seed alone.
struct alignas(16) Keys {
    uint32_t first[ROUNDS], second[ROUNDS];

    SETTX_METHOD explicit Keys(uint64_t seed) {
        for (uint32_t round = 0; round < ROUNDS; ++round) set(seed, round);
    }
    SETTX_METHOD void set(uint64_t seed, uint32_t round) {
        first[round] = first_key(seed, round);
        second[round] = second_key(seed, round);
    }
};

SETTX_FN Words philox(Address counter, const Keys& keys) {
    return philox_rounds(
        counter, [&](uint32_t round) { return keys.first[round]; }, [&](uint32_t round) { return keys.second[round]; });
}

}  // namespace settx::scm
