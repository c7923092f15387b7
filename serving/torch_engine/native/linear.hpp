// Matrix products of a batch's rows with packed weights, and the preparation of their inputs.
#pragma once

#include "formats.hpp"
#include "model.hpp"
#include "threads.hpp"

namespace agentsys {

constexpr int64_t kTile = 32;
constexpr int64_t kPrefetchBytes = 2048;

inline void prepare_row(Float32Format, const float* row, const Inputs& inputs, int64_t index) {
    const size_t bytes = static_cast<size_t>(inputs.stride) * sizeof(float);
    std::memcpy(static_cast<float*>(inputs.values) + index * inputs.stride, row, bytes);
}

inline void prepare_row(BFloat16Format, const float* row, const Inputs& inputs, int64_t index) {
    float* values = static_cast<float*>(inputs.values) + index * inputs.stride;
    for (int64_t k = 0; k < inputs.stride; k += kLanes) {
        const Words bits = load<Words>(row + k);
        store(values + k, (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u);
    }
}

// Each span of 64 inputs has its own scale: an outlier coarsens only its neighbours.
inline void prepare_row(Int8Format, const float* row, const Inputs& inputs, int64_t index) {
    typedef int8_t Bytes __attribute__((vector_size(16)));
    int8_t* values = static_cast<int8_t*>(inputs.values) + index * inputs.stride;
    for (int64_t k = 0; k < inputs.stride; k += kSpan) {
        Floats largest{}, total{};
        for (int64_t i = k; i < k + kSpan; i += kLanes) largest = larger(largest, magnitude(load<Floats>(row + i)));
        const float bound = maximum(largest);
        const float scale = (bound > 1e-10f ? bound : 1e-10f) / 127.0f;
        for (int64_t i = k; i < k + kSpan; i += kLanes) {
            const Floats rounded = round_even(load<Floats>(row + i) / scale);
            total += rounded;
            store(values + i, __builtin_convertvector(__builtin_convertvector(rounded, Ints), Bytes));
        }
        const int64_t span = inputs.span(index, k);
        inputs.scales[span] = scale;
        inputs.corrections[span] = -128 * static_cast<int32_t>(sum(total));
    }
}

inline Floats finish(Floats totals, const AgentsysLinear& linear, int64_t column) {
    if (linear.scales != nullptr) totals *= load<Floats>(linear.scales + column);
    if (linear.bias != nullptr) totals += load<Floats>(linear.bias + column);
    return totals;
}

// One tile of 32 columns for kRows rows; emit(row, column, left 16, right 16).
template <class Format, int kRows, class Emit>
inline void multiply_rows(const AgentsysLinear& linear, const Inputs& inputs, int64_t tile, int64_t row, Emit& emit) {
    using Sums = typename Format::Sums;
    constexpr int64_t kHalf = kLanes * Format::kGroup;
    const auto* weights = static_cast<const typename Format::Weight*>(linear.weights) + tile * kTile * linear.inputs;
    const auto* input = static_cast<const typename Format::Input*>(inputs.values) + row * inputs.stride;
    Floats totals[kRows][2] = {};
    for (int64_t start = 0; start < linear.inputs; start += kSpan) {
        Sums sums[kRows][2];
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
            sums[r][0] = Format::begin(totals[r][0], inputs, inputs.span(row + r, start));
            sums[r][1] = Format::begin(totals[r][1], inputs, inputs.span(row + r, start));
        }
        for (int64_t k = start; k < start + kSpan; k += Format::kGroup, weights += 2 * kHalf) {
            const Sums left = load<Sums>(weights), right = load<Sums>(weights + kHalf);
            const char* ahead = reinterpret_cast<const char*>(weights) + kPrefetchBytes;
            __builtin_prefetch(ahead);
            __builtin_prefetch(ahead + sizeof(Sums));
#pragma GCC unroll 8
            for (int r = 0; r < kRows; ++r) {
                const auto* at = input + r * inputs.stride + k;
                sums[r][0] = Format::multiply(sums[r][0], at, left);
                sums[r][1] = Format::multiply(sums[r][1], at, right);
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
            totals[r][0] = Format::end(totals[r][0], sums[r][0], inputs, inputs.span(row + r, start));
            totals[r][1] = Format::end(totals[r][1], sums[r][1], inputs, inputs.span(row + r, start));
        }
    }
    const int64_t column = tile * kTile;
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
        emit(row + r, column, finish(totals[r][0], linear, column), finish(totals[r][1], linear, column + kLanes));
    }
}

template <class Format, int kRows, class Emit>
inline void multiply_some(
    const AgentsysLinear& linear, const Inputs& inputs, int64_t tile, int64_t row, int64_t rows, Emit& emit) {
    if constexpr (kRows > 0) {
        if (rows == kRows) return multiply_rows<Format, kRows>(linear, inputs, tile, row, emit);
        multiply_some<Format, kRows - 1>(linear, inputs, tile, row, rows, emit);
    }
}

template <class Format, class Emit>
void multiply(Pool& pool, const AgentsysLinear& linear, const Inputs& inputs, int64_t rows, Emit emit) {
    const int64_t tiles = linear.outputs / kTile;
    const int64_t share = tiles / (pool.size() * 8);
    const int64_t grain = share < 1 ? 1 : share;
    // Rows are cut into even groups: 8 rows at 6 at most are two groups of 4, not 6 and 2.
    const int64_t groups = (rows + Format::kMostRows - 1) / Format::kMostRows;
    pool.run((tiles + grain - 1) / grain, [&](int64_t chunk, int) {
        const int64_t end = (chunk + 1) * grain < tiles ? (chunk + 1) * grain : tiles;
        for (int64_t tile = chunk * grain; tile < end; ++tile) {
            for (int64_t group = 0; group < groups; ++group) {
                const int64_t row = rows * group / groups, next = rows * (group + 1) / groups;
                multiply_some<Format, Format::kMostRows>(linear, inputs, tile, row, next - row, emit);
            }
        }
    });
}

}  // namespace agentsys
