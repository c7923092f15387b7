// Matrix products of a batch's rows with packed weights, and the preparation of their inputs.
#pragma once

#include "formats.hpp"
#include "model.hpp"
#include "threads.hpp"

namespace agentsys {

constexpr int64_t kTile = 32;
constexpr int64_t kRowBlock = 8;

// Rows as the format wants them; scales only for int8.
struct Inputs {
    void* values;
    float* scales;
    int64_t stride;
};

inline void prepare_row(Float32Format, const float* row, int64_t width, float* values, float*) {
    std::memcpy(values, row, static_cast<size_t>(width) * sizeof(float));
}

inline void prepare_row(BFloat16Format, const float* row, int64_t width, uint16_t* values, float*) {
    for (int64_t i = 0; i < width; i += kLanes) {
        const Words bits = load<Words>(row + i);
        const Words rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
        typedef uint16_t Shorts __attribute__((vector_size(32)));
        store(values + i, __builtin_convertvector(rounded, Shorts));
    }
}

inline void prepare_row(Int8Format, const float* row, int64_t width, uint8_t* values, float* scale) {
    Floats largest{};
    for (int64_t i = 0; i < width; i += kLanes) largest = larger(largest, magnitude(load<Floats>(row + i)));
    const float bound = maximum(largest);
    *scale = (bound > 1e-10f ? bound : 1e-10f) / 127.0f;
    const Floats divisor = all(*scale);
    for (int64_t i = 0; i < width; i += kLanes) {
        typedef uint8_t Bytes __attribute__((vector_size(16)));
        const Floats rounded = round_even(load<Floats>(row + i) / divisor) + 128.0f;
        store(values + i, __builtin_convertvector(__builtin_convertvector(rounded, Ints), Bytes));
    }
}

inline Floats finish(Floats sums, const AgentsysLinear&, const Inputs&, int64_t, int64_t) { return sums; }

inline Floats finish(Ints sums, const AgentsysLinear& linear, const Inputs& inputs, int64_t row, int64_t column) {
    const Ints exact = sums - load<Ints>(linear.offsets + column);
    return __builtin_convertvector(exact, Floats) * inputs.scales[row] * load<Floats>(linear.scales + column);
}

// One tile of 32 columns for kRows rows; emit(row, column, left 16, right 16).
template <class Format, int kRows, class Emit>
inline void multiply_rows(const AgentsysLinear& linear, const Inputs& inputs, int64_t tile, int64_t row, Emit& emit) {
    using Sums = typename Format::Sums;
    constexpr int64_t kHalf = kLanes * Format::kGroup;
    const auto* weights = static_cast<const typename Format::Weight*>(linear.weights) + tile * kTile * linear.inputs;
    const auto* input = static_cast<const typename Format::Input*>(inputs.values) + row * inputs.stride;
    Sums sums[kRows][2] = {};
    for (int64_t k = 0; k < linear.inputs; k += Format::kGroup, weights += 2 * kHalf) {
        const Sums left = load<Sums>(weights), right = load<Sums>(weights + kHalf);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
            const auto* at = input + r * inputs.stride + k;
            sums[r][0] = Format::multiply(sums[r][0], at, left);
            sums[r][1] = Format::multiply(sums[r][1], at, right);
        }
    }
    const int64_t column = tile * kTile;
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
        Floats left = finish(sums[r][0], linear, inputs, row + r, column);
        Floats right = finish(sums[r][1], linear, inputs, row + r, column + kLanes);
        if (linear.bias != nullptr) {
            left += load<Floats>(linear.bias + column);
            right += load<Floats>(linear.bias + column + kLanes);
        }
        emit(row + r, column, left, right);
    }
}

template <class Format, int kRows, class Emit>
inline void multiply_rest(
    const AgentsysLinear& linear, const Inputs& inputs, int64_t tile, int64_t row, int64_t rest, Emit& emit) {
    if constexpr (kRows > 0) {
        if (rest == kRows) return multiply_rows<Format, kRows>(linear, inputs, tile, row, emit);
        multiply_rest<Format, kRows - 1>(linear, inputs, tile, row, rest, emit);
    }
}

template <class Format, class Emit>
void multiply(Pool& pool, const AgentsysLinear& linear, const Inputs& inputs, int64_t rows, Emit emit) {
    const int64_t tiles = linear.outputs / kTile;
    const int64_t wanted = tiles / (pool.size() * 8);
    const int64_t grain = wanted < 1 ? 1 : wanted;
    pool.run((tiles + grain - 1) / grain, [&](int64_t chunk, int) {
        const int64_t end = (chunk + 1) * grain < tiles ? (chunk + 1) * grain : tiles;
        for (int64_t tile = chunk * grain; tile < end; ++tile) {
            int64_t row = 0;
            for (; row + kRowBlock <= rows; row += kRowBlock) {
                multiply_rows<Format, kRowBlock>(linear, inputs, tile, row, emit);
            }
            multiply_rest<Format, kRowBlock - 1>(linear, inputs, tile, row, rows - row, emit);
        }
    });
}

}  // namespace agentsys
