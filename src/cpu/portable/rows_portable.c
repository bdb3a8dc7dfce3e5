/* rows_portable.c - everything that works on single rows of floats, in plain C. */
#include "cpu/fill.h"
#include <math.h>
#include <string.h>

static void scale(float *x, int n, float c) {
    for (int i = 0; i < n; i++)
        x[i] *= c;
}

static void add_scaled(float *acc, const float *x, int n, float c) {
    for (int i = 0; i < n; i++)
        acc[i] += x[i] * c;
}

static void f32_to_f16_row(const float *x, int n, f16 *y) {
    for (int i = 0; i < n; i++)
        y[i] = f16_from_f32(x[i]);
}

static void f16_to_f32_row(const f16 *x, int n, float *y) {
    for (int i = 0; i < n; i++)
        y[i] = f16_to_f32(x[i]);
}

static void rms_norm(const float *x, const float *w, int n, float eps, float *y) {
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += (double)x[i] * x[i];
    float inverse = 1.0f / sqrtf((float)(sum / n) + eps);
    for (int i = 0; i < n; i++)
        y[i] = x[i] * inverse * w[i];
}

static void silu_mul(float *gate, const float *up, int n) {
    for (int i = 0; i < n; i++)
        gate[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

/* 0.5 x (1 + tanh(u)) = x / (1 + exp(-2u)), which loses no digits where tanh is near -1. */
static void gelu_mul(float *gate, const float *up, int n) {
    const float root = 0.7978845608028654f, cube = 0.044715f; /* sqrt(2 / pi) */
    for (int i = 0; i < n; i++) {
        float x = gate[i], u = root * x * (1.0f + cube * x * x);
        gate[i] = x / (1.0f + expf(-2.0f * u)) * up[i];
    }
}

static void add(float *x, const float *y, int n) {
    for (int i = 0; i < n; i++)
        x[i] += y[i];
}

static void rope(float *x, int n_rot, bool neox, const float *cos_sin) {
    int half = n_rot / 2, step = neox ? 1 : 2, apart = neox ? half : 1;
    for (int i = 0; i < half; i++) {
        float *first = x + i * step, *second = first + apart;
        float a = *first, b = *second, c = cos_sin[2 * i], s = cos_sin[2 * i + 1];
        *first = a * c - b * s;
        *second = b * c + a * s;
    }
}

/* The largest magnitude of a block. As integers magnitudes order a NaN above everything, so that it is not lost. */
static float largest(const float *x) {
    uint32_t top = 0, bits;
    float magnitude;
    for (int j = 0; j < PACK_BLOCK; j++) {
        memcpy(&bits, &x[j], sizeof(bits));
        bits &= 0x7fffffff;
        top = bits > top ? bits : top;
    }
    memcpy(&magnitude, &top, sizeof(magnitude));
    return magnitude;
}

static void act_quantize(const float *x, int n, int8_t *code, float *scales, int16_t *sum16) {
    for (int b = 0; b < n / PACK_BLOCK; b++) {
        const float *from = x + b * PACK_BLOCK;
        float top = largest(from);
        bool none = !(top >= 1e-30f && top < INFINITY); /* 127 / top would overflow */
        float to_code = none ? 0 : 127.0f / top;
        scales[b] = none ? top * 0 : top / 127.0f;
        for (int g = 0; g < 2; g++) {
            int sum = 0;
            for (int j = g * 16; j < g * 16 + 16; j++) {
                float y = from[j] * to_code;
                int c = y < 127 ? (int)rintf(y > -127 ? y : -127) : 127; /* also when it is not a number */
                code[b * PACK_BLOCK + j] = (int8_t)c;
                sum += c;
            }
            sum16[b * 2 + g] = (int16_t)sum;
        }
    }
}

static void open_maps(const f16 *scale16, const f16 *minimum16, int n, float code, float *scale_out, float *middle) {
    for (int i = 0; i < n; i++) {
        scale_out[i] = f16_to_f32(scale16[i]);
        if (minimum16)
            middle[i] = f16_to_f32(minimum16[i]) + scale_out[i] * code;
    }
}

static void bounds(const int32_t *x, int n, int32_t *low, int32_t *high) {
    *low = *high = x[0];
    for (int i = 1; i < n; i++) {
        *low = x[i] < *low ? x[i] : *low;
        *high = x[i] > *high ? x[i] : *high;
    }
}

void rows_portable_fill(cpu_kernels *k) {
    k->open_maps = open_maps;
    k->bounds = bounds;
    k->scale = scale;
    k->add_scaled = add_scaled;
    k->f32_to_f16 = f32_to_f16_row;
    k->f16_to_f32 = f16_to_f32_row;
    k->rms_norm = rms_norm;
    k->silu_mul = silu_mul;
    k->gelu_mul = gelu_mul;
    k->add = add;
    k->rope = rope;
    k->act_quantize = act_quantize;
}
