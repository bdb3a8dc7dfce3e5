/* kernels.h - the table of kernels. There is one for each level that this machine really has, made once (kernels.c):
 * the portable kernels, over them those of the levels that it builds on, and over those its own. cpu_kernels_get()
 * gives the one in use: the highest level's, or that of the level which PLEAT_CPU names.
 *
 * Order of arithmetic is part of each contract: an output element is one chain of fused multiply-adds over rising i, or
 * what its entry says, and never depends on how many rows or tokens share the call. That is what makes a request's bits
 * equal alone, in a batch, in prefill and in decode. (Portable code may round product and sum apart; levels agree to
 * about 1e-5, not in bits.) */
#ifndef CPU_KERNELS_H
#define CPU_KERNELS_H
#include "base/f16.h"
#include "cpu/blocks.h"
#include "cpu/pack.h"
#include "pleat.h"

enum {
    PAGE_TOKENS = 64, /* tokens of a KV page */
    TILE = 32,        /* elements that stand side by side in a page */
};

/* Element types of a KV tile [n][32]: what 32 neighbours look like in memory. */
typedef enum tile_type {
    TILE_F16,  /* 32 halves, 64 bytes */
    TILE_U2,   /* 8 bytes: byte k holds elements k, k + 8, k + 16, k + 24 from the low bits up */
    TILE_E4M3, /* 32 bytes, 8-bit floats: sign, 4 bits of exponent with bias 7, 3 of mantissa; finite ones only */
    TILE_COUNT,
} tile_type;

static inline size_t tile_row_bytes(tile_type type) {
    return type == TILE_F16 ? 64 : type == TILE_E4M3 ? 32 : 8;
}

/* Types of the codes of a quantised tile: unsigned, c; what they count is c minus the middle, 2^(bits-1). */
typedef enum code_type { CODE_U8, CODE_U4, CODE_U2, CODE_COUNT } code_type;

enum {
    DOT_MOST = 256,   /* elements of a dot_row at most */
    DOT_LIMIT = 32639 /* 127 * 256 + 127: the greatest whole number of two signed bytes whose high one is at most 127 */
};

/* One row made ready for products with codes: x[i] * scale[i] = unit * (256 * high[i] + low[i]), rounded, in two planes
 * of signed bytes, so that 8-bit dot products keep 15 bits of it. */
typedef struct dot_row {
    _Alignas(64) int8_t high[DOT_MOST], low[DOT_MOST];
    float unit, offset;
    int32_t sum; /* of the whole numbers */
} dot_row;

typedef struct fold_item { /* what becomes one dot_row; all [n] */
    const float *x, *scale, *middle;
} fold_item;

typedef struct dot_tile { /* one tile of codes, what it is multiplied with, where that goes */
    const dot_row *rows;
    const uint8_t *codes;
    const float *scale, *middle; /* of its 32 columns; NULL: ones */
    float *out;
} dot_tile;

/* Types of the codes of a tile that stand for the whole numbers of a table, book[2^bits]. */
typedef enum book_type { BOOK_4, BOOK_3, BOOK_2, BOOK_COUNT } book_type;

static inline int book_bits(book_type type) {
    return type == BOOK_4 ? 4 : type == BOOK_3 ? 3 : 2;
}

enum {
    BOOK_LIMIT = 1023, /* of a table's numbers, either sign: 64 products with a dot_row's numbers stay below 2^31 */
    BOOK_CHUNK = 64,
};

/* Elements of a column whose codes stand together, and bytes of these for 32 columns. */
static inline int book_block(book_type type) {
    return type == BOOK_4 ? 8 : 16;
}
static inline int book_block_bytes(book_type type) {
    return book_block(type) * TILE * book_bits(type) / 8;
}

enum {
    LOW_RANK_MOST = 16, /* columns of a low_rank_factor at most */
    SPARSE_MOST = 256,  /* their length, and rows and columns of a sparse_matrix, at most */
    ENDS_MOST = 820,    /* elements on each end of a column at most */
};

/* Half of a low-rank matrix, the sum over k < rank of the products left.x[k][i] * right.x[k][t]. */
typedef struct low_rank_factor {
    int n, rank;  /* n: a multiple of 16 */
    const f16 *x; /* [rank][n], without alignment */
} low_rank_factor;

/* A matrix [n][m], n and m multiples of 8, that is zero but for its terms, which have an order. A term stands in row
 * `from` and column `to` and is value - less[to >> group_bits][from], in float; several may stand in one place. */
typedef struct sparse_matrix {
    int n, m, n_terms;
    const f16 *value;      /* [n_terms] */
    const uint16_t *place; /* [n_terms], 256 * to + from; or NULL: */
    int each;              /* term i has from = i / each, and there are n * each of them, */
    const uint8_t *to;     /* [n_terms] */
    const float *less;     /* [groups of 2^group_bits columns][n] */
    int group_bits;        /* 8: one group */
} sparse_matrix;

typedef struct cpu_kernels {
    const char *level; /* its name */

    /* Attention: out[r*ldo + 0..31] += sum over i < n, rising, of a[r*lda + i] * x[i][0..31] for r < n_rows. The
     * product of a K page (i channel, 32 tokens side by side) and of a V page (i token, 32 channels side by side)
     * alike. x: n rows of the tile type, 8-byte aligned; a and out need no alignment. The chain starts from out's
     * value. prefetch: as many bytes as x has, to bring to L2 while working, or NULL. */
    void (*tile[TILE_COUNT])(const float *a, size_t lda, int n_rows, const void *x, int n, float *out, size_t ldo,
                             const void *prefetch);
    /* Folds scales into rows of n floats (a multiple of 16, at most DOT_MOST) and rounds them half to even to whole
     * numbers of DOT_LIMIT at most, each row by its own largest: y = x * scale, number = y * (DOT_LIMIT / max|y|), unit
     * = max|y| / DOT_LIMIT; a row whose max is below 1e-30 becomes zeros with unit 0. Numbers and unit are the same
     * bits at every level. offset = sum of x[i] * middle[i]. Either all items have a scale or none has (ones), likewise
     * a middle (none: offset 0). */
    void (*fold)(const fold_item *items, int n_items, int n, dot_row *rows);
    /* Products with each of n_tiles tiles of codes of the tile's own n_rows rows of n elements (a multiple of 16). For
     * the tile's 32 columns k:
     *
     *   out[r*ldo + k] += unit_r * R * scale[k] + offset_r * middle[k]
     *
     * where R is the whole number sum over i < n of number_r[i] * (code[i][k] - 2^(bits-1)), exact at every level.
     * Tiles are worked on in turn; several may share an out. Codes of a tile, 64-byte aligned, have 4 elements of a
     * column side by side:
     *
     *   CODE_U8  [n/4][32][4]   elements 4g..
     *   CODE_U4  [n/8][32][4]   8g.. in the low nibbles, 8g + 4.. in the high ones
     *   CODE_U2  [n/16][32][4]  16g.., 16g + 4.., 16g + 8.., 16g + 12.. from the low bits up
     *
     * prefetch: what will be read next, laid out like the tiles' codes, to be brought to L2 meanwhile, or NULL. */
    void (*dot[CODE_COUNT])(const dot_tile *tiles, int n_tiles, int n_rows, int n, size_t ldo, const void *prefetch);
    /* dot's products for codes into a table: R is the sum, over chunks of BOOK_CHUNK elements in order and in float,
     * of the whole numbers sum over the chunk of number_r[i] * book[code[i][k]]. Tiles have no middle and rows no
     * offset. Codes of a tile:
     *
     *   BOOK_4  as CODE_U4    BOOK_2  as CODE_U2
     *   BOOK_3  [n/16] of 128 bytes as CODE_U2 for the codes' lower two bits, then 64 bytes for the upper ones: bit b
     *           of the part'th 16 bytes (part < 4) belongs to the lower bits at 2 * part in the b'th of the 128 bytes
     *
     * prefetch: as dot's. */
    void (*book[BOOK_COUNT])(const int16_t *book, const dot_tile *tiles, int n_tiles, int n_rows, int n, size_t ldo,
                             const void *prefetch);
    /* Rows times a low-rank matrix is two steps. The first: c[r*rank + k] = sum over i < n, in a fixed order, of
     * x[r*n + i] * left.x[k][i] for rows x [n_rows][n]. */
    void (*low_rank_dots)(const low_rank_factor *left, const float *x, int n_rows, float *c);
    /* The second: out[r*n + t] += sum over k, rising, of c[r*rank + k] * right.x[k][t] for rows out [n_rows][n]. The
     * chain starts from out's value. */
    void (*low_rank_add)(const low_rank_factor *right, const float *c, int n_rows, float *out);
    /* Rows times a sparse matrix: out[r*m + t] += sum over the terms in column t, in their order, of x[r*n + from] *
     * term. The chain starts from zero and is added to out's value at the end. */
    void (*sparse)(const sparse_matrix *w, const float *x, int n_rows, float *out);
    /* The c-th smallest and the c-th largest element of each column of x [n][n_columns], finite, and the column's mean,
     * summed up in double over rising rows. n_columns: a multiple of 8; c: from 1 to n / 2 and ENDS_MOST. The same bits
     * at every level, but for the sign of a zero. */
    void (*column_ends)(const float *x, int n, int n_columns, int c, float *low, float *high, float *mean);
    /* Bit i of mark[j]: whether element j of row i < n of x [n][n_columns] is at most low[j] or at least high[j]. n: at
     * most 32; n_columns: a multiple of 8. */
    void (*mark_ends)(const float *x, int n, int n_columns, const float *low, const float *high, uint32_t *mark);
    /* A matrix transposed: y[j*ldy + i] = x[i*ldx + j] for i < n_rows, j < n_columns. Nothing else of y is written; x
     * and y do not overlap. */
    void (*transpose)(const float *x, size_t ldx, int n_rows, int n_columns, float *y, size_t ldy);
    /* A few pages of an online softmax: s [n_pages][n_rows][64] holds scores, -INFINITY where masked. For each row r,
     * over all pages: m' = max(m[r], max s), s = exp(s - m') (0 where masked), l[r] = l[r] * c + sum s, m[r] = m', and
     * c[r] = exp(m_before - m') (1 when nothing was ever visible; 0 when m[r] was -INFINITY before). Sums in a fixed
     * order, to which pages without a visible slot add nothing. */
    void (*softmax_pages)(float *s, int n_pages, int n_rows, float *m, float *l, float *c);
    /* The floats of n maps of codes: scale, and what the middle code stands for, minimum + scale * code. minimum NULL:
     * middle is left alone. */
    void (*open_maps)(const f16 *scale16, const f16 *minimum16, int n, float code, float *scale, float *middle);
    /* Least and greatest of x[0..n), n at least 1. */
    void (*bounds)(const int32_t *x, int n, int32_t *low, int32_t *high);
    /* x[0..n) *= c */
    void (*scale)(float *x, int n, float c);
    /* acc[i] += x[i] * c for i < n (mass) */
    void (*add_scaled)(float *acc, const float *x, int n, float c);

    /* Rows: nearest even rounding both ways. */
    void (*f32_to_f16)(const float *x, int n, f16 *y);
    void (*f16_to_f32)(const f16 *x, int n, float *y);

    /* y = (x * (1 / rms)) * w, rms over n with eps inside the root; sum of squares in a fixed order, in float lanes or
     * better. y may be x. */
    void (*rms_norm)(const float *x, const float *w, int n, float eps, float *y);
    /* gate[i] = silu(gate[i]) * up[i]; gelu: the tanh form. */
    void (*silu_mul)(float *gate, const float *up, int n);
    void (*gelu_mul)(float *gate, const float *up, int n);
    /* x[i] += y[i] */
    void (*add)(float *x, const float *y, int n);
    /* Rotates head vectors in place: pairs (x[2i], x[2i+1]) or, neox, (x[i], x[i+n_rot/2]), by cos_sin[2i],
     * cos_sin[2i+1]. */
    void (*rope)(float *x, int n_rot, bool neox, const float *cos_sin);

    /* Quantises one row of n activations (a multiple of 32) to int8 by blocks of 32: scale = max|x|/127, codes rounded
     * half to even, and the sums of the codes of each 16. code = x * (127 / max) rounded, the same bits at every level;
     * a block whose max is below 1e-30 becomes zeros with scale 0. */
    void (*act_quantize)(const float *x, int n, int8_t *code, float *scale, int16_t *sum16);
    /* Product with a packed matrix, see pack.h: out[t*ldo + r] = row r of w . x row t for panel_first*16 <= r <
     * (panel_first+n_panels)*16 (rows past w->n_rows are not written), for every token t < n_tokens. Blocks of 32
     * columns in rising order. */
    void (*matmul[PACK_COUNT])(const pack_matrix *w, int panel_first, int n_panels, const act_rows *x, int n_tokens,
                               float *out, size_t ldo);
} cpu_kernels;

/* The table for this process: detected once, then constant (thread safe). An unknown PLEAT_CPU, or a level the machine
 * lacks, is PLEAT_EINPUT with the list. */
pleat_status cpu_kernels_get(const cpu_kernels **out, pleat_error *error);
/* For tests and benchmarks: the table of one level by name, or NULL when this machine lacks it. */
const cpu_kernels *cpu_kernels_level(const char *name);
/* Names of every level there is, on this machine or not, NULL-ended: "portable", "avx2", "avx2vnni", "avx512",
 * "avx512vnni", "amx", "neon". */
const char *const *cpu_level_names(void);
/* The CPU's model as the system names it, and how many of them this process may use, for records (detect.h). */
const char *cpu_model_name(void);
#endif
