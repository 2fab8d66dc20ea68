// A CUDA driver of no-ops: it loads programs without reading them, launches nothing, and can keep what it was handed.
// Built as libcuda.so.1 by no_driver.py.
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { MAX_CALLS = 512, MAX_PARAMS = 256, MAX_BYTES = 4096 };

typedef struct {
    uint64_t function, stream, context;  // function 0: memory set to zero, at stream's place in order
    unsigned grid[3], block[3], shared, bytes;
    unsigned char params[MAX_BYTES];  // parameter after parameter, without padding
} Call;

// Told by the test: how many parameters the launches to come have, and how large each is. Read by it: the calls.
int no_driver_keeps = 0, no_driver_count = 0, no_driver_error = 0;
int no_driver_num_params[MAX_CALLS];
unsigned char no_driver_sizes[MAX_CALLS][MAX_PARAMS];
Call no_driver_calls[MAX_CALLS];
static _Thread_local uint64_t current;
static uint64_t functions = 0x1000;

static int keep(uint64_t function, uint64_t stream, const unsigned* grid, const unsigned* block, unsigned shared,
                void** params) {
    if (no_driver_error) return no_driver_error;
    if (!no_driver_keeps || no_driver_count == MAX_CALLS) return 0;
    const int number = no_driver_count++;
    Call* call = &no_driver_calls[number];
    memset(call, 0, sizeof *call);
    call->function = function, call->stream = stream, call->context = current, call->shared = shared;
    memcpy(call->grid, grid, sizeof call->grid);
    memcpy(call->block, block, sizeof call->block);
    for (int i = 0; i < no_driver_num_params[number]; ++i) {
        memcpy(call->params + call->bytes, params[i], no_driver_sizes[number][i]);
        call->bytes += no_driver_sizes[number][i];
    }
    return 0;
}

int cuLaunchKernel(uint64_t function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, uint64_t stream, void** params, void** extra) {
    (void)extra;
    return keep(function, stream, (unsigned[]){gx, gy, gz}, (unsigned[]){bx, by, bz}, shared, params);
}

typedef struct {
    unsigned grid[3], block[3], shared;
    uint64_t stream;
    void* attributes;
    unsigned count;
} LaunchConfig;

int cuLaunchKernelEx(const LaunchConfig* config, uint64_t function, void** params, void** extra) {
    (void)extra;
    return keep(function, config->stream, config->grid, config->block, config->shared, params);
}

int cuMemsetD8Async(uint64_t at, unsigned char value, size_t bytes, uint64_t stream) {
    const unsigned none[3] = {0, 0, 0}, number = no_driver_count;
    void* params[] = {&at, &bytes, &value};
    if (no_driver_keeps && number < MAX_CALLS) {
        no_driver_num_params[number] = 3;
        memcpy(no_driver_sizes[number], (unsigned char[]){8, 8, 1}, 3);
    }
    return keep(0, stream, none, none, 0, params);
}

int cuGetErrorString(int error, const char** text) {
    return *text = error ? "no such luck" : "no error", 0;
}
int cuInit(unsigned flags) {
    return (void)flags, 0;
}
int cuDriverGetVersion(int* version) {
    return *version = 13000, 0;
}
int cuDeviceGetCount(int* count) {
    return *count = 1, 0;
}
int cuDeviceGet(int* device, int ordinal) {
    return *device = ordinal, 0;
}
int cuDeviceGetAttribute(int* value, int attribute, int device) {
    enum { MAJOR = 75, MINOR = 76, SHARED = 97 };
    (void)device;
    *value = attribute == MAJOR ? 9 : attribute == MINOR ? 0 : attribute == SHARED ? 232448 : 128;
    return 0;
}
int cuCtxGetCurrent(uint64_t* context) {
    return *context = current, 0;
}
int cuCtxSetCurrent(uint64_t context) {
    return current = context, 0;
}
int cuCtxGetDevice(int* device) {
    return *device = 0, 0;
}
int cuCtxSetLimit(int limit, size_t value) {
    return (void)limit, (void)value, 0;
}
int cuCtxGetLimit(size_t* value, int limit) {
    return (void)limit, *value = 0, 0;
}
int cuDevicePrimaryCtxRetain(uint64_t* context, int device) {
    return *context = 0x100 + device, 0;
}
int cuModuleLoadData(uint64_t* module, const void* image) {
    return (void)image, *module = 1, 0;
}
int cuModuleUnload(uint64_t module) {
    return (void)module, 0;
}
int cuModuleGetFunction(uint64_t* function, uint64_t module, const char* name) {
    return (void)module, (void)name, *function = ++functions, 0;
}
int cuFuncGetAttribute(int* value, int attribute, uint64_t function) {
    return (void)function, *value = attribute == 0 ? 1024 : 0, 0;
}
int cuFuncSetAttribute(uint64_t function, int attribute, int value) {
    return (void)function, (void)attribute, (void)value, 0;
}
int cuFuncSetCacheConfig(uint64_t function, int config) {
    return (void)function, (void)config, 0;
}
int cuPointerGetAttribute(uint64_t* value, int attribute, uint64_t at) {
    return (void)attribute, *value = at, 0;
}
int cuStreamIsCapturing(uint64_t stream, int* status) {
    return (void)stream, *status = 0, 0;
}
int cuOccupancyMaxActiveClusters(int* count, uint64_t function, const void* config) {
    return (void)function, (void)config, *count = 1, 0;
}
