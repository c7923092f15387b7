// How each weight format multiplies. Weights lie in tiles of 32 output columns: [tile][k / kGroup][32][kGroup], the
// layout that dot-product instructions read. Sums run over spans of 64 inputs; `begin` and `end` frame a span.
#pragma once

#include "vectors.hpp"

namespace agentsys {

constexpr int64_t kSpan = 64;

// Rows as the format wants them: one scale and one correction per span, for int8 only.
struct Inputs {
    void* values;
    float* scales;
    int32_t* corrections;
    int64_t stride;

    int64_t span(int64_t row, int64_t k) const { return row * (stride / kSpan) + k / kSpan; }
};

struct Float32Format {
    using Input = float;
    using Weight = float;
    using Sums = Floats;
    static constexpr int64_t kGroup = 1;
    static constexpr int kMostRows = 8;

    static Sums begin(Floats totals, const Inputs&, int64_t) { return totals; }

    static Sums multiply(Sums sums, const Input* input, Sums weights) { return sums + *input * weights; }

    static Floats end(Floats, Sums sums, const Inputs&, int64_t) { return sums; }
};

// Pairs of bfloat16 widen to float32, so sums are as exact as in float32 (and, measured, faster than AVX512-BF16's own
// dot product). Inputs are float32 rounded to bfloat16.
struct BFloat16Format : Float32Format {
    using Weight = uint16_t;
    static constexpr int64_t kGroup = 2;

    static Sums multiply(Sums sums, const Input* input, Sums weights) {
        const Words pairs = (Words)weights;
        sums += input[0] * (Floats)(pairs << 16);
        return sums + input[1] * (Floats)(pairs & 0xffff0000u);
    }
};

// Dot-product instructions want one unsigned side, so weights are stored plus 128 and each span starts from the
// correction, -128 times the sum of its inputs. A span is summed exactly, as integers.
struct Int8Format {
    using Input = int8_t;
    using Weight = uint8_t;
    using Sums = Ints;
    static constexpr int64_t kGroup = 4;
    static constexpr int kMostRows = 6;  // twice the sums in registers

    static Sums begin(Floats, const Inputs& inputs, int64_t span) { return Ints{} + inputs.corrections[span]; }

    static Sums multiply(Sums sums, const Input* input, Sums weights) {
#if defined(__AVX512VNNI__)
        int32_t group;
        std::memcpy(&group, input, sizeof group);
        return (Sums)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)weights, _mm512_set1_epi32(group));
#else
        const Words words = (Words)weights;
        sums += (Ints)(words & 0xffu) * static_cast<int32_t>(input[0]);
        sums += (Ints)((words >> 8) & 0xffu) * static_cast<int32_t>(input[1]);
        sums += (Ints)((words >> 16) & 0xffu) * static_cast<int32_t>(input[2]);
        return sums + (Ints)(words >> 24) * static_cast<int32_t>(input[3]);
#endif
    }

    static Floats end(Floats totals, Sums sums, const Inputs& inputs, int64_t span) {
        return totals + __builtin_convertvector(sums, Floats) * inputs.scales[span];
    }
};

}  // namespace agentsys
