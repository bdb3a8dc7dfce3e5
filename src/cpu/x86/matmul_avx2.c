/* matmul_avx2.c - integer products: 8 rows (half a panel) x 4 tokens in registers.
 *
 * 8-bit codes: vpmaddubsw would saturate for codes above 127, so codes are split into even and odd columns of 16 bits,
 * the activations of a tile once likewise, and multiplied by vpmaddwd. 4-bit codes: vpmaddubsw is exact (two products
 * are at most 2 x 15 x 127), and the 8 vectors of a block still fit in 16 bits (30,480). */
#include "cpu/fill.h"
#ifdef __x86_64__
#include "cpu/x86/lanes_avx2.h"
#include "cpu/sweep.h"
#include <string.h>

enum { TOKENS = 4, CHUNK = 16, ROWS = 8 };

/* One token's activations of a chunk as a tile wants them. Column group g holds 4 columns in 4 bytes. */
typedef struct token_rows {
    _Alignas(32) int32_t even[CHUNK * 8]; /* columns 4g, 4g + 2 as 16-bit numbers */
    _Alignas(32) int32_t odd[CHUNK * 8];  /* columns 4g + 1, 4g + 3 */
    float sums[CHUNK * 2];                /* of each block or group of 16 */
} token_rows;

INLINE void open_sums(const int16_t *sum16, int n, bool halves, float *sums) {
    if (halves)
        for (int i = 0; i < 2 * n; i++)
            sums[i] = sum16[i];
    else
        for (int b = 0; b < n; b++)
            sums[b] = (float)(sum16[2 * b] + sum16[2 * b + 1]);
}

INLINE void open_columns(const int8_t *a, int n, token_rows *rows) {
    for (int b = 0; b < n; b++) {
        __m256i v = _mm256_loadu_si256((const __m256i *)(a + b * PACK_BLOCK));
        _mm256_store_si256((__m256i *)(rows->even + b * 8), _mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8));
        _mm256_store_si256((__m256i *)(rows->odd + b * 8), _mm256_srai_epi16(v, 8));
    }
}

/* sum[t] += 8 rows x 4 n_groups columns from column group `first` of block b; code: the rows' part of the block. */
INLINE void dot_8bit(int n_tokens, const uint8_t *code, const token_rows *rows, int b, int first, int n_groups,
                     __m256i sum[TOKENS]) {
    const __m256i low_byte = _mm256_set1_epi16(255);
#pragma GCC unroll 8
    for (int g = first; g < first + n_groups; g++) {
        __m256i w = _mm256_load_si256((const __m256i *)(code + g * 64));
        __m256i even = _mm256_and_si256(w, low_byte), odd = _mm256_srli_epi16(w, 8);
        for (int t = 0; t < n_tokens; t++) {
            __m256i pairs = _mm256_madd_epi16(even, _mm256_set1_epi32(rows[t].even[b * 8 + g]));
            sum[t] = _mm256_add_epi32(sum[t], pairs);
            pairs = _mm256_madd_epi16(odd, _mm256_set1_epi32(rows[t].odd[b * 8 + g]));
            sum[t] = _mm256_add_epi32(sum[t], pairs);
        }
    }
}

INLINE __m256i broadcast(const int8_t *a) {
    int32_t four;
    memcpy(&four, a, sizeof four);
    return _mm256_set1_epi32(four);
}

INLINE void dot_4bit(int n_tokens, const uint8_t *code, const int8_t *a, size_t lda, __m256i sum[TOKENS]) {
    const __m256i nibble = _mm256_set1_epi8(15);
#pragma GCC unroll 4
    for (int g = 0; g < 4; g++) {
        __m256i both = _mm256_load_si256((const __m256i *)(code + g * 64));
        __m256i low = _mm256_and_si256(both, nibble), high = _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble);
        for (int t = 0; t < n_tokens; t++) {
            const int8_t *from = a + (size_t)t * lda + g * 4;
            sum[t] = _mm256_add_epi16(sum[t], _mm256_maddubs_epi16(low, broadcast(from)));
            sum[t] = _mm256_add_epi16(sum[t], _mm256_maddubs_epi16(high, broadcast(from + 16)));
        }
    }
    for (int t = 0; t < n_tokens; t++)
        sum[t] = _mm256_madd_epi16(sum[t], _mm256_set1_epi16(1));
}

/* Group g of block b of a chunk for 8 rows: integer sums, then acc by pack.h's formula. row: 0 or 8. */
INLINE void tile_group(pack_type type, int n_tokens, const uint8_t *block, int row, const token_rows *rows,
                       const int8_t *a, size_t lda, const float *a_scale, size_t lds, int b, int g,
                       __m256 acc[TOKENS]) {
    const int n_groups = type == PACK_I8H ? 2 : 1;
    const uint8_t *code = block + n_groups * 128 + row * 4;
    __m256i sum[TOKENS];
    for (int t = 0; t < n_tokens; t++)
        sum[t] = _mm256_setzero_si256();
    if (type == PACK_I4)
        dot_4bit(n_tokens, code, a, lda, sum);
    else
        dot_8bit(n_tokens, code, rows, b, g * 4, 8 / n_groups, sum);
    __m256 scale = _mm256_load_ps((const float *)block + g * 16 + row);
    __m256 minimum = _mm256_load_ps((const float *)block + (n_groups + g) * 16 + row);
    for (int t = 0; t < n_tokens; t++) {
        __m256 part = _mm256_mul_ps(minimum, _mm256_set1_ps(rows[t].sums[b * n_groups + g]));
        part = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(sum[t]), part);
        acc[t] = _mm256_fmadd_ps(_mm256_set1_ps(a_scale[(size_t)t * lds]), part, acc[t]);
    }
}

typedef struct place { /* of a tile in the operands; constant over its rows */
    const int8_t *a;   /* [tokens][n_cols] */
    const float *a_scale;
    size_t n_cols, n_blocks;
} place;

/* A chunk of n blocks for rows row..row+7 of a panel; left: how many of these rows there are. */
INLINE void half_panel(pack_type type, int n_tokens, const uint8_t *block, int row, int left, int first, int n,
                       const place *at, const token_rows *rows, float *out, size_t ldo) {
    const int n_groups = type == PACK_I8H ? 2 : 1;
    const size_t block_bytes = type == PACK_I8   ? PACK_I8_BLOCK_BYTES
                               : type == PACK_I4 ? PACK_I4_BLOCK_BYTES
                                                 : PACK_I8H_BLOCK_BYTES;
    const int8_t *a = at->a;
    const float *a_scale = at->a_scale;
    __m256 acc[TOKENS];
    for (int t = 0; t < n_tokens; t++)
        acc[t] = first == 0 ? _mm256_setzero_ps() : load8(out + (size_t)t * ldo, left);
    for (int b = 0; b < n; b++, a += PACK_BLOCK, a_scale++, block += block_bytes)
        for (int g = 0; g < n_groups; g++)
            tile_group(type, n_tokens, block, row, rows, a, at->n_cols, a_scale, at->n_blocks, b, g, acc);
    for (int t = 0; t < n_tokens; t++)
        store8(out + (size_t)t * ldo, left, acc[t]);
}

INLINE void tile(pack_type type, int n_panels, int n_tokens, const sweep *s, int panel, int first, int n, int token) {
    const size_t block_bytes = type == PACK_I8   ? PACK_I8_BLOCK_BYTES
                               : type == PACK_I4 ? PACK_I4_BLOCK_BYTES
                                                 : PACK_I8H_BLOCK_BYTES;
    size_t n_cols = (size_t)s->w->n_cols, n_blocks = n_cols / PACK_BLOCK, at_token = (size_t)token;
    place at = {s->x->code + at_token * n_cols + (size_t)first * PACK_BLOCK,
                s->x->scale + at_token * n_blocks + (size_t)first, n_cols, n_blocks};
    const int16_t *sum16 = s->x->sum16 + (at_token * n_blocks + (size_t)first) * 2;
    token_rows rows[TOKENS];
    for (int t = 0; t < n_tokens; t++) {
        open_sums(sum16 + (size_t)t * n_blocks * 2, n, type == PACK_I8H, rows[t].sums);
        if (type != PACK_I4)
            open_columns(at.a + (size_t)t * n_cols, n, &rows[t]);
    }
    for (int p = panel; p < panel + n_panels; p++) {
        const uint8_t *block = s->w->data + (size_t)p * s->w->panel_bytes + (size_t)first * block_bytes;
        float *out = s->out + at_token * s->ldo + (size_t)p * PACK_ROWS;
        for (int row = 0; row < PACK_ROWS && p * PACK_ROWS + row < s->w->n_rows; row += ROWS)
            half_panel(type, n_tokens, block, row, s->w->n_rows - p * PACK_ROWS - row, first, n, &at, rows, out + row,
                       s->ldo);
    }
}

#define TILE_FUNCTION(name, type, p, t)                                                                                \
    static void name##_##p##x##t(const sweep *s, int panel, int first, int n, int token) {                             \
        tile(type, p, t, s, panel, first, n, token);                                                                   \
    }
#define TILE_ROW(name, type, p)                                                                                        \
    TILE_FUNCTION(name, type, p, 1)                                                                                    \
    TILE_FUNCTION(name, type, p, 2)                                                                                    \
    TILE_FUNCTION(name, type, p, 3)                                                                                    \
    TILE_FUNCTION(name, type, p, 4)
#define KERNEL(name, type)                                                                                             \
    TILE_ROW(name, type, 1)                                                                                            \
    TILE_ROW(name, type, 2)                                                                                            \
    static void matmul_##name(const pack_matrix *w, int panel_first, int n_panels, const act_rows *x, int n_tokens,    \
                              float *out, size_t ldo) {                                                                \
        static const sweep_tile tiles[2 * TOKENS] = {name##_1x1, name##_1x2, name##_1x3, name##_1x4,                   \
                                                     name##_2x1, name##_2x2, name##_2x3, name##_2x4};                  \
        sweep s = {w, x, out, ldo};                                                                                    \
        sweep_run(&s, tiles, TOKENS, w->n_cols / PACK_BLOCK, CHUNK, PACK_BLOCK, panel_first, n_panels, n_tokens);      \
    }

KERNEL(i8, PACK_I8)
KERNEL(i4, PACK_I4)
KERNEL(i8h, PACK_I8H)

void matmul_avx2_fill(cpu_kernels *k) {
    k->matmul[PACK_I8] = matmul_i8;
    k->matmul[PACK_I4] = matmul_i4;
    k->matmul[PACK_I8H] = matmul_i8h;
}
#endif
