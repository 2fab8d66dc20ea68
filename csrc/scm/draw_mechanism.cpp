// Mechanisms: which one a variable has, and its parameters.
#ifdef SETTX_KERNEL
#include "evaluate_row.h"
#endif
#include "lanes.h"
#include "mechanism.h"
#include "path_functions.h"
#include "random.h"

namespace settx::scm::SETTX_PATH {
namespace {

// Normals times a scale, and the address moved on past them.
#ifdef SETTX_KERNEL
SETTX_CALL float* normals(float* out, int64_t count, float scale, Address* at, uint64_t seed, const Team& team) {
    const int64_t counters = (count + BLOCK - 1) / BLOCK * LANES;
    for (int64_t counter = team.number; counter < counters; counter += team.size) {
        Address mine = *at;
        mine.block += uint32_t(counter);
        const Quad drawn = add_scaled(all_rows(0.0f), draw_normals(mine, seed), scale);
        for (int r = 0; r < QUAD; ++r) {
            const int64_t i = counter / LANES * BLOCK + r * LANES + counter % LANES;
            if (i < count) out[i] = drawn.row[r];
        }
    }
    at->block += uint32_t(counters);
    return out + count;
}
#else
SETTX_CALL float* normals(float* out, int64_t count, float scale, Address* at, uint64_t seed, const Team&) {
    for (int64_t i = 0; i < count; i += BLOCK, at->block += LANES) {
        alignas(64) float block[BLOCK] = {};
        add_noise(GAUSSIAN, nullptr, scale, *at, seed, BLOCK, block);
        for (int64_t j = 0; j < BLOCK && i + j < count; ++j) *out++ = block[j];
    }
    return out;
}
#endif

SETTX_CALL void draw_network(const MechanismDraw& d, float* out, float input_scale, float output_variance, Address at,
                             uint64_t seed, const Team& team) {
    const int64_t h = d.width;
    if (team.leads()) out[0] = float(d.width), out[1] = float(d.depth), out[2] = d.function;
    out = normals(out + MLP_HEADER, h * d.num_parents, input_scale, &at, seed, team);
    float* phases = out;
    out = normals(out, h, 1.0f, &at, seed, team);
    for (int32_t layer = 1; layer < d.depth; ++layer) {
        out = normals(out, h * h, 1.0f / sqrt(float(h)), &at, seed, team);
        out = normals(out, h, 1.0f, &at, seed, team);
    }
    normals(out, h, sqrt(output_variance / float(h)), &at, seed, team);
    if (d.mechanism->kind != FOURIER) return;
    team.meet();  // phases are written over what others drew there
    at.block += uint32_t(h) + uint32_t(team.number);
    for (int64_t j = team.number; j < h; j += team.size, at.block += uint32_t(team.size))
        phases[j] = 6.28318531f * unit(words_at(at, seed).w0);
}

// Every level asks whether one parent is above a normal threshold; leaves are normal, their sum over trees too.
SETTX_CALL void draw_trees(const MechanismDraw& d, float* out, Address at, uint64_t seed, const Team& team) {
    if (team.leads()) out[0] = float(d.width), out[1] = float(d.depth);
    out += TREES_HEADER;
    for (int32_t tree = 0; tree < d.width; ++tree) {
        for (int32_t level = 0; level < d.depth; ++level, ++at.block, out += 2) {
            if (!team.leads()) continue;
            const Words w = words_at(at, seed);
            out[0] = float(pick(w.w0, d.num_parents));
            out[1] = gaussian_pair(w.w2, w.w3).first;
        }
        out = normals(out, int64_t(1) << d.depth, 1.0f / sqrt(float(d.width)), &at, seed, team);
    }
}

// Thresholds and values are normal.
SETTX_CALL void draw_categories(const MechanismDraw& d, float* out, Address at, uint64_t seed, const Team& team) {
    if (team.leads()) out[0] = float(d.width);
    out = normals(out + 1, d.width - 1, d.parameter, &at, seed, team);
    normals(out, d.width, 1.0f, &at, seed, team);
}

// Logarithms of widths are normal, values and centres too.
SETTX_CALL void draw_clusters(const MechanismDraw& d, float* out, Address at, uint64_t seed, const Team& team) {
    if (team.leads()) out[0] = float(d.width);
    float *const widths = out + 1, *const precisions = widths + d.width;
    normals(widths, d.width, d.parameter, &at, seed, team);
    normals(precisions + d.width, d.width * (1 + d.num_parents), 1.0f, &at, seed, team);
    team.meet();
    for (int32_t k = team.number; k < d.width; k += team.size) precisions[k] = 0.5f * exp(-2.0f * widths[k]);
}

// A function's header: its code, and what is drawn for it.
SETTX_CALL float header_of(int32_t function, Address at, uint64_t seed) {
    return float(function) + (is_drawn(function) ? float(words_at(at, seed).w0 >> 16) / 65536.0f : 0.0f);
}

// The word by which a variable chooses its mechanism: its own, or one for all variables of the dataset.
SETTX_CALL uint32_t word_of_choice(const Prior& prior, uint64_t seed, int64_t index, uint32_t own) {
    if (prior.same_mechanism == 0.0f) return own;
    const Words common = words_at(address(index, 0, 0, FOR_SAME_MECHANISM), seed);
    return unit(common.w0) < prior.same_mechanism ? common.w1 : own;
}

// Numbers of a mechanism, by three blocks of random words.
constexpr uint32_t CHOICE_BLOCKS = 3;

SETTX_CALL MechanismDraw draw_choices(const Mechanism* m, int32_t num_parents, Words w, Address at, uint64_t seed) {
    const Address first = at;
    const int32_t function = m->num_functions > 0 ? m->functions[pick(w.w3, m->num_functions)] : 0;
    at.block = first.block + 2;
    const float header = header_of(function, at, seed);
    at.block = first.block + 1;
    const float parameter = draw_number(m->parameter, words_at(at, seed));
    return {m, num_parents, pick(w.w1, m->width), pick(w.w2, m->depth), header, parameter, first};
}

// Factor i of a product.
SETTX_CALL MechanismDraw draw_factor(const MechanismDraw& d, int32_t i, uint64_t seed) {
    Address at = d.at;
    at.block += uint32_t(i + 1) * CHOICE_BLOCKS;
    const Words w = words_at(at, seed);
    return draw_choices(d.mechanism->factors + pick(w.w0, d.mechanism->num_factors), d.num_parents, w, at, seed);
}

// Of whatever is not a product.
SETTX_CALL int64_t own_size(const MechanismDraw& d) {
    if (d.mechanism->kind == CATEGORIES) return categories_size(d.width);
    if (d.num_parents == 0) return 0;
    switch (d.mechanism->kind) {
        case MLP:
        case FOURIER:
            return mlp_size(d.num_parents, d.width, d.depth);
        case QUADRATIC:
            return quadratic_size(d.num_parents);
        case TREES:
            return TREES_HEADER + d.width * tree_size(d.depth);
        case CLUSTERS:
            return clusters_size(d.num_parents, d.width);
        case ADDITIVE_SUM:
        case PRODUCT:
        case POST_NONLINEAR:
            return 1;
        default:
            return 0;
    }
}

constexpr uint32_t BLOCKS_OF_FACTOR = 1u << 28;  // more than the parameters of any take

}  // namespace

SETTX_CALL MechanismDraw draw_mechanism(const Prior& prior, uint64_t seed, int64_t index, int32_t v,
                                        int32_t num_parents) {
    const bool is_linear = prior.num_mechanisms == 1 && prior.mechanisms[0].kind == LINEAR;
    if (is_linear) return {prior.mechanisms, num_parents, 0, 0, 0.0f, 0.0f, {}};  // nothing to draw
    const Address at = address(index, 0, v, FOR_MECHANISM);
    const Words w = words_at(at, seed);
    const Mechanism* m = prior.mechanisms + pick(word_of_choice(prior, seed, index, w.w0), prior.num_mechanisms);
    return draw_choices(m, num_parents, w, at, seed);
}

SETTX_CALL int64_t num_parameters(const MechanismDraw& d, uint64_t seed) {
    if (d.mechanism->kind != FACTORS) return own_size(d);
    if (d.num_parents == 0) return 0;
    int64_t count = 0;
    for (int32_t i = 0; i < d.width; ++i) count += FACTOR_HEADER + own_size(draw_factor(d, i, seed));
    return count;
}

SETTX_CALL void draw_parameters(const MechanismDraw& d, uint64_t seed, Address at, float* out, const Team& team) {
    const int64_t size = own_size(d);
    if (size == 0) return;
    switch (d.mechanism->kind) {
        case MLP:
            return draw_network(d, out, 1.0f / sqrt(float(d.num_parents)), 1.0f, at, seed, team);
        case FOURIER:
            return draw_network(d, out, 1.0f / d.parameter, 2.0f, at, seed, team);
        case TREES:
            return draw_trees(d, out, at, seed, team);
        case CATEGORIES:
            return draw_categories(d, out, at, seed, team);
        case CLUSTERS:
            return draw_clusters(d, out, at, seed, team);
        case QUADRATIC:
            normals(out, size, d.parameter / sqrt(float(size)), &at, seed, team);
            return;
        default:
            if (team.leads()) *out = d.function;
    }
}

SETTX_CALL void draw_factors(const MechanismDraw& d, uint64_t seed, Address at, float* out, const Team& team) {
    if (d.num_parents == 0) return;
    for (int32_t i = 0; i < d.width; ++i, at.block += BLOCKS_OF_FACTOR) {
        const MechanismDraw factor = draw_factor(d, i, seed);
        const int64_t size = own_size(factor);
        if (team.leads()) out[0] = float(factor.mechanism->kind), out[1] = i + 1 < d.width ? float(size) : -1.0f;
        draw_parameters(factor, seed, at, out + FACTOR_HEADER, team);
        out += FACTOR_HEADER + size;
    }
}

}  // namespace settx::scm::SETTX_PATH
