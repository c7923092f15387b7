// The plain structures that cross from Python; kernels_abi.py mirrors them field by field.
#pragma once

#include <cstdint>

extern "C" {

struct AgentsysLinear {
    const void* weights;
    const float* scales;  // one per output, for int8
    const float* bias;
    int64_t inputs;   // padded to 64
    int64_t outputs;  // padded to 32
};

struct AgentsysLayer {
    const float* attention_norm;
    const float* query_norm;
    const float* key_norm;
    const float* feed_forward_norm;
    AgentsysLinear query_key_value;
    AgentsysLinear output;
    AgentsysLinear gate_up;
    AgentsysLinear down;
    int64_t window;  // 0: none
};

struct AgentsysModel {
    int64_t format;  // 0 float32, 1 bfloat16, 2 int8
    int64_t layers;
    int64_t hidden;
    int64_t hidden_padded;
    int64_t heads;
    int64_t kv_heads;
    int64_t head_dim;
    float epsilon;
    const AgentsysLayer* layer;
    const float* norm;
    AgentsysLinear head;
    const float* cosines;
    const float* sines;
    void* keys;
    void* values;
    int64_t cache_is_half;
    int64_t blocks;
    int64_t block_size;
};

struct AgentsysBatch {
    int64_t rows;
    const int32_t* positions;
    const int32_t* sequences;
    const int32_t* tables;
    int64_t table_stride;
    float* hidden;  // [rows][hidden_padded], embeddings in, residual stream out
    int64_t wanted_rows;
    const int32_t* wanted;
    float* logits;  // [wanted_rows][head.outputs]
};

}
