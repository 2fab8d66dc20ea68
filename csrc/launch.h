// Launches of a recorded plan through the CUDA driver, which is looked for when the first plan is made: neither
// building nor importing needs one.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace settx {

// Eight bytes of a launch's parameters: the address of a buffer, and how far behind it.
struct Patch {
    uint32_t at;
    uint32_t base;
    uint64_t offset;
};

// A kernel with everything but addresses in `parameters`, or, without a function, zeros: `bytes` of them at patch 0.
struct Launch {
    std::string name;
    void* function = nullptr;
    unsigned programs = 0;
    unsigned threads = 0;
    unsigned shared = 0;
    size_t bytes = 0;
    std::vector<unsigned char> parameters;
    std::vector<uint32_t> offsets;  // of every parameter
    std::vector<Patch> patches;
};

class LaunchPlan {
  public:
    // Throws std::runtime_error without a driver, std::invalid_argument for a launch outside its limits.
    LaunchPlan(int device, size_t num_bases, std::vector<Launch> launches);

    // Queues all launches on a stream of the device, from whichever thread. False, with nothing queued, where an
    // address is no multiple of 16. Throws std::runtime_error that names the launch the driver refused.
    bool run(uint64_t stream, const std::vector<uint64_t>& bases) const;

    size_t num_bases() const { return num_bases_; }

  private:
    size_t num_bases_;
    void* context_;
    std::vector<Launch> launches_;
};

}  // namespace settx
