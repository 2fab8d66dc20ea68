// The CUDA back end's own evaluation on a CPU, lane by lane: slow, and there to prove its bits where there is no GPU.
#include <algorithm>
#include <vector>

#include "evaluate_lane.h"
#include "paths.h"
#include "prior_image.h"

namespace settx::scm {
namespace {

struct Block {
    const Tables& t;
    const Rows& rows;
    const Plan& plan;
    const int32_t* parents;
    float *tile, *hidden;
};

void evaluate_in_tile(const Block& b, const Item& item) {
    for (int32_t lane = 0; lane < b.plan.lanes; ++lane)
        evaluate_lane(b.t, b.rows, b.parents, b.plan, item, lane, tile_of_lane(b.tile, b.plan, lane), b.hidden);
    for (int32_t lane = 0; lane < b.plan.lanes; ++lane) write_tile(b.t, b.rows, b.plan, item, lane, b.tile);
}

void evaluate_in_place(const Block& b, const Item& item) {
    for (int32_t lane = 0; lane < b.plan.lanes; ++lane) {
        const LaneMemory values = output_of_lane(b.t, b.rows, item, lane);
        evaluate_lane(b.t, b.rows, b.parents, b.plan, item, lane, values, b.hidden);
        write_missing_variables(b.t, item, values);
    }
}

int64_t deep_width(const Tables& t, const int32_t* parents) {
    const int64_t V = t.variables;
    int64_t widest = 0;
    for (int64_t i = 0; i < t.datasets * t.environments * V; ++i) {
        const int64_t bv = i / (t.environments * V) * V + i % V;
        const float* network = t.parameters + t.mechanism_offset[i];
        if (t.mechanism[bv] == MLP && parents[bv * (V + 1)] > 0 && network[1] > 1.0f)
            widest = std::max(widest, int64_t(network[0]));
    }
    return widest;
}

}  // namespace

void draw_from_image(const Prior& prior, uint64_t seed, const int64_t* parameter_offset, const Tables& t) {
    PriorImage empty(nullptr, nullptr);
    empty.add(prior);
    std::vector<char> memory(size_t(empty.size()));
    PriorImage image(memory.data(), memory.data());
    draw(image.add(prior), seed, parameter_offset, t, 1, path(0));
}

void evaluate_by_rows(const Tables& t, const Rows& rows, int64_t shared_bytes) {
    std::vector<int32_t> parents(size_t(t.datasets * t.variables * (t.variables + 1)));
    for (int64_t b = 0; b < t.datasets; ++b)
        for (int64_t v = 0; v < t.variables; ++v) list_parents(t, b, v, parents.data());
    const Plan plan = make_plan(t, rows.rows, deep_width(t, parents.data()), {shared_bytes, shared_bytes});
    std::vector<float> tile(size_t(tile_bytes(t, plan)) / sizeof(float));
    std::vector<float> hidden(size_t(plan.hidden_per_block()) + 1);
    const Block block{t, rows, plan, parents.data(), tile.data(), hidden.data()};
    for (int64_t number = 0; number < t.datasets * plan.items; ++number) {
        Item item;
        if (!find_item(t, rows, plan, number, &item)) continue;
        plan.in_place ? evaluate_in_place(block, item) : evaluate_in_tile(block, item);
        for (int32_t lane = 0; lane < plan.lanes; ++lane) {
            write_environment(t, rows, item, lane, plan.lanes);
            if (rows.noise != nullptr) write_noise(t, rows, item, lane);
        }
    }
    scale_columns(t, rows, 1);
}

}  // namespace settx::scm
