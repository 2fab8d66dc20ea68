// Kernels and their launches; what a lane does is in evaluate_item.h and evaluate_row.h, how a model is drawn in
// draw.cpp, which is compiled here once more. Flags: no contraction, IEEE division and square root, subnormal numbers
// kept.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "columns.h"
#include "evaluate_lane.h"
#include "sample_cuda.h"

#define SETTX_PATH cuda
#include "draw.cpp"
#include "draw_graph.cpp"
#include "draw_mechanism.cpp"

namespace settx::scm {

namespace cuda {

// x (count,) += scale · noise, all rows by one thread.
SETTX_CALL void add_noise(int32_t kind, const float* parameters, float scale, Address at, uint64_t seed, int64_t count,
                          float* x) {
    for (int64_t row = 0; row < count; row += BLOCK)
        for (int lane = 0; lane < LANES; ++lane, ++at.block) {
            const Quad noise = draw_noise(kind, parameters, at, seed);
            for (int r = 0; r < QUAD; ++r) {
                float& at_row = x[row + r * LANES + lane];
                at_row = fma(scale, noise.row[r], at_row);
            }
        }
}

}  // namespace cuda

namespace {

// ---- Kernels --------------------------------------------------------------------------------------------------------

__global__ void draw_datasets(Prior prior, uint64_t seed, const int64_t* parameter_offset, Tables t, int32_t* scratch) {
    const int64_t b = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (b < t.datasets) cuda::draw_dataset(prior, seed, parameter_offset[b], t, b, scratch + 2 * t.variables * b);
}

__global__ void list_all_parents(Tables t, int32_t* parents) {
    const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < t.datasets * t.variables) list_parents(t, i / t.variables, i % t.variables, parents);
}

__global__ void __launch_bounds__(MOST_LANES, 4)
    evaluate_in_tiles(Tables t, Rows rows, Plan plan, const int32_t* parents, float* hidden) {
    extern __shared__ float tile[];
    const int32_t lane = int32_t(threadIdx.x);
    hidden += blockIdx.x * plan.hidden_per_block();
    for (int64_t number = blockIdx.x; number < t.datasets * plan.items; number += gridDim.x) {
        Item item;
        if (!find_item(t, rows, plan, number, &item)) continue;
        evaluate_lane(t, rows, parents, plan, item, lane, tile_of_lane(tile, plan, lane), hidden);
        write_environment(t, rows, item, lane, plan.lanes);
        __syncthreads();
        write_tile(t, rows, plan, item, lane, tile);
        __syncthreads();
    }
}

__global__ void __launch_bounds__(MOST_LANES)
    evaluate_in_place(Tables t, Rows rows, Plan plan, const int32_t* parents, float* hidden) {
    const int32_t lane = int32_t(threadIdx.x);
    hidden += blockIdx.x * plan.hidden_per_block();
    for (int64_t number = blockIdx.x; number < t.datasets * plan.items; number += gridDim.x) {
        Item item;
        if (!find_item(t, rows, plan, number, &item)) continue;
        const LaneMemory values = output_of_lane(t, rows, item, lane);
        evaluate_lane(t, rows, parents, plan, item, lane, values, hidden);
        write_missing_variables(t, item, values);
        write_environment(t, rows, item, lane, plan.lanes);
    }
}

__global__ void write_noises(Tables t, Rows rows, Plan plan) {
    for (int64_t number = blockIdx.x; number < t.datasets * plan.items; number += gridDim.x) {
        Item item;
        if (find_item(t, rows, plan, number, &item)) write_noise(t, rows, item, int32_t(threadIdx.x));
    }
}

// sums (B, chunks, V)
__global__ void add_columns(Tables t, Rows rows, Sums* sums) {
    const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, item = i / t.variables, v = i % t.variables;
    const int64_t chunks = num_chunks(rows), b = item / chunks, last = first_row_of_chunk(rows, b, item % chunks + 1);
    if (b >= t.datasets) return;
    Sums s{};
    for (int64_t row = first_row_of_chunk(rows, b, item % chunks); row < last; ++row)
        if (is_source_row(t, rows, b, row)) s = add_value(s, rows.values[row * t.variables + v]);
    sums[i] = s;
}

__global__ void find_units(Tables t, Rows rows, const Sums* sums) {
    const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, b = i / t.variables, v = i % t.variables;
    if (b >= t.datasets || v >= t.num_variables[b]) return;
    find_unit(t, b, v, sums + b * num_chunks(rows) * t.variables, num_chunks(rows));
}

__global__ void apply_units(Tables t, Rows rows) {
    const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, v = i % t.variables;
    const int64_t b = i / (rows.rows * t.variables);
    if (b < t.datasets && v < t.num_variables[b]) rows.values[i] = in_unit(t, b * t.variables + v, rows.values[i]);
}

// ---- Launches -------------------------------------------------------------------------------------------------------

void check(cudaError_t status, const char* doing) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // the next call starts clean
    throw std::runtime_error(std::string(cudaGetErrorName(status)) + ": " + cudaGetErrorString(status) + ", while " +
                             doing);
}

int64_t attribute(cudaDeviceAttr which, int device) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, device), "asking for the device's limits");
    return value;
}

DeviceLimits limits_of(int device) {
    return {attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, device),
            attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device)};
}

constexpr int64_t THREADS = 128;

unsigned blocks_for(int64_t threads, int64_t block) {
    return unsigned((threads + block - 1) / block);
}

cudaStream_t start(CudaStream where) {
    check(cudaSetDevice(where.device), "choosing the device");
    return static_cast<cudaStream_t>(where.stream);
}

void scale_columns(const Tables& t, const Rows& rows, Sums* sums, cudaStream_t stream) {
    if (rows.columns == COLUMNS_RAW) return;
    if (rows.columns == COLUMNS_STANDARDISED) {
        const int64_t columns = t.datasets * t.variables;
        add_columns<<<blocks_for(columns * num_chunks(rows), THREADS), THREADS, 0, stream>>>(t, rows, sums);
        check(cudaGetLastError(), "launching add_columns");
        find_units<<<blocks_for(columns, THREADS), THREADS, 0, stream>>>(t, rows, sums);
        check(cudaGetLastError(), "launching find_units");
    }
    apply_units<<<blocks_for(t.datasets * rows.rows * t.variables, THREADS), THREADS, 0, stream>>>(t, rows);
    check(cudaGetLastError(), "launching apply_units");
}

}  // namespace

void draw_cuda(const Prior& prior, uint64_t seed, const int64_t* parameter_offset, const Tables& t, int32_t* scratch,
               CudaStream where) {
    const cudaStream_t stream = start(where);
    draw_datasets<<<blocks_for(t.datasets, 32), 32, 0, stream>>>(prior, seed, parameter_offset, t, scratch);
    check(cudaGetLastError(), "launching draw_datasets");
}

int64_t hidden_floats_cuda(const Tables& sizes, int64_t rows, int64_t deep_width, int device) {
    const Plan plan = make_plan(sizes, rows, deep_width, limits_of(device));
    return plan.blocks * plan.hidden_per_block();
}

int64_t column_chunks_cuda(int64_t rows) {
    return (rows + COLUMN_CHUNK - 1) / COLUMN_CHUNK;
}

void evaluate_cuda(const Tables& t, const Rows& rows, int64_t deep_width, const EvaluationScratch& scratch,
                   CudaStream where) {
    const cudaStream_t stream = start(where);
    const Plan plan = make_plan(t, rows.rows, deep_width, limits_of(where.device));
    list_all_parents<<<blocks_for(t.datasets * t.variables, THREADS), THREADS, 0, stream>>>(t, scratch.parents);
    check(cudaGetLastError(), "launching list_all_parents");
    const unsigned blocks = unsigned(std::min<int64_t>(plan.blocks, INT32_MAX));
    if (plan.in_place) {
        evaluate_in_place<<<blocks, plan.lanes, 0, stream>>>(t, rows, plan, scratch.parents, scratch.hidden);
    } else {
        const int bytes = int(tile_bytes(t, plan));
        check(cudaFuncSetAttribute(evaluate_in_tiles, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
              "reserving shared memory");
        evaluate_in_tiles<<<blocks, plan.lanes, size_t(bytes), stream>>>(t, rows, plan, scratch.parents,
                                                                         scratch.hidden);
    }
    check(cudaGetLastError(), "launching evaluate");
    if (rows.noise != nullptr) write_noises<<<blocks, plan.lanes, 0, stream>>>(t, rows, plan);
    check(cudaGetLastError(), "launching write_noises");
    scale_columns(t, rows, reinterpret_cast<Sums*>(scratch.sums), stream);
}

}  // namespace settx::scm
