/* matmul_amx.c - integer products by tiles: one instruction sums 32 columns (FORM_8H: 16) of 16 rows for 16 tokens.
 *
 * Codes of 8 bits are a tile as they stand, [column group][row][4 columns] unsigned bytes, and so are 16 tokens' int8
 * activations of a block, n_cols bytes apart; 4-bit codes are unpacked to bytes, once for a chunk of two panels and all
 * tokens of the call. A block's sums go through memory, [token][row] of 32 bits, to be folded into the floats as
 * pack.h says: the tile unit cannot scale. Only half of a tile's depth is used, because each 32 columns have scales of
 * their own, but the folding (4 vector operations for 512 products) is what limits the rate anyway, so that
 * the depth would buy nothing. Two sets of registers take turns, two blocks ahead of the folding.
 *
 *   tile 0, 3  sums         [16 tokens][16 rows] int32
 *   tile 1, 4  activations  [16 tokens][32 columns] int8
 *   tile 2, 5  codes        [8 column groups][16 rows][4 columns] uint8
 *
 * The tokens past the last multiple of 16, and calls with fewer, are avx512vnni's. Both add whole numbers exactly and
 * fold them in one order, so a token's bits do not tell which of the two it went through. Rates: no machine with AMX
 * was at hand to measure them; bench/kernels and bench/limit print them where there is one. */
#include "cpu/fill.h"
#ifdef __x86_64__
#include "cpu/x86/expand_avx512.h"
#include "cpu/x86/panels_avx512.h"
#include "cpu/sweep_blocks.h"
#include "cpu/x86/tiles.h"
#include <immintrin.h>

enum {
    TOKENS = 16,
    CHUNK = SWEEP_BLOCKS_MOST,
    CODE_BYTES = SWEEP_CODE_BYTES,
    HALF_BYTES = CODE_BYTES / 2, /* of half of a block's columns */
    ROW_BYTES = 64,              /* of a tile of sums or codes: one token or column group, 16 rows */
    AHEAD = 2,                   /* groups whose sums are on their way while one is folded */
    RING = 2 * AHEAD,            /* groups with sums in memory */
    SUMS = TOKENS * PACK_ROWS    /* of a group */
};

/* A panel's chunk: from block 0 on. */
typedef struct panel_chunk {
    const uint8_t *code; /* bytes */
    const float *maps;
} panel_chunk;

static const tiles_config whole_blocks = {
    .palette = 1, .row_bytes = {64, 32, 64, 64, 32, 64}, .rows = {TOKENS, TOKENS, 8, TOKENS, TOKENS, 8}};
static const tiles_config half_blocks = {
    .palette = 1, .row_bytes = {64, 16, 64, 64, 16, 64}, .rows = {TOKENS, TOKENS, 4, TOKENS, TOKENS, 4}};

#define PRODUCT(sums, acts, codes, a, lda, code, to)                                                                   \
    do {                                                                                                               \
        tiles_zero(sums);                                                                                              \
        tiles_load(acts, a, lda);                                                                                      \
        tiles_load(codes, code, ROW_BYTES);                                                                            \
        tiles_dot(sums, acts, codes);                                                                                  \
        tiles_store(sums, to, ROW_BYTES);                                                                              \
    } while (0)

/* Starts the sums of group u of the chunk: a block, or half of one. */
INLINE void start(int n_groups, const panel_chunk *p, const int8_t *a, size_t lda, int u, int32_t (*ring)[SUMS]) {
    const int8_t *from = a + u * (PACK_BLOCK / n_groups);
    const uint8_t *code = p->code + u / n_groups * CODE_BYTES + u % n_groups * HALF_BYTES;
    if (u % 2)
        PRODUCT(3, 4, 5, from, lda, code, ring[u % RING]);
    else
        PRODUCT(0, 1, 2, from, lda, code, ring[u % RING]);
}

/* 16 tokens' chunk: scales by block, sums of activations by group, side by side so that one address leads to all. */
typedef struct act_chunk {
    _Alignas(64) float scale[TOKENS][CHUNK], sum[TOKENS][2 * CHUNK];
} act_chunk;

INLINE void open_acts(int n_groups, const float *scale, const int16_t *sum16, size_t n_blocks, int n, act_chunk *acts) {
    __mmask16 there = n == CHUNK ? 0xffff : (__mmask16)((1u << n) - 1);
    for (size_t t = 0; t < TOKENS; t++) {
        _mm512_store_ps(acts->scale[t], _mm512_maskz_loadu_ps(there, scale + t * n_blocks));
        open_sums(sum16 + t * n_blocks * 2, n, n_groups == 2, acts->sum[t]);
    }
}

/* acc [token] by pack.h's formula. */
INLINE void fold(int n_groups, const panel_chunk *p, const act_chunk *acts, int u, const int32_t *whole,
                 __m512 acc[TOKENS]) {
    const float *maps = p->maps + u / n_groups * n_groups * SWEEP_MAP_FLOATS + u % n_groups * PACK_ROWS;
    __m512 scale = _mm512_load_ps(maps), minimum = _mm512_load_ps(maps + n_groups * PACK_ROWS);
#pragma GCC unroll 16
    for (int t = 0; t < TOKENS; t++) {
        __m512 part = _mm512_mul_ps(minimum, _mm512_set1_ps(acts->sum[t][u]));
        part = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(_mm512_load_si512(whole + t * PACK_ROWS)), part);
        acc[t] = _mm512_fmadd_ps(_mm512_set1_ps(acts->scale[t][u / n_groups]), part, acc[t]);
    }
}

/* One panel x 16 tokens over a chunk of n blocks; a, out: of the first token and block, or row. */
INLINE void tile(int n_groups, const sweep *s, const panel_chunk *p, const act_chunk *acts, __mmask16 live, bool fresh,
                 int n, const int8_t *a, float *out) {
    _Alignas(64) int32_t ring[RING][SUMS];
    __m512 acc[TOKENS];
#pragma GCC unroll 16
    for (size_t t = 0; t < TOKENS; t++)
        acc[t] = fresh ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(live, out + t * s->ldo);
    for (int u = -AHEAD; u < n * n_groups; u++) {
        if (u + AHEAD < n * n_groups)
            start(n_groups, p, a, (size_t)s->w->n_cols, u + AHEAD, ring);
        if (u >= 0)
            fold(n_groups, p, acts, u, ring[u % RING], acc);
    }
#pragma GCC unroll 16
    for (size_t t = 0; t < TOKENS; t++)
        _mm512_mask_storeu_ps(out + t * s->ldo, live, acc[t]);
}

/* The codes of n blocks of 4 bits, as bytes. */
INLINE void unpack(const uint8_t *packed, int n, uint8_t *code) {
    const __m512i nibble = _mm512_set1_epi8(15);
    for (int b = 0; b < n; b++, packed += HALF_BYTES, code += CODE_BYTES)
        for (int g = 0; g < 4; g++) {
            __m512i both = _mm512_load_si512(packed + g * ROW_BYTES);
            _mm512_store_si512(code + g * ROW_BYTES, _mm512_and_si512(both, nibble));
            _mm512_store_si512(code + HALF_BYTES + g * ROW_BYTES, _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble));
        }
}

/* n_tokens is a multiple of 16. */
INLINE void meet(pack_form form, const sweep *s, int panel, int n_panels, int first, int n, int n_tokens) {
    const int n_groups = form_groups(form);
    size_t n_cols = (size_t)s->w->n_cols, n_blocks = n_cols / PACK_BLOCK, at_block = (size_t)first;
    _Alignas(64) uint8_t bytes[2][CHUNK * CODE_BYTES];
    act_chunk acts;
    panel_chunk at[2];
    for (int p = 0; p < n_panels; p++) {
        at[p] = (panel_chunk){form == FORM_4 ? bytes[p] : s->code[p], s->maps[p]};
        if (form == FORM_4)
            unpack(s->code[p], n, bytes[p]);
    }
    for (size_t token = 0; token < (size_t)n_tokens; token += TOKENS) {
        const int8_t *a = s->x->code + token * n_cols + at_block * PACK_BLOCK;
        size_t block = token * n_blocks + at_block;
        open_acts(n_groups, s->x->scale + block, s->x->sum16 + block * 2, n_blocks, n, &acts);
        for (int p = 0; p < n_panels; p++)
            tile(n_groups, s, &at[p], &acts, live_rows(s->w, panel + p), first == 0, n, a,
                 s->out + token * s->ldo + (size_t)(panel + p) * PACK_ROWS);
    }
}

static cpu_kernels level_below; /* the table as the level below leaves it */

/* Tokens from `first` on, by the level below. */
static void few_tokens(pack_type type, const pack_matrix *w, int panel_first, int n_panels, const act_rows *x,
                       int first, int n_tokens, float *out, size_t ldo) {
    size_t n_cols = (size_t)w->n_cols, row = (size_t)first;
    act_rows rest = {.n_cols = x->n_cols,
                     .code = x->code + row * n_cols,
                     .scale = x->scale + row * (n_cols / PACK_BLOCK),
                     .sum16 = x->sum16 + row * (n_cols / 16)};
    level_below.matmul[type](w, panel_first, n_panels, &rest, n_tokens, out + row * ldo, ldo);
}

SWEEP_EACH(SWEEP_CHUNK)

#define KERNEL(name, type)                                                                                             \
    static void matmul_##name(const pack_matrix *w, int panel_first, int n_panels, const act_rows *x, int n_tokens,    \
                              float *out, size_t ldo) {                                                                \
        int n_tiled = n_tokens / TOKENS * TOKENS;                                                                      \
        sweep s = {.w = w, .x = x, .out = out, .ldo = ldo};                                                            \
        if (n_tiled) {                                                                                                 \
            tiles_open(form_of(type) == FORM_8H ? &half_blocks : &whole_blocks);                                       \
            sweep_walk(&s, name##_chunk, NULL, w->n_cols / PACK_BLOCK, CHUNK, PACK_BLOCK, panel_first, n_panels,       \
                       n_tiled);                                                                                       \
            tiles_close();                                                                                             \
        }                                                                                                              \
        if (n_tiled < n_tokens)                                                                                        \
            few_tokens(type, w, panel_first, n_panels, x, n_tiled, n_tokens - n_tiled, out, ldo);                      \
    }
SWEEP_EACH(KERNEL)

void matmul_amx_fill(cpu_kernels *k) {
    level_below = *k;
    SWEEP_EACH(SWEEP_ENTRY)
}
#endif
