#include "buffer.h"

#include <cstring>
#include <new>
#include <random>
#include <utility>

namespace hopfill::cli {
namespace {

constexpr std::align_val_t kAlignment{256};

}  // namespace

Result<Buffer> Buffer::allocate(Device device, std::size_t bytes) {
    Buffer out;
    out.device_ = device;
    out.size_ = bytes;
    if (bytes == 0) return out;
    if (device.kind == Device::Kind::cpu) {
        out.data_ = ::operator new(bytes, kAlignment);
        return out;
    }
    Result<void*> memory = device::allocate(bytes);
    if (!memory) return memory.error();
    out.data_ = *memory;
    return out;
}

Buffer::Buffer(Buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)), device_(other.device_) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(device_, other.device_);
    return *this;
}

Buffer::~Buffer() {
    if (device_.kind == Device::Kind::cuda) {
        device::release(data_);
    } else {
        ::operator delete(data_, kAlignment);
    }
}

Result<void> Buffer::upload(std::span<const std::byte> from) {
    if (from.empty()) return {};
    if (device_.kind == Device::Kind::cuda) return device::upload(data_, from.data(), from.size());
    std::memcpy(data_, from.data(), from.size());
    return {};
}

Result<void> Buffer::download(std::span<std::byte> to) const {
    if (to.empty()) return {};
    if (device_.kind == Device::Kind::cuda) return device::download(to.data(), data_, to.size());
    std::memcpy(to.data(), data_, to.size());
    return {};
}

Device device_of(Backend backend) { return {backend == Backend::sm90 ? Device::Kind::cuda : Device::Kind::cpu, 0}; }

void fill_random(std::span<std::byte> to, DType dtype, std::uint64_t seed) {
    std::mt19937_64 random(seed);
    // Sign, one of three exponents from 2^-2, and the mantissa.
    const auto draw = [&random](int mantissa_bits, std::uint64_t exponent_of_quarter) {
        const std::uint64_t r = random();
        const std::uint64_t sign = r >> 63, exponent = exponent_of_quarter + (r >> 32) % 3, mantissa = r & ((std::uint64_t{1} << mantissa_bits) - 1);
        return std::pair(sign, exponent << mantissa_bits | mantissa);
    };
    const std::size_t width = static_cast<std::size_t>(size_of(dtype));
    for (std::size_t at = 0; at + width <= to.size(); at += width) {
        std::uint64_t bits = 0;
        switch (dtype) {
            case DType::f32: {
                const auto [sign, rest] = draw(23, 125);
                bits = sign << 31 | rest;
                break;
            }
            case DType::bf16: {
                const auto [sign, rest] = draw(7, 125);
                bits = sign << 15 | rest;
                break;
            }
            case DType::f16: {
                const auto [sign, rest] = draw(10, 13);
                bits = sign << 15 | rest;
                break;
            }
            case DType::e4m3: {
                const auto [sign, rest] = draw(3, 5);
                bits = sign << 7 | rest;
                break;
            }
            case DType::i32:
                break;
        }
        std::memcpy(to.data() + at, &bits, width);  // x86-64 is little-endian
    }
}

Result<void> GpuTarget::run(const AttentionProblem& problem, const AttentionTensors& tensors, const AttentionOptions& options,
                            std::uint64_t schedule) {
    if (auto done = Target::run(problem, tensors, options, schedule); !done) return done;
    return device::synchronize();
}

std::unique_ptr<check::Target> target_of(Backend backend) {
    if (backend == Backend::sm90) return std::make_unique<GpuTarget>();
    return std::make_unique<check::Target>(backend);
}

}  // namespace hopfill::cli
