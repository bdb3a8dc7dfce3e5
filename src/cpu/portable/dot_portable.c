/* dot_portable.c - products of rows with integer codes in plain C: the definition that faster levels are tested
 * against.
 *
 * A quantised page is never made float. What multiplies it (a query, or probabilities) takes the scales in (fold) and
 * becomes whole numbers of 15 bits in two planes of bytes: one plane, as usual for 8-bit dot products, would add an
 * error as large as the format's own on peaked scores. Codes count from their middle, so that the rounding of a row
 * does not multiply their mean. */
#include "cpu/fill.h"
#include <math.h>

static void fold(const fold_item *items, int n_items, int n, dot_row *rows) {
    for (int r = 0; r < n_items; r++) {
        const float *x = items[r].x, *scale = items[r].scale, *middle = items[r].middle;
        dot_row *row = &rows[r];
        float y[DOT_MOST], top = 0, offset = 0;
        for (int i = 0; i < n; i++) {
            y[i] = scale ? x[i] * scale[i] : x[i];
            top = fabsf(y[i]) > top ? fabsf(y[i]) : top;
            offset += middle ? x[i] * middle[i] : 0;
        }
        bool none = top < 1e-30f; /* DOT_LIMIT / top would overflow */
        float to_number = none ? 0 : DOT_LIMIT / top;
        row->unit = none ? 0 : top / DOT_LIMIT;
        row->offset = offset;
        row->sum = 0;
        for (int i = 0; i < n; i++) {
            int number = (int)rintf(y[i] * to_number), high = (number + 128) >> 8;
            row->high[i] = (int8_t)high;
            row->low[i] = (int8_t)(number - high * 256);
            row->sum += number;
        }
    }
}

/* Code of element i, column k. */
static int code_at(code_type type, const uint8_t *codes, int i, int k) {
    if (type == CODE_U8)
        return codes[(i / 4 * TILE + k) * 4 + i % 4];
    if (type == CODE_U4)
        return codes[(i / 8 * TILE + k) * 4 + i % 4] >> (i / 4 % 2 * 4) & 15;
    return codes[(i / 16 * TILE + k) * 4 + i % 4] >> (i / 4 % 4 * 2) & 3;
}

static inline void tile(code_type type, const dot_tile *at, int n_rows, int n, size_t ldo) {
    const int bits = type == CODE_U8 ? 8 : type == CODE_U4 ? 4 : 2;
    for (int k = 0; k < TILE; k++) {
        int count[DOT_MOST];
        for (int i = 0; i < n; i++)
            count[i] = code_at(type, at->codes, i, k) - (1 << (bits - 1));
        for (int r = 0; r < n_rows; r++) {
            const dot_row *row = &at->rows[r];
            int32_t sum = 0;
            for (int i = 0; i < n; i++)
                sum += (row->high[i] * 256 + row->low[i]) * count[i];
            float t = row->unit * (float)sum;
            at->out[(size_t)r * ldo + (size_t)k] += at->scale ? t * at->scale[k] : t;
            at->out[(size_t)r * ldo + (size_t)k] += at->middle ? row->offset * at->middle[k] : row->offset;
        }
    }
}

static inline void dot(code_type type, const dot_tile *tiles, int n_tiles, int n_rows, int n, size_t ldo,
                       const void *prefetch) {
    const int bytes = n * TILE / (type == CODE_U8 ? 1 : type == CODE_U4 ? 2 : 4);
    for (int i = 0; i < n_tiles; i++) {
        for (int line = 0; prefetch && line < bytes; line += 64)
            __builtin_prefetch((const char *)prefetch + (tiles[i].codes - tiles[0].codes) + line, 0, 2);
        tile(type, &tiles[i], n_rows, n, ldo);
    }
}

static void dot_u8(const dot_tile *tiles, int n_tiles, int n_rows, int n, size_t ldo, const void *prefetch) {
    dot(CODE_U8, tiles, n_tiles, n_rows, n, ldo, prefetch);
}

static void dot_u4(const dot_tile *tiles, int n_tiles, int n_rows, int n, size_t ldo, const void *prefetch) {
    dot(CODE_U4, tiles, n_tiles, n_rows, n, ldo, prefetch);
}

static void dot_u2(const dot_tile *tiles, int n_tiles, int n_rows, int n, size_t ldo, const void *prefetch) {
    dot(CODE_U2, tiles, n_tiles, n_rows, n, ldo, prefetch);
}

void dot_portable_fill(cpu_kernels *k) {
    k->fold = fold;
    k->dot[CODE_U8] = dot_u8;
    k->dot[CODE_U4] = dot_u4;
    k->dot[CODE_U2] = dot_u2;
}
