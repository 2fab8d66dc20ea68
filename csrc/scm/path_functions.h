// What every path defines, in a namespace of its own: compiled with -DSETTX_PATH=name.
#pragma once
#include "paths.h"
#include "philox.h"

namespace settx::scm::SETTX_PATH {

// Threads that draw something together, each its share: those of a block on a device, one on a CPU.
#ifdef SETTX_KERNEL
struct Team {
    int32_t number, size;

    SETTX_METHOD void meet() const { wait_for_block(); }
#else
struct Team {
    static constexpr int32_t number = 0, size = 1;

    void meet() const {}
#endif
    SETTX_METHOD bool leads() const { return number == 0; }
};

// How a variable depends on its parents.
struct MechanismDraw {
    const Mechanism* mechanism;
    int32_t num_parents, width, depth;
    float function;  // its header: see with_function
    float parameter;
    Address at;  // of what was drawn for it
};

// What a team notes of a dataset, in `draw_scratch_bytes` of memory.
struct DrawScratch {
    MechanismDraw* mechanisms;  // (V,)
    int64_t* own_offset;        // (V,) where the parameters begin that are no environment's alone
    int32_t* work;              // (2·V,), and (V,) for every member who intervenes
    int32_t* edges = nullptr;   // of a device alone: (edges_of_dataset(V),)

    SETTX_METHOD DrawScratch(void* memory, int64_t V)
        : mechanisms(static_cast<MechanismDraw*>(memory)),
          own_offset(reinterpret_cast<int64_t*>(mechanisms + V)),
          work(reinterpret_cast<int32_t*>(own_offset + V)) {}
};
static_assert(sizeof(MechanismDraw) == DRAW_NOTE_BYTES - sizeof(int64_t), "as draw_scratch_bytes counts");

SETTX_CALL int64_t draw_graph(const Prior&, uint64_t seed, int64_t index, int64_t V, bool* adjacency, int64_t* order,
                              int32_t* scratch);
SETTX_CALL void draw_dataset(const Prior&, uint64_t seed, int64_t parameter_offset, const Tables&, int64_t b,
                             void* scratch);
// Everything but the parameters of mechanisms, which are the business of `draw_parameters_of`.
SETTX_CALL void draw_model(const Prior&, uint64_t seed, int64_t parameter_offset, const Tables&, int64_t b,
                           const DrawScratch&, const Team&);
void evaluate_segment(const Tables&, const Rows&, const Segment&, const Parents&, float* scratch);
int64_t scratch_floats(int64_t V, int64_t num_edges, int64_t max_hidden);
void add_columns(const Tables&, const Rows&, int64_t b, int64_t first, int64_t last, Sums*);
void apply_units(const Tables&, const Rows&, int64_t b, int64_t first, int64_t last);
void run_pilot(const Prior&, uint64_t seed, const Tables&, int64_t b, const Parents&, float* scratch);
int64_t pilot_floats(int64_t V, int64_t K, int64_t max_hidden);
void fill_noise(const NoiseRows&, int64_t first, int64_t n, float* out);

SETTX_CALL void draw_structure(const Graph&, uint64_t seed, int64_t index, int32_t n, int64_t V, bool* adjacency,
                               int64_t* order, int32_t* scratch, const Team&);
struct Dataset;
SETTX_CALL void move_mechanisms(const Dataset&, int64_t sources, int64_t environments);  // as `Prior::shifts` asks
// own_parameters: how many the dataset's own mechanisms have, which is what a copy of them has.
SETTX_CALL void intervene_everywhere(const Dataset&, int64_t sources, int64_t environments, int64_t own_parameters,
                                     const DrawScratch&);
// Of environments that may renew mechanisms, how many come before the k-th and with it.
SETTX_CALL int64_t copies_up_to(const Prior&, int64_t sources, int64_t k);
SETTX_CALL MechanismDraw draw_mechanism(const Prior&, uint64_t seed, int64_t index, int32_t v, int32_t num_parents);
SETTX_CALL int64_t num_parameters(const MechanismDraw&, uint64_t seed);
// Of what is no product, and of a product.
SETTX_CALL void draw_parameters(const MechanismDraw&, uint64_t seed, Address at, float* out, const Team&);
SETTX_CALL void draw_factors(const MechanismDraw&, uint64_t seed, Address at, float* out, const Team&);

// x (count,) += scale · noise of the rows whose counters start at the address, count a multiple of BLOCK; parameters
// may be null if the kind has none.
SETTX_CALL void add_noise(int32_t kind, const float* parameters, float scale, Address, uint64_t seed, int64_t count,
                          float* x);

struct Node;
void add_mechanism(const Node&, int64_t row);  // for rows of the tile from `row`, BLOCK of them
void transform(const Node&, int64_t count);    // x = g(x), the last step of a post-nonlinear mechanism
void categorise(const Node&, int64_t count);   // x = the value of its level
bool apply(const char* function, const float* x, int64_t n, float* out);

}  // namespace settx::scm::SETTX_PATH
