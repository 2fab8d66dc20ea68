// From (prior, seed, index) to the tables of one dataset. Every number has an address of its own in the stream, so that
// no draw depends on how many came before it; only choices without replacement read words in order.
#include "lanes.h"
#include "mechanism.h"
#include "path_functions.h"
#include "random.h"

namespace settx::scm::SETTX_PATH {
namespace {

struct Sizes {
    int32_t variables, sources, targets;
    const Graph* graph;
};

Sizes draw_sizes(const Prior& prior, uint64_t seed, int64_t index) {
    const Words w = philox(address(index, 0, 0, FOR_SIZES), seed);
    return {pick(w.w0, prior.num_variables), pick(w.w1, prior.source_environments),
            pick(w.w2, prior.target_environments), prior.graphs + pick(w.w3, prior.num_graphs)};
}

// ---- Graphs ---------------------------------------------------------------------------------------------------------

struct GraphDraw {
    const Graph& graph;
    uint64_t seed;
    int64_t index, V;
    int32_t n;        // variables of this dataset
    bool* adjacency;  // (V, V), zeroed
    int64_t* order;   // (V,)
    int32_t* scratch;
    float parameters[2];
    int32_t count;

    // Edges by position in the order, from the lower to the higher.
    bool& edge(int32_t from, int32_t to) const { return adjacency[order[from] * V + order[to]]; }

    // Two random words of a position, once `fill_places` was called.
    uint32_t& place(int32_t position, int which) const {
        return reinterpret_cast<uint32_t*>(scratch)[2 * position + which];
    }
};

template <class Integer>
void shuffle(Integer* out, int32_t n, Stream stream) {
    for (int32_t i = 0; i < n; ++i) out[i] = i;
    for (int32_t i = n - 1; i > 0; --i) {
        const int32_t j = pick(stream.next(), i + 1);
        const Integer other = out[j];
        out[j] = out[i];
        out[i] = other;
    }
}

void fill_places(const GraphDraw& g) {
    for (int32_t position = 0; position < g.n; ++position) {
        const Words words = philox(address(g.index, 0, position, FOR_PLACE), g.seed);
        g.place(position, 0) = words.w0;
        g.place(position, 1) = words.w1;
    }
}

// The probability of an edge between two positions, from < to, for graphs whose edges are independent given places.
float edge_probability(const GraphDraw& g, int32_t from, int32_t to) {
    switch (g.graph.kind) {
        case ERDOS_RENYI_DEGREE:
            return g.parameters[0] / (0.5f * float(g.n - 1));
        case ERDOS_RENYI_PROBABILITY:
            return g.parameters[0];
        case STOCHASTIC_BLOCK: {
            const bool same = pick(g.place(from, 0), g.count) == pick(g.place(to, 0), g.count);
            return g.parameters[same ? 0 : 1];
        }
        case GEOMETRIC: {
            const float x = unit(g.place(from, 0)) - unit(g.place(to, 0));
            const float y = unit(g.place(from, 1)) - unit(g.place(to, 1));
            return x * x + y * y < g.parameters[0] * g.parameters[0] ? 1.0f : 0.0f;
        }
        case BIPARTITE: {
            const int32_t causes = int32_t(fma(g.parameters[1], float(g.n), 0.5f));
            return from < causes && to >= causes ? g.parameters[0] : 0.0f;
        }
        case LAYERED: {
            const int64_t layers = g.count < g.n ? g.count : g.n;
            return to * layers / g.n == from * layers / g.n + 1 ? g.parameters[0] : 0.0f;
        }
        case PATTERN_CHAIN:
            return to == from + 1 ? 1.0f : 0.0f;
        case PATTERN_FORK:
            return from == 0 ? 1.0f : 0.0f;
        case PATTERN_COLLIDER:
            return to == g.n - 1 ? 1.0f : 0.0f;
    }
    return 0.0f;
}

void draw_independent_edges(const GraphDraw& g) {
    fill_places(g);
    for (int32_t to = 1; to < g.n; ++to) {
        Stream stream(address(g.index, 0, to, FOR_EDGES), g.seed);
        for (int32_t from = 0; from < to; ++from) {
            const double probability = double(clamp(edge_probability(g, from, to), 0.0f, 1.0f));
            g.edge(from, to) = stream.next() < uint64_t(probability * 4294967296.0);
        }
    }
}

// Each position picks distinct earlier ones, with probability proportional to 1 + their edges so far.
void draw_scale_free(const GraphDraw& g) {
    const int32_t wanted = g.count;
    int32_t* degree = g.scratch;
    for (int32_t newer = 0; newer < g.n; ++newer) {
        Stream stream(address(g.index, 0, newer, FOR_EDGES), g.seed);
        degree[newer] = 0;
        const auto joined = [&](int32_t older) -> bool& {
            return g.graph.hubs_in ? g.edge(newer, older) : g.edge(older, newer);
        };
        int32_t mass = 0;
        for (int32_t older = 0; older < newer; ++older) mass += 1 + degree[older];
        for (int32_t chosen = 0; chosen < wanted && chosen < newer; ++chosen) {
            int32_t left = pick(stream.next(), mass), older = 0;
            while (joined(older) || left >= 1 + degree[older]) {
                if (!joined(older)) left -= 1 + degree[older];
                ++older;
            }
            joined(older) = true;
            mass -= 1 + degree[older];
        }
        for (int32_t older = 0; older < newer; ++older) degree[older] += joined(older);
        degree[newer] += wanted < newer ? wanted : newer;
    }
    if (!g.graph.hubs_in) return;
    for (int32_t i = 0; i < g.n / 2; ++i) {  // edges run from newer to older: causes come last, so turn the order
        const int64_t other = g.order[i];
        g.order[i] = g.order[g.n - 1 - i];
        g.order[g.n - 1 - i] = other;
    }
}

// A ring of positions in random order, each joined to `count` neighbours on either side; every edge moves its far end
// with some probability, to a place that is free.
void draw_watts_strogatz(const GraphDraw& g) {
    int32_t* ring = g.scratch;
    shuffle(ring, g.n, Stream(address(g.index, 0, 0, FOR_PLACE), g.seed));
    const auto joined = [&](int32_t a, int32_t b) -> bool& { return a < b ? g.edge(a, b) : g.edge(b, a); };
    for (int32_t step = 1; step <= g.count && 2 * step <= g.n; ++step)
        for (int32_t i = 0; i < g.n; ++i) joined(ring[i], ring[(i + step) % g.n]) = true;
    for (int32_t step = 1; step <= g.count && 2 * step < g.n; ++step)
        for (int32_t i = 0; i < g.n; ++i) {
            Stream stream(address(g.index, uint32_t(step), i, FOR_EDGES), g.seed);
            const int32_t here = ring[i], there = ring[(i + step) % g.n];
            if (!(unit(stream.next()) < g.parameters[0])) continue;
            int32_t free = 0;
            for (int32_t other = 0; other < g.n; ++other) free += other != here && !joined(here, other);
            if (free == 0) continue;
            int32_t left = pick(stream.next(), free), chosen = -1;
            while (left >= 0) {
                ++chosen;
                left -= chosen != here && !joined(here, chosen);
            }
            joined(here, there) = false;
            joined(here, chosen) = true;
        }
}

// Every position but the first has one cause, any of the earlier ones.
void draw_tree(const GraphDraw& g) {
    fill_places(g);
    for (int32_t to = 1; to < g.n; ++to) g.edge(pick(g.place(to, 0), to), to) = true;
}

void take_user_graph(const GraphDraw& g) {
    for (int32_t i = 0, position = 0; i < g.V; ++i)
        if (g.graph.order[i] < g.n) g.order[position++] = g.graph.order[i];
    for (int32_t e = 0; e < g.graph.num_edges; ++e)
        g.adjacency[g.graph.edges[2 * e] * g.V + g.graph.edges[2 * e + 1]] = true;
}

void draw_edges(const GraphDraw& g) {
    if (g.graph.kind == USER_GRAPH) return take_user_graph(g);
    shuffle(g.order, g.n, Stream(address(g.index, 0, 0, FOR_ORDER), g.seed));
    switch (g.graph.kind) {
        case SCALE_FREE:
            return draw_scale_free(g);
        case WATTS_STROGATZ:
            return draw_watts_strogatz(g);
        case TREE:
            return draw_tree(g);
        default:
            return draw_independent_edges(g);
    }
}

void draw_structure(const Sizes& sizes, uint64_t seed, int64_t index, int64_t V, bool* adjacency, int64_t* order,
                    int32_t* scratch) {
    const Graph& graph = *sizes.graph;
    const auto words = [&](uint32_t block) { return philox(address(index, block, 0, FOR_SIZES), seed); };
    draw_edges({graph,
                seed,
                index,
                V,
                sizes.variables,
                adjacency,
                order,
                scratch,
                {draw_number(graph.parameters[0], words(1)), draw_number(graph.parameters[1], words(2))},
                pick(words(3).w0, graph.count)});
}

// ---- Mechanisms -----------------------------------------------------------------------------------------------------

struct MechanismDraw {
    const Mechanism* mechanism;
    MlpShape shape;
};

MechanismDraw draw_mechanism(const Prior& prior, uint64_t seed, int64_t index, int32_t v, int32_t num_parents) {
    const Words w = philox(address(index, 0, v, FOR_MECHANISM), seed);
    const Mechanism* mechanism = prior.mechanisms + pick(w.w0, prior.num_mechanisms);
    return {mechanism, {num_parents, pick(w.w1, mechanism->hidden), pick(w.w2, mechanism->layers)}};
}

int64_t num_parameters(const MechanismDraw& d) {
    return d.mechanism->kind == MLP && d.shape.parents > 0 ? mlp_size(d.shape) : 0;
}

int32_t count_parents(const bool* adjacency, int64_t V, int32_t n, int32_t v) {
    int32_t count = 0;
    for (int32_t p = 0; p < n; ++p) count += adjacency[p * V + v];
    return count;
}

// Writes normals times scale to out, and moves the address on.
float* normals(float* out, int64_t count, float scale, Address* at, uint64_t seed) {
    for (int64_t i = 0; i < count; i += 4, ++at->block) {
        const Words w = philox(*at, seed);
        const Pair a = gaussian_pair(w.w0, w.w1), b = gaussian_pair(w.w2, w.w3);
        const float four[4] = {scale * a.first, scale * a.second, scale * b.first, scale * b.second};
        for (int64_t j = i; j < count && j < i + 4; ++j) *out++ = four[j - i];
    }
    return out;
}

void draw_mlp(const MechanismDraw& d, uint64_t seed, Address at, float* out) {
    const int64_t h = d.shape.hidden;
    const float by_hidden = 1.0f / sqrt(float(h));
    *out++ = float(d.shape.hidden);
    *out++ = float(d.shape.layers);
    *out++ = float(d.mechanism->activation);
    out = normals(out, h * d.shape.parents, 1.0f / sqrt(float(d.shape.parents)), &at, seed);
    out = normals(out, h, 1.0f, &at, seed);
    for (int32_t layer = 1; layer < d.shape.layers; ++layer) {
        out = normals(out, h * h, by_hidden, &at, seed);
        out = normals(out, h, 1.0f, &at, seed);
    }
    normals(out, h, by_hidden, &at, seed);
}

// ---- One dataset ----------------------------------------------------------------------------------------------------

// Views into the tables for dataset b.
struct Dataset {
    const Prior& prior;
    const Tables& t;
    uint64_t seed;
    int64_t b, index;
    int32_t n;
    const Graph* graph;

    int64_t V() const { return t.variables; }
    bool edge(int32_t p, int32_t v) const { return t.adjacency[(b * V() + p) * V() + v]; }
    float& weight(int64_t k, int32_t p, int32_t v) const {
        return t.weights[((b * t.environments + k) * V() + p) * V() + v];
    }
    int64_t at(int64_t k, int32_t v) const { return (b * t.environments + k) * V() + v; }
    Words words(uint32_t environment, int32_t v, uint32_t purpose, uint32_t block = 0) const {
        Address a = address(index, environment, v, purpose);
        a.block = block;
        return philox(a, seed);
    }
};

const Distribution& weight_distribution(const Dataset& d, int32_t p, int32_t v) {
    if (d.graph->kind == USER_GRAPH)
        for (int32_t e = 0; e < d.graph->num_edges; ++e)
            if (d.graph->edges[2 * e] == p && d.graph->edges[2 * e + 1] == v) return d.graph->edge_weights[e];
    return d.prior.weight;
}

// Weights into v and its noise scale, for environment k; version 0 is the dataset's own, k + 1 a redraw.
void draw_mechanism_strengths(const Dataset& d, int64_t k, int32_t v, uint32_t version) {
    for (int32_t p = 0; p < d.n; ++p)
        if (d.edge(p, v))
            d.weight(k, p, v) = draw_number(weight_distribution(d, p, v), d.words(version, v, FOR_WEIGHT, p));
    const Distribution& scale = d.prior.noise_scale[d.prior.noise_scale_per_variable ? v : 0];
    d.t.noise_scale[d.at(k, v)] = draw_number(scale, d.words(version, v, FOR_NOISE_SCALE));
}

void draw_variable(const Dataset& d, int32_t v, int64_t* parameter_offset) {
    const int64_t bv = d.b * d.V() + v;
    draw_mechanism_strengths(d, 0, v, 0);
    d.t.bias[d.at(0, v)] = draw_number(d.prior.bias[d.prior.bias_per_variable ? v : 0], d.words(0, v, FOR_BIAS));

    const Noise& noise = d.prior.noises[pick(d.words(0, v, FOR_NOISE_KIND).w0, d.prior.num_noises)];
    d.t.noise_kind[bv] = noise.kind;
    float given[NOISE_INPUTS];
    for (int i = 0; i < NOISE_INPUTS; ++i)
        given[i] = draw_number(noise.parameters[i], d.words(0, v, FOR_NOISE_KIND, uint32_t(1 + i)));
    prepare_noise(noise.kind, given, d.t.noise_parameters + NOISE_PARAMETERS * bv);
    const uint32_t word = d.words(0, v, FOR_NOISE_EFFECT).w0;
    d.t.noise_effect[bv] = d.prior.noise_effects[pick(word, d.prior.num_noise_effects)];

    const int32_t parents = count_parents(d.t.adjacency + d.b * d.V() * d.V(), d.V(), d.n, v);
    const MechanismDraw m = draw_mechanism(d.prior, d.seed, d.index, v, parents);
    d.t.mechanism[bv] = m.mechanism->kind;
    d.t.mechanism_offset[d.at(0, v)] = *parameter_offset;
    if (num_parameters(m) == 0) return;
    draw_mlp(m, d.seed, address(d.index, 0, v, FOR_PARAMETERS), d.t.parameters + *parameter_offset);
    *parameter_offset += num_parameters(m);
}

void copy_environment(const Dataset& d, int64_t k) {
    for (int32_t v = 0; v < d.n; ++v) {
        const int64_t from = d.at(0, v), to = d.at(k, v);
        d.t.bias[to] = d.t.bias[from];
        d.t.noise_scale[to] = d.t.noise_scale[from];
        d.t.mechanism_offset[to] = d.t.mechanism_offset[from];
        for (int32_t p = 0; p < d.n; ++p) d.weight(k, p, v) = d.weight(0, p, v);
    }
}

// ---- The target variable --------------------------------------------------------------------------------------------

// 2: has parents and children, 1: has parents, 0: neither is asked.
bool is_inner(const Dataset& d, int32_t v, int demand) {
    bool parent = demand < 1, child = demand < 2;
    for (int32_t u = 0; u < d.n; ++u) {
        parent |= d.edge(u, v);
        child |= d.edge(v, u);
    }
    return parent && child;
}

int32_t draw_target(const Dataset& d) {
    if (d.prior.target >= 0) return d.prior.target;
    const uint32_t word = d.words(0, 0, FOR_TARGET).w0;
    for (int demand = d.prior.target == TARGET_INNER ? 2 : 0;; --demand) {
        int32_t eligible = 0;
        for (int32_t v = 0; v < d.n; ++v) eligible += is_inner(d, v, demand);
        if (eligible == 0) continue;  // never at demand 0
        int32_t left = pick(word, eligible);
        for (int32_t v = 0; v < d.n; ++v)
            if (is_inner(d, v, demand) && left-- == 0) return v;
    }
}

// ---- Interventions --------------------------------------------------------------------------------------------------

// A variable under do() in this environment stays as it is, whatever else is asked.
void intervene(const Dataset& d, int64_t k, int32_t v, const Intervention& what, Words words) {
    const int64_t at = d.at(k, v);
    if (d.t.hard[at]) return;
    const float value = draw_number(what.value, words);
    d.t.intervention[at] = what.kind;
    if (what.kind == SHIFT) d.t.bias[at] += value;
    if (what.kind == SCALE) d.t.noise_scale[at] *= value;
    if (what.kind == SET_NOISE) d.t.noise_scale[at] = value;
    if (what.kind == REDRAW) draw_mechanism_strengths(d, k, v, uint32_t(k) + 1);
    if (what.kind != HARD) return;
    d.t.hard[at] = true;
    d.t.bias[at] = value;
    d.t.noise_scale[at] = 0.0f;
    for (int32_t p = 0; p < d.n; ++p) d.weight(k, p, v) = 0.0f;
}

void intervene_at_random(const Dataset& d, int64_t k, const Intervention& what, Stream stream, int32_t* candidates) {
    int32_t available = 0;
    for (int32_t v = 0; v < d.n; ++v)
        if (what.on_target || v != d.t.target_index[d.b]) candidates[available++] = v;
    for (int32_t left = pick(stream.next(), what.number); left > 0 && available > 0; --left, --available) {
        const int32_t chosen = pick(stream.next(), available);
        intervene(d, k, candidates[chosen], what, stream.block());
        candidates[chosen] = candidates[available - 1];
    }
}

void intervene_in_environment(const Dataset& d, int64_t k, const Intervention* list, int32_t count,
                              int32_t* candidates) {
    for (int32_t i = 0; i < count; ++i) {
        Stream stream(address(d.index, uint32_t(k), i, FOR_INTERVENTION), d.seed);
        if (list[i].variables == nullptr) {
            intervene_at_random(d, k, list[i], stream, candidates);
            continue;
        }
        for (int32_t j = 0; j < list[i].num_variables; ++j)
            intervene(d, k, list[i].variables[j], list[i], stream.block());
    }
}

}  // namespace

int64_t draw_graph(const Prior& prior, uint64_t seed, int64_t index, int64_t V, bool* adjacency, int64_t* order,
                   int32_t* scratch) {
    const Sizes sizes = draw_sizes(prior, seed, index);
    draw_structure(sizes, seed, index, V, adjacency, order, scratch);
    int64_t count = 0;
    for (int32_t v = 0; v < sizes.variables; ++v) {
        const int32_t parents = count_parents(adjacency, V, sizes.variables, v);
        count += num_parameters(draw_mechanism(prior, seed, index, v, parents));
    }
    return count;
}

void draw_dataset(const Prior& prior, uint64_t seed, int64_t parameter_offset, const Tables& t, int64_t b,
                  int32_t* scratch) {
    const int64_t V = t.variables, index = t.index[b];
    const Sizes sizes = draw_sizes(prior, seed, index);
    const Dataset d{prior, t, seed, b, index, sizes.variables, sizes.graph};
    t.num_variables[b] = sizes.variables;
    t.num_environments[b] = sizes.sources + sizes.targets;
    draw_structure(sizes, seed, index, V, t.adjacency + b * V * V, t.order + b * V, scratch);
    t.target_index[b] = draw_target(d);
    for (int32_t v = 0; v < d.n; ++v) draw_variable(d, v, &parameter_offset);
    for (int64_t k = 1; k < sizes.sources + sizes.targets; ++k) copy_environment(d, k);
    for (int64_t k = 0; k < sizes.sources + sizes.targets; ++k) {
        const bool is_target = k >= sizes.sources;
        t.is_target[b * t.environments + k] = is_target;
        if (is_target)
            intervene_in_environment(d, k, prior.target_interventions, prior.num_target_interventions, scratch);
        else
            intervene_in_environment(d, k, prior.source_interventions, prior.num_source_interventions, scratch);
    }
}

}  // namespace settx::scm::SETTX_PATH
