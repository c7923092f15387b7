// How each weight format multiplies. Weights lie in tiles of 32 output columns: [tile][k / kGroup][32][kGroup], the
// layout that the dot-product instructions (VNNI, AVX512-BF16) and AMX tiles both read.
#pragma once

#include "vectors.hpp"

namespace agentsys {

struct Float32Format {
    using Input = float;
    using Weight = float;
    using Sums = Floats;
    static constexpr int64_t kGroup = 1;

    static Sums multiply(Sums sums, const Input* input, Sums weights) { return sums + *input * weights; }
};

struct BFloat16Format {
    using Input = uint16_t;
    using Weight = uint16_t;
    using Sums = Floats;
    static constexpr int64_t kGroup = 2;

    static Sums multiply(Sums sums, const Input* input, Sums weights) {
        uint32_t pair;
        std::memcpy(&pair, input, sizeof pair);
#if defined(__AVX512BF16__)
        return (Sums)_mm512_dpbf16_ps((__m512)sums, (__m512bh)_mm512_set1_epi32(static_cast<int>(pair)), (__m512bh)weights);
#else
        const Words words = (Words)weights;
        const Words pairs = Words{} + pair;
        sums = sums + (Floats)(pairs << 16) * (Floats)(words << 16);
        return sums + (Floats)(pairs & 0xffff0000u) * (Floats)(words & 0xffff0000u);
#endif
    }
};

// Inputs are stored plus 128, because the dot-product instructions want one unsigned side; Linear::offsets undoes it.
struct Int8Format {
    using Input = uint8_t;
    using Weight = int8_t;
    using Sums = Ints;
    static constexpr int64_t kGroup = 4;

    static Sums multiply(Sums sums, const Input* input, Sums weights) {
#if defined(__AVX512VNNI__)
        int32_t group;
        std::memcpy(&group, input, sizeof group);
        return (Sums)_mm512_dpbusd_epi32((__m512i)sums, _mm512_set1_epi32(group), (__m512i)weights);
#else
        sums += ((weights << 24) >> 24) * static_cast<int32_t>(input[0]);
        sums += ((weights << 16) >> 24) * static_cast<int32_t>(input[1]);
        sums += ((weights << 8) >> 24) * static_cast<int32_t>(input[2]);
        return sums + (weights >> 24) * static_cast<int32_t>(input[3]);
#endif
    }
};

}  // namespace agentsys
