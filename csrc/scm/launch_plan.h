// The shape of a launch that evaluates rows, by rule: from the sizes of a batch, what its prior can draw, and the card.
#pragma once
#include "device.h"
#include "evaluate_row.h"
#include "scm.h"

namespace settx::scm {

// What the models of a batch can be, as far as a launch depends on it.
struct Traits {
    bool all_linear, all_gaussian;  // mechanisms, noise
    int32_t deep_width;             // units of the widest network with several hidden layers, or 0
    bool rejects_rows, has_products;
};

enum Way : int32_t {
    LINEAR_PHASES = 0,   // all mechanisms are linear
    SHALLOW_PHASES = 1,  // any mechanism, networks of one hidden layer
    DEEP_PHASES = 2,     // networks of several hidden layers of at most DEEP_UNITS units
    IN_TILES = 3,        // lanes on their own: whatever there is
    IN_PLACE = 4,        // the same without a tile: any number of variables
};

struct Shape {
    Way way;
    int32_t rows, rows_of_thread;  // of a tile, of which a thread evaluates so many side by side
    int32_t threads, tiles;        // of a block; how many tiles it goes through with one model
};

struct Plan : Shape {
    int64_t items;   // of every dataset, some of them empty
    int64_t blocks;  // in flight: block i takes items i, i + blocks, … of all datasets
    int64_t hidden;  // numbers in far memory that a row needs for the hidden layers of its networks
    int64_t shared_bytes;
    int32_t most_edges, deep_width;
    bool all_gaussian, has_products;

    SETTX_METHOD bool in_phases() const { return way < IN_TILES; }
    SETTX_METHOD int32_t rows_per_item() const { return rows * tiles; }
    SETTX_METHOD int64_t stride() const { return rows + 1; }  // of lanes' tile: odd, against bank conflicts
    SETTX_METHOD int64_t hidden_per_block() const { return hidden * rows; }
};

constexpr int32_t MOST_LANES = 128, FEWEST_LANES = 32;
constexpr int64_t HIDDEN_FLOATS = 1 << 26;  // of all blocks in flight
constexpr int32_t MOST_THREADS = 1024;      // of a block that evaluates linear rows, and worth having of a processor
constexpr int32_t SHALLOW_THREADS = 128;
constexpr int32_t DEEP_ROWS = 128, DEEP_UNITS = 128, DEEP_THREADS = 256, DEEP_CHUNK = 16;
constexpr int64_t MOST_VARIABLES_IN_PHASES = 512;  // that a Step can count the parents of
constexpr int64_t RESERVED_BYTES = 1024;           // of shared memory, by the system for every block

// Edges that a block has room for: of all graphs of few variables, and of sparse ones.
inline int64_t most_edges_of(int64_t V) {
    const int64_t all = V * (V - 1) / 2, sparse = 3 * V > 100 ? 3 * V : 100;
    return all < sparse ? all : sparse;
}

// ---- What lies in shared memory -------------------------------------------------------------------------------------

struct SharedLayout {  // where each piece begins, in floats; all but the last at multiples of 16 bytes
    int64_t keys, steps, edges, hidden, end;
};

SETTX_FN SharedLayout shared_layout(int64_t V, int64_t rows, int64_t most_edges, int64_t deep_width) {
    SharedLayout at{};
    at.keys = V * rows;
    at.steps = at.keys + 2 * ROUNDS;
    at.edges = at.steps + 8 * (V + 1);
    at.hidden = at.edges + (2 * (most_edges + 1) + 3) / 4 * 4;
    at.end = at.hidden + (deep_width > 0 ? deep_width * DEEP_ROWS + DEEP_CHUNK * DEEP_UNITS : 0);
    return at;
}

inline int64_t shared_bytes_of(const Tables& t, const Shape& shape, int32_t deep_width) {
    const int64_t V = t.variables, width = shape.way == DEEP_PHASES ? deep_width : 0;
    if (shape.way == IN_PLACE) return 0;
    if (shape.way == IN_TILES) return V * (shape.rows + 1) * int64_t(sizeof(float));
    return shared_layout(V, shape.rows, most_edges_of(V), width).end * int64_t(sizeof(float));
}

// ---- The rule -------------------------------------------------------------------------------------------------------

inline int64_t blocks_of_processor(const Tables& t, const Shape& shape, int32_t deep_width,
                                   const DeviceLimits& limits) {
    return limits.shared_per_processor / (shared_bytes_of(t, shape, deep_width) + RESERVED_BYTES);
}

// Tiles as long as environments are on average, and rows side by side, as long as a processor still holds the threads
// that hide each other's latency; where the tile of the fewest rows leaves too few, more threads share its noise.
inline Shape linear_shape(const Tables& t, int64_t rows, const DeviceLimits& limits) {
    Shape shape{LINEAR_PHASES, 512, 4, 128, 1};
    const auto resident = [&] { return blocks_of_processor(t, shape, 0, limits) * shape.threads; };
    while (shape.rows > 128 && (resident() < MOST_THREADS || shape.rows > rows / t.environments + 127))
        shape.rows /= 2, shape.rows_of_thread /= 2;
    while (shape.threads < MOST_THREADS && resident() < MOST_THREADS) shape.threads *= 2;
    return shape;
}

// Registers allow fewer threads, and weights are read for all rows of a thread at once.
inline Shape shallow_shape(const Tables& t, int64_t rows, const DeviceLimits& limits) {
    Shape shape{SHALLOW_PHASES, 512, 4, SHALLOW_THREADS, 1};
    while (shape.rows > 128 && (blocks_of_processor(t, shape, 0, limits) * shape.threads < MOST_THREADS / 2 ||
                                shape.rows > rows / t.environments + 127))
        shape.rows /= 2, shape.rows_of_thread /= 2;
    return shape;
}

// Four tiles at least to a processor, and items no longer than environments are on average.
inline Shape lane_shape(const Tables& t, int64_t rows, const DeviceLimits& limits) {
    Shape shape{IN_TILES, QUAD * MOST_LANES, QUAD, MOST_LANES, 1};
    while (shape.threads > FEWEST_LANES &&
           (4 * shared_bytes_of(t, shape, 0) > limits.shared_per_processor || shape.rows > rows / t.environments))
        shape.threads /= 2, shape.rows /= 2;
    if (shared_bytes_of(t, shape, 0) > limits.shared_per_block) shape.way = IN_PLACE;
    return shape;
}

// Whether models of these traits can be evaluated so.
inline bool suits(const Tables& t, const Shape& shape, const Traits& traits, const DeviceLimits& limits) {
    if (shared_bytes_of(t, shape, traits.deep_width) > limits.shared_per_block) return false;
    if (shape.way >= IN_TILES) return true;
    if (traits.rejects_rows || traits.has_products || t.variables > MOST_VARIABLES_IN_PHASES) return false;
    if (shape.way == LINEAR_PHASES) return traits.all_linear;
    return traits.deep_width <= (shape.way == DEEP_PHASES ? DEEP_UNITS : 0);
}

inline Shape shape_of_phases(const Tables& t, int64_t rows, const Traits& traits, const DeviceLimits& limits) {
    if (traits.deep_width > 0) return {DEEP_PHASES, DEEP_ROWS, 1, DEEP_THREADS, 1};
    return traits.all_linear ? linear_shape(t, rows, limits) : shallow_shape(t, rows, limits);
}

inline Shape choose_shape(const Tables& t, int64_t rows, const Traits& traits, const DeviceLimits& limits) {
    Shape shape = shape_of_phases(t, rows, traits, limits);
    if (!suits(t, shape, traits, limits)) return lane_shape(t, rows, limits);
    // One model for several tiles, as long as every processor gets its blocks several times over.
    const int64_t worth = 8 * limits.processors * blocks_of_processor(t, shape, traits.deep_width, limits);
    while (shape.tiles < 4 && 2 * shape.tiles * shape.rows <= rows / t.environments &&
           t.datasets * (rows / (2 * shape.tiles * shape.rows)) >= worth)
        shape.tiles *= 2;
    return shape;
}

inline Plan make_plan(const Tables& t, int64_t rows, const Traits& traits, const Shape& shape) {
    const int64_t K = t.environments;
    Plan plan{};
    static_cast<Shape&>(plan) = shape;
    plan.most_edges = int32_t(most_edges_of(t.variables));
    plan.deep_width = traits.deep_width;
    plan.all_gaussian = traits.all_gaussian;
    plan.has_products = traits.has_products;
    plan.shared_bytes = shared_bytes_of(t, shape, traits.deep_width);
    plan.items = rows / plan.rows_per_item() + (K < rows ? K : rows);
    plan.blocks = t.datasets * plan.items;
    if (plan.in_phases()) return plan;
    plan.hidden = 2 * traits.deep_width;
    const int64_t fitting = plan.hidden > 0 ? HIDDEN_FLOATS / plan.hidden_per_block() : plan.blocks;
    if (fitting < plan.blocks) plan.blocks = fitting > 0 ? fitting : 1;
    return plan;
}

inline Plan choose_plan(const Tables& t, int64_t rows, const Traits& traits, const DeviceLimits& limits) {
    return make_plan(t, rows, traits, choose_shape(t, rows, traits, limits));
}

}  // namespace settx::scm
