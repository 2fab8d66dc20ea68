// What is seen of a tile of rows, for BLOCK rows at a time.
#include "node.h"
#include "observe.h"
#include "path_functions.h"

namespace settx::scm::SETTX_PATH {
namespace {

// Words of the BLOCK rows from `local_row` on, for one purpose.
void words_of_rows(const Model& m, int64_t v, uint32_t purpose, int32_t attempt, int64_t local_row, uint32_t* words) {
    Address at = m.address_of(v, purpose);
    at.block += uint32_t(local_row / (BLOCK / LANES));
    philox_lanes(at_attempt(at, attempt), Keys(m.seed), words);
}

// ---- Rows that are drawn until they are accepted --------------------------------------------------------------------

bool is_selective(const Model& m) {
    const float* slope = m.t.accept_slope + m.environment_at() * ACCEPTANCES;
    return slope[0] != 0.0f || slope[1] != 0.0f;
}

// x is the tile, from the block's first row on.
void decide(const Model& m, const float* x, int64_t local_row, bool* accepted) {
    alignas(64) uint32_t words[BLOCK];
    alignas(64) float chance[BLOCK];
    words_of_rows(m, 0, FOR_ACCEPTANCE, m.attempt, local_row, words);
    fill(chance, BLOCK, 1.0f);
    for (int64_t a = m.environment_at() * ACCEPTANCES, end = a + ACCEPTANCES; a < end; ++a) {
        const float slope = m.t.accept_slope[a], intercept = m.t.accept_intercept[a];
        const float* deciding = x + m.t.accept_variable[a] * m.stride;
        if (slope != 0.0f)
            for (int i = 0; i < BLOCK; ++i) chance[i] *= probability(deciding[i], slope, intercept);
    }
    for (int i = 0; i < BLOCK; ++i) accepted[i] = happens(chance[i], words[i]);
}

// Rows first … first + count − 1 of the tile, count ≤ BLOCK; attempts (count,).
struct Block {
    int64_t first, count, local_row;
    int16_t* attempts;
    bool attempts_given;
};

bool is_asked_for(const Block& block, int32_t attempt) {
    for (int64_t i = 0; i < block.count; ++i)
        if (block.attempts[i] == attempt) return true;
    return false;
}

void accept_rows(const Model& m, const float* edge_weights, float* spare, const Block& block) {
    bool accepted[BLOCK], pending[BLOCK];
    for (bool& row : pending) row = true;
    int64_t left = block.count;
    for (int32_t attempt = 0; left > 0; ++attempt) {
        if (block.attempts_given && attempt < MOST_ATTEMPTS && !is_asked_for(block, attempt)) continue;
        Model now = m;
        now.tile = attempt == 0 ? m.tile + block.first : spare;
        now.stride = attempt == 0 ? m.stride : BLOCK;
        now.attempt = attempt;
        if (attempt > 0) evaluate_variables(now, edge_weights, BLOCK, block.local_row);
        if (!block.attempts_given) decide(now, now.tile, block.local_row, accepted);
        for (int64_t i = 0; i < block.count; ++i) {
            const bool take = block.attempts_given ? block.attempts[i] == attempt : accepted[i];
            if (!pending[i] || !(take || attempt == MOST_ATTEMPTS)) continue;
            pending[i] = false;
            block.attempts[i] = int16_t(attempt);
            --left;
            for (int64_t v = 0; v < m.num_variables() && attempt > 0; ++v)
                m.tile[v * m.stride + block.first + i] = spare[v * BLOCK + i];
        }
    }
}

// ---- Errors, levels, losses -----------------------------------------------------------------------------------------

SETTX_LOOP void to_levels(float* __restrict x, int64_t count, const float* thresholds, const float* codes,
                          int64_t num_levels) {
    for (int64_t i = 0; i < count; ++i) x[i] = level_of(x[i], thresholds, codes, num_levels);
}

// lost (BLOCK,): whether each of the rows from x on is; cause may be x itself.
// Asked twice, as a vector that is chosen by bytes costs more than the question.
SETTX_LOOP void lose_block(const float* cause, float slope, float intercept, const uint32_t* __restrict words, float* x,
                           bool* __restrict lost) {
    alignas(64) float chance[BLOCK];
    for (int i = 0; i < BLOCK; ++i) chance[i] = probability(cause[i], slope, intercept);
    for (int i = 0; i < BLOCK; ++i) x[i] = happens(chance[i], words[i]) ? from_bits(NAN_BITS) : x[i];
    for (int i = 0; i < BLOCK; ++i) lost[i] = happens(chance[i], words[i]);
}

// Writes NaN in place of what is lost; is_missing (count, V) from the tile's first row on.
void lose(const Model& m, int64_t v, int64_t count, int64_t local_row, bool* is_missing) {
    const int64_t V = m.t.variables, bv = m.dataset * V + v;
    const float* cause = m.tile + m.t.loss_cause[bv] * m.stride;
    for (int64_t row = 0; row < count; row += BLOCK) {
        alignas(64) uint32_t words[BLOCK];
        bool lost[BLOCK];
        words_of_rows(m, v, FOR_LOSS, 0, local_row + row, words);
        lose_block(cause + row, m.t.loss_slope[bv], m.t.loss_intercept[bv], words, m.tile + v * m.stride + row, lost);
        for (int64_t i = 0; i < BLOCK && row + i < count; ++i) is_missing[(row + i) * V + v] = lost[i];
    }
}

}  // namespace

void measure(const Model& m, int64_t v, uint32_t purpose, int64_t count, int64_t local_row) {
    const int64_t bv = m.dataset * m.t.variables + v, L = m.t.levels;
    float* x = m.tile + v * m.stride;
    if (m.t.error_scale[bv] > 0.0f) {
        Address at = m.address_of(v, purpose);
        at.block += uint32_t(local_row / (BLOCK / LANES));
        add_noise(GAUSSIAN, nullptr, m.t.error_scale[bv], at, m.seed, whole_blocks(count), x);
    }
    if (m.t.num_levels[bv] > 0) to_levels(x, count, m.t.thresholds + bv * L, m.t.codes + bv * L, m.t.num_levels[bv]);
}

void observe_tile(const Model& m, const Rows& rows, const float* edge_weights, float* spare, const TileRows& tile) {
    if (rows.attempt != nullptr && is_selective(m))
        for (int64_t first = 0; first < tile.count; first += BLOCK) {
            const int64_t left = tile.count - first, count = left < BLOCK ? left : BLOCK;
            accept_rows(m, edge_weights, spare,
                        {first, count, tile.local + first, rows.attempt + tile.row + first, rows.attempt_given});
        }
    for (int64_t v = 0; v < m.num_variables(); ++v) measure(m, v, FOR_ERROR, tile.count, tile.local);
    if (rows.is_missing == nullptr) return;
    for (int64_t v = 0; v < m.num_variables(); ++v)
        if (m.t.loss_rate[m.dataset * m.t.variables + v] > 0.0f)
            lose(m, v, tile.count, tile.local, rows.is_missing + tile.row * m.t.variables);
}

// Every row's from the attempt that was accepted.
void fill_noise_of_rows(const Model& m, const Rows& rows, int64_t v, const TileRows& tile, float* out) {
    const int64_t bv = m.dataset * m.t.variables + v;
    for (int64_t first = 0; first < tile.count; first += BLOCK) {
        const int16_t* attempts = rows.attempt == nullptr ? nullptr : rows.attempt + tile.row + first;
        const int64_t left = tile.count - first, count = left < BLOCK ? left : BLOCK;
        Address at = m.address_of(v, FOR_NOISE);
        at.block += uint32_t((tile.local + first) / (BLOCK / LANES));
        for (int32_t attempt = 0, found = 0; found < count; ++attempt) {
            alignas(64) float noise[BLOCK] = {};
            bool is_asked = attempts == nullptr;
            for (int64_t i = 0; i < count && !is_asked; ++i) is_asked = attempts[i] == attempt;
            if (!is_asked) continue;
            add_noise(int32_t(m.t.noise_kind[bv]), m.t.noise_parameters + NOISE_PARAMETERS * bv, 1.0f,
                      at_attempt(at, attempt), m.seed, BLOCK, noise);
            for (int64_t i = 0; i < count; ++i)
                if (attempts == nullptr || attempts[i] == attempt) out[first + i] = noise[i], ++found;
        }
    }
}

}  // namespace settx::scm::SETTX_PATH
