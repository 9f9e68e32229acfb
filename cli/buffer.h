// Memory for tensors, on the host or on the current GPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "hopfill/check.h"
#include "hopfill/hopfill.h"

namespace hopfill::cli {

// 256-byte aligned.
class Buffer {
public:
    Buffer() = default;
    // Errors: unavailable or device.
    static Result<Buffer> allocate(Device device, std::size_t bytes);
    Buffer(Buffer&& other) noexcept;
    Buffer& operator=(Buffer&& other) noexcept;
    ~Buffer();

    [[nodiscard]] void* data() const { return data_; }
    [[nodiscard]] std::size_t size() const { return size_; }
    // Host buffers only.
    [[nodiscard]] std::span<std::byte> bytes() const { return {static_cast<std::byte*>(data_), size_}; }
    Result<void> upload(std::span<const std::byte> from);
    Result<void> download(std::span<std::byte> to) const;

private:
    void* data_ = nullptr;
    std::size_t size_ = 0;
    Device device_{};
};

// Where a backend reads its tensors.
Device device_of(Backend backend);

// Values of either sign between 0.25 and 2 (f16 and bf16: uniform bits, so that powers drawn are a real run's).
void fill_random(std::span<std::byte> to, DType dtype, std::uint64_t seed);

// A checking target on the current GPU.
class GpuTarget final : public check::Target {
public:
    GpuTarget() : Target(Backend::sm90) {}
    [[nodiscard]] Device device() const override { return {Device::Kind::cuda, 0}; }
    Result<void*> allocate(std::size_t bytes) override { return device::allocate(bytes); }
    void release(void* p) override { device::release(p); }
    Result<void> upload(void* to, const void* from, std::size_t bytes) override { return device::upload(to, from, bytes); }
    Result<void> download(void* to, const void* from, std::size_t bytes) override { return device::download(to, from, bytes); }
    Result<void> run(const AttentionProblem& problem, const AttentionTensors& tensors, const AttentionOptions& options,
                     std::uint64_t schedule) override;
};

// The target of a backend that is not automatic.
std::unique_ptr<check::Target> target_of(Backend backend);

}  // namespace hopfill::cli
