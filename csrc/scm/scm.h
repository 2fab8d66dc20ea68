// The contract of the sampler: plain structs and raw pointers, all memory the caller's.
// B datasets · R rows · V variables (padded) · K environments (padded); every array is contiguous.
#pragma once
#include <cstdint>

namespace settx::scm {

// ---- The prior ------------------------------------------------------------------------------------------------------

enum DistributionKind : int32_t { CONSTANT = 0, UNIFORM_BETWEEN = 1, LOG_UNIFORM = 2, NORMAL = 3 };

struct Distribution {  // low, high: constant (low), ends of the range, or mean and standard deviation
    int32_t kind;
    bool is_signed;
    float low, high;
};

struct Range {  // both ends included
    int32_t low, high;
    bool is_log = false;  // n with a probability in proportion to log((n + 1) / n)
};

enum GraphKind : int32_t {
    ERDOS_RENYI_DEGREE = 0,       // expected in-degree
    ERDOS_RENYI_PROBABILITY = 1,  // probability
    SCALE_FREE = 2,               // edges per variable
    USER_GRAPH = 3,               // edges, edge_weights, order
    STOCHASTIC_BLOCK = 4,         // probability within and between blocks; number of blocks
    WATTS_STROGATZ = 5,           // probability of rewiring; neighbours on each side
    GEOMETRIC = 6,                // radius
    BIPARTITE = 7,                // probability; share of causes
    TREE = 8,
    PATTERN_CHAIN = 9,
    PATTERN_FORK = 10,
    PATTERN_COLLIDER = 11,
    LAYERED = 12,  // probability; number of layers
};

struct Graph {
    int32_t kind;
    Distribution parameters[2];        // drawn per dataset
    Range count;                       // drawn per dataset
    bool hubs_in;                      // scale-free: edges point to the older variable
    const int32_t* edges;              // user graph: (num_edges, 2) cause, effect
    const Distribution* edge_weights;  // user graph: (num_edges,)
    const int32_t* order;              // user graph: (V,) topological order
    int32_t num_edges;
};

struct Mechanism {
    int32_t kind;            // MechanismKind
    Range width, depth;      // hidden units, trees, categories, clusters or factors; layers or levels
    Distribution parameter;  // Fourier: length scale; quadratic: strength; categories, clusters: spread
    const int32_t* functions;
    int32_t num_functions;     // one of them at random
    const Mechanism* factors;  // of a product: each is one of these at random
    int32_t num_factors;
};

constexpr int NOISE_INPUTS = 3, NOISE_PARAMETERS = 5;

struct Noise {
    int32_t kind;                           // NoiseKind
    Distribution parameters[NOISE_INPUTS];  // drawn per variable; see `prepare_noise`
};

enum InterventionKind : int8_t {
    NOTHING = 0,
    SHIFT = 1,
    SCALE = 2,
    SET_NOISE = 3,
    HARD = 4,
    REDRAW = 5,
    REMOVE_EDGES = 6,
    NEW_MECHANISM = 7,
    DRIFT = 8,
    LABEL_SHIFT = 9,
    MOVED = 10,  // by Shifts
};

// In place of variables.
enum VariableName : int32_t { THE_TARGET = -1, ITS_PARENTS = -2, ITS_CHILDREN = -3 };

struct Intervention {
    int8_t kind;
    Distribution value;
    const int32_t* variables;  // variables or VariableNames, or null: `number` of them at random
    int32_t num_variables;
    Range number;
    bool on_target;  // may a random choice hit the target variable
};

// Probabilities that a dataset draws once.
enum ShiftOdds : int32_t {
    IS_MUTABLE = 0,
    MOVES_INTERCEPT = 1,  // of a mutable variable; of the target: + OF_TARGET
    MOVES_SLOPES = 2,
    MOVES_NOISE = 3,
    OF_TARGET = 3,
    IS_REDRAWN = 7,
    IS_SET = 8,
    NUM_SHIFT_ODDS = 9
};

// Which mechanisms change between environments, and how strongly: see settx_fast/scm/interventions.py.
struct Shifts {
    bool are_asked_for, recur;
    Distribution odds[NUM_SHIFT_ODDS];
    Distribution target_severity;            // drawn per dataset
    Distribution strength, target_strength;  // per variable and part
    Distribution intercept, slope, noise;    // per variable and environment, slope per edge
};

// What is done to finished rows. Everything is drawn per dataset, or per variable.
enum ObservationKind : int32_t {
    HIDE = 0,     // number of variables, or probability of each; option 1: by probability
    SELECT = 1,   // slope, quantile; option: environments, 1 source + 2 target
    MEASURE = 2,  // standard deviation of the error, in those of the variable
    LEVELS = 3,   // imbalance; number of levels; option 1: ordered
    LOSE = 4,     // rate, slope; option: LossKind
};

enum LossKind : int32_t { AT_RANDOM_COMPLETELY = 0, AT_RANDOM = 1, NOT_AT_RANDOM = 2 };

struct Observation {
    int32_t kind, option;
    Distribution values[2];
    Distribution probability;  // of every variable that it may fall on
    Range number;
    const int32_t* variables;  // variables or VariableNames, or null: all
    int32_t num_variables;
    bool on_target;  // may it fall on the target if variables are not named
};

// Whether a variable is centred and scaled before its children see it.
enum Standardisation : int32_t { AS_DRAWN = 0, INTERNAL = 1 };

enum TargetKind : int32_t { TARGET_RANDOM = -1, TARGET_INNER = -2 };

struct Prior {
    Range num_variables, source_environments, target_environments;
    int32_t target;           // a variable or a TargetKind
    int32_t standardisation;  // Standardisation
    Distribution weight, target_share;
    Distribution environment_imbalance;  // of rows; 0: none is asked for
    Shifts shifts;
    float same_mechanism;                    // probability that all variables of a dataset have one of the mechanisms
    const Distribution *bias, *noise_scale;  // one for all or one per variable
    bool bias_per_variable, noise_scale_per_variable;
    const Graph* graphs;
    const Mechanism* mechanisms;
    const Noise* noises;
    const int32_t* noise_effects;  // NoiseEffect
    const Intervention *source_interventions, *target_interventions;
    const Observation* observations;
    bool needs_pilot;
    int32_t num_observations, num_graphs, num_mechanisms, num_noises, num_noise_effects, num_source_interventions,
        num_target_interventions;
};

// ---- The models: what draw writes and evaluate reads ----------------------------------------------------------------

constexpr int ACCEPTANCES = 2;  // by selection, by label shift

struct Tables {
    int64_t datasets, variables, environments, num_parameters;  // B, V, K, P
    int64_t levels;                                             // L
    int64_t* index;                                             // (B,) number of the dataset in its stream
    int64_t* num_variables;                                     // (B,)
    int64_t* num_environments;                                  // (B,)
    bool* is_target;                                            // (B, K)
    float* target_share;                                        // (B,) of the rows; 0 where the prior names none
    int64_t* row_weight;                                        // (B, K) of an environment; 0 where they are equal
    int64_t* target_index;                                      // (B,)
    bool* adjacency;                                            // (B, V, V) [i, j]: i → j
    int64_t* order;                                             // (B, V)
    float* weights;                                             // (B, K, V, V)
    float* bias;                                                // (B, K, V)
    float* noise_scale;                                         // (B, K, V)
    bool* hard;                                                 // (B, K, V)
    int8_t* intervention;                                       // (B, K, V)
    int64_t* noise_kind;                                        // (B, V)
    float* noise_parameters;                                    // (B, V, NOISE_PARAMETERS)
    int64_t* noise_effect;                                      // (B, V)
    int64_t* mechanism;                                         // (B, V)
    int64_t* mechanism_offset;                                  // (B, K, V) into parameters
    float* parameters;                                          // (P,)
    float *centre, *gain;                // (B, V) gain · (x − centre): the last step of a variable that is not hard
    float *column_centre, *column_gain;  // (B, V) the same for the finished columns, which children do not see
    // What is seen: see observe.h.
    bool* is_hidden;                                 // (B, V)
    int64_t* accept_variable;                        // (B, K, ACCEPTANCES)
    float *accept_slope, *accept_intercept;          // (B, K, ACCEPTANCES) slope 0: every row
    float* error_scale;                              // (B, V)
    int64_t* num_levels;                             // (B, V) 0: a number
    float *thresholds, *codes;                       // (B, V, L)
    int64_t* loss_cause;                             // (B, V)
    float *loss_rate, *loss_slope, *loss_intercept;  // (B, V) rate 0: never missing
};

// What becomes of finished columns: nothing; column_centre and column_gain as they are; or these found first, so that
// source rows have mean 0 and variance 1.
enum Columns : int32_t { COLUMNS_RAW = 0, COLUMNS_GIVEN = 1, COLUMNS_STANDARDISED = 2 };

struct Rows {
    int64_t rows;               // R
    const int64_t* row_offset;  // (B, K + 1): environment k has the rows [row_offset[k], row_offset[k + 1])
    uint64_t seed;              // of the noise
    const uint64_t* seed_at;    // where to read it on a device instead, or null
    float* values;              // (B, R, V)
    int64_t* environment;       // (B, R)
    Columns columns;
    bool is_observed;    // else as the SCM has them
    bool* is_missing;    // (B, R, V), zeroed; null where nothing is ever lost
    int16_t* attempt;    // (B, R) which attempt was accepted; null where every row is
    bool attempt_given;  // take the attempts as they are
    float* noise;        // (B, R, V) the exogenous noise; or null
};

// ---- Entry points: num_threads ≥ 1; path: see paths.h --------------------------------------------------------------

struct Path;

// Numbers of mechanism parameters of datasets first … first + count − 1.
void count_parameters(const Prior&, uint64_t seed, int64_t first, int64_t count, int64_t* parameters, int num_threads,
                      const Path&);

// Fills tables that hold zeros; index and the first entry of every dataset's parameters are given:
// parameter_offset (B,).
void draw(const Prior&, uint64_t seed, const int64_t* parameter_offset, const Tables&, int num_threads, const Path&);

void evaluate(const Tables&, const Rows&, int num_threads, const Path&);

}  // namespace settx::scm
