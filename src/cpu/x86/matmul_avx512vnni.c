/* matmul_avx512vnni.c - integer products with vpdpbusd: 4 columns of 16 rows in one instruction.
 *
 * A tile is 2 panels x 6 tokens: 12 integer sums and 12 float sums stay in registers, each weight vector is used by 6
 * tokens and each broadcast activation by 2 panels. The instruction is written as asm because GCC 12 moves the
 * accumulators of the intrinsic between registers, which halves the rate. The first tokens of a sweep ask for the
 * weights to come: with a batch of 4 to 16 rows reading and arithmetic cost about the same, and out-of-order execution
 * alone does not overlap them. */
#include "cpu/fill.h"
#ifdef __x86_64__
#include "cpu/x86/expand_avx512.h"
#include "cpu/x86/panels_avx512.h"
#include "cpu/sweep_blocks.h"
#include <immintrin.h>
#include <string.h>

enum { TOKENS = 6, FETCHES = 1 };

typedef struct token_rows {
    _Alignas(64) float sums[32]; /* of each block or group of 16 */
} token_rows;

INLINE void open_columns(pack_form form, const int8_t *a, int n, token_rows *rows) {
    (void)form, (void)a, (void)n, (void)rows; /* the instruction takes them as they are */
}

INLINE __m512i dot(__m512i sum, __m512i code, __m512i a) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(code), "v"(a));
    return sum;
}

/* sum[p][t] += 4 x n_groups columns from column group `first` of a block; code: the panels' codes. */
INLINE void dot_8bit(int n_panels, int n_tokens, const uint8_t *const code[2], const int8_t *a, size_t lda, int first,
                     int n_groups, __m512i sum[2][TOKENS]) {
#pragma GCC unroll 8
    for (int g = first; g < first + n_groups; g++) {
        __m512i w[2];
        for (int p = 0; p < n_panels; p++)
            w[p] = _mm512_load_si512(code[p] + g * 64);
        for (int t = 0; t < n_tokens; t++) {
            __m512i four = four_bytes(a + (size_t)t * lda + g * 4);
            for (int p = 0; p < n_panels; p++)
                sum[p][t] = dot(sum[p][t], w[p], four);
        }
    }
}

INLINE void dot_4bit(int n_panels, int n_tokens, const uint8_t *const code[2], const int8_t *a, size_t lda,
                     __m512i sum[2][TOKENS]) {
    const __m512i nibble = _mm512_set1_epi8(15);
#pragma GCC unroll 4
    for (int g = 0; g < 4; g++) {
        __m512i low[2], high[2];
        for (int p = 0; p < n_panels; p++) {
            __m512i both = _mm512_load_si512(code[p] + g * 64);
            low[p] = _mm512_and_si512(both, nibble);
            high[p] = _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble);
        }
        for (int t = 0; t < n_tokens; t++) {
            const int8_t *from = a + (size_t)t * lda + g * 4;
            __m512i four = four_bytes(from);
            for (int p = 0; p < n_panels; p++)
                sum[p][t] = dot(sum[p][t], low[p], four);
            four = four_bytes(from + 16);
            for (int p = 0; p < n_panels; p++)
                sum[p][t] = dot(sum[p][t], high[p], four);
        }
    }
}

/* The same for group g of a block of 6-bit codes. */
INLINE void dot_6bit(int n_panels, int n_tokens, const uint8_t *const code[2], const int8_t *a, size_t lda, int g,
                     __m512i sum[2][TOKENS]) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        __m512i w[2];
        for (int p = 0; p < n_panels; p++)
            w[p] = expand_group(code[p], g * 4 + i);
        for (int t = 0; t < n_tokens; t++) {
            __m512i four = four_bytes(a + (size_t)t * lda + (g * 4 + i) * 4);
            for (int p = 0; p < n_panels; p++)
                sum[p][t] = dot(sum[p][t], w[p], four);
        }
    }
}

INLINE void dot_group(pack_form form, int n_panels, int n_tokens, const uint8_t *const code[2], const token_rows *rows,
                      const int8_t *a, size_t lda, int b, int g, __m512i sum[2][TOKENS]) {
    (void)rows, (void)b;
    if (form == FORM_4)
        dot_4bit(n_panels, n_tokens, code, a, lda, sum);
    else if (form == FORM_6)
        dot_6bit(n_panels, n_tokens, code, a, lda, g, sum);
    else
        dot_8bit(n_panels, n_tokens, code, a, lda, g * 4, 8 / form_groups(form), sum);
}

#define GROUPS_PRAGMA _Pragma("GCC unroll 2")
#include "cpu/x86/matmul_512.h"

SWEEP_BLOCKS(tile, 6)

/* For as few tokens as one tile has, 6-bit codes go straight into it: on Zen 4, one token and weights in L2, a block of
 * 16 rows takes 11 ns instead of the 14 that opening and 8-bit products take. */
SWEEP_TILES(6, form_6, FORM_6, tile)
static void k6_few_chunk(const sweep *s, const void *how, int panel, int n_panels, int first, int n, int n_tokens) {
    sweep_buffer buffer;
    sweep at = sweep_open(PACK_K6, FORM_6, s, &buffer, panel, n_panels, first, n);
    sweep_tiles_run(&at, how, panel, n_panels, first, n, n_tokens);
}

static void matmul_k6_any(const pack_matrix *w, int panel_first, int n_panels, const act_rows *x, int n_tokens,
                          float *out, size_t ldo) {
    static const sweep_tiles few = {form_6_tiles, TOKENS};
    sweep s = {.w = w, .x = x, .out = out, .ldo = ldo};
    if (n_tokens > TOKENS)
        matmul_k6(w, panel_first, n_panels, x, n_tokens, out, ldo);
    else
        sweep_walk(&s, k6_few_chunk, &few, w->n_cols / PACK_BLOCK, SWEEP_BLOCKS_MOST, PACK_BLOCK, panel_first, n_panels,
                   n_tokens);
}

void matmul_avx512vnni_fill(cpu_kernels *k) {
    sweep_blocks_fill(k);
    k->matmul[PACK_K6] = matmul_k6_any;
}
#endif
