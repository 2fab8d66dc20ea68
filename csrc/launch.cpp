#include "launch.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace settx {
namespace {

constexpr size_t MAX_BYTES = 4096;  // what the driver takes
constexpr size_t MAX_PARAMETERS = 512;
constexpr uint64_t ALIGNMENT = 16;  // what programs are compiled for

struct Driver {
    int (*launch_kernel)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**,
                         void**);
    int (*set_bytes)(uint64_t, unsigned char, size_t, void*);
    int (*current_context)(void**);
    int (*set_context)(void*);
    int (*device)(int*, int);
    int (*retain_context)(void**, int);
    int (*error_text)(int, const char**);

    Driver() {
        void* library = dlopen("libcuda.so.1", RTLD_LAZY);
        if (library == nullptr) throw std::runtime_error("no CUDA driver: libcuda.so.1 was not found");
        find(library, "cuLaunchKernel", launch_kernel);
        find(library, "cuMemsetD8Async", set_bytes);
        find(library, "cuCtxGetCurrent", current_context);
        find(library, "cuCtxSetCurrent", set_context);
        find(library, "cuDeviceGet", device);
        find(library, "cuDevicePrimaryCtxRetain", retain_context);
        find(library, "cuGetErrorString", error_text);
    }

    template <typename Function>
    static void find(void* library, const char* name, Function& function) {
        function = reinterpret_cast<Function>(dlsym(library, name));
        if (function == nullptr) throw std::runtime_error(std::string("the CUDA driver has no ") + name);
    }
};

const Driver& driver() {
    static const Driver found;
    return found;
}

void check(int error, const std::string& what) {
    if (error == 0) return;
    const char* text = nullptr;
    driver().error_text(error, &text);
    throw std::runtime_error(what + ": CUDA error " + std::to_string(error) + ", " + (text ? text : "unknown"));
}

// The device's primary context, which PyTorch works in. Kept: a plan may outlive whoever else holds it.
void* primary_context(int ordinal) {
    int device = 0;
    void* context = nullptr;
    check(driver().device(&device, ordinal), "device " + std::to_string(ordinal));
    check(driver().retain_context(&context, device), "the context of device " + std::to_string(ordinal));
    return context;
}

// Makes a context current, and again what was before. A thread of autograd's may have none: it keeps this one, as it
// would the one that PyTorch gives it.
class Current {
  public:
    explicit Current(void* context) {
        check(driver().current_context(&before_), "the current context");
        changed_ = before_ != context;
        if (changed_) check(driver().set_context(context), "the plan's context");
    }
    ~Current() {
        if (changed_ && before_ != nullptr) driver().set_context(before_);
    }
    Current(const Current&) = delete;
    Current& operator=(const Current&) = delete;

  private:
    void* before_ = nullptr;
    bool changed_ = false;
};

void check_limits(const Launch& launch, size_t num_bases) {
    const auto refuse = [&](const std::string& what) { throw std::invalid_argument(launch.name + ": " + what); };
    const size_t size = launch.parameters.size();
    if (size > MAX_BYTES || launch.offsets.size() > MAX_PARAMETERS)
        refuse("expected at most " + std::to_string(MAX_PARAMETERS) + " parameters in " + std::to_string(MAX_BYTES) +
               " bytes, got " + std::to_string(launch.offsets.size()) + " in " + std::to_string(size));
    for (const uint32_t offset : launch.offsets)
        if (offset >= size) refuse("a parameter lies outside its bytes");
    for (const Patch& patch : launch.patches)
        if (patch.base >= num_bases || (launch.function != nullptr && patch.at + sizeof(uint64_t) > size))
            refuse("an address lies outside the parameters or the buffers");
    if (launch.function == nullptr && launch.patches.size() != 1) refuse("expected one address to set to zero");
}

int queue(const Launch& launch, const std::vector<uint64_t>& bases, void* stream) {
    if (launch.function == nullptr) {
        const Patch& patch = launch.patches[0];
        return launch.bytes ? driver().set_bytes(bases[patch.base] + patch.offset, 0, launch.bytes, stream) : 0;
    }
    if (launch.programs == 0) return 0;
    // copies: another thread may run the same plan
    alignas(16) unsigned char bytes[MAX_BYTES];
    void* parameters[MAX_PARAMETERS];
    std::copy(launch.parameters.begin(), launch.parameters.end(), bytes);
    for (const Patch& patch : launch.patches) {
        const uint64_t address = bases[patch.base] + patch.offset;
        std::memcpy(bytes + patch.at, &address, sizeof address);
    }
    for (size_t i = 0; i < launch.offsets.size(); ++i) parameters[i] = bytes + launch.offsets[i];
    return driver().launch_kernel(launch.function, launch.programs, 1, 1, launch.threads, 1, 1, launch.shared, stream,
                                  parameters, nullptr);
}

}  // namespace

LaunchPlan::LaunchPlan(int device, size_t num_bases, std::vector<Launch> launches)
    : num_bases_(num_bases), context_(primary_context(device)), launches_(std::move(launches)) {
    for (const Launch& launch : launches_) check_limits(launch, num_bases);
}

bool LaunchPlan::run(uint64_t stream, const std::vector<uint64_t>& bases) const {
    if (bases.size() != num_bases_)
        throw std::invalid_argument("bases: expected " + std::to_string(num_bases_) + " addresses, got " +
                                    std::to_string(bases.size()));
    uint64_t bits = 0;
    for (const uint64_t address : bases) bits |= address;
    if (bits % ALIGNMENT != 0) return false;
    const Current current(context_);
    for (const Launch& launch : launches_)
        check(queue(launch, bases, reinterpret_cast<void*>(stream)), "launch of " + launch.name);
    return true;
}

}  // namespace settx
