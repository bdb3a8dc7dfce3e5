/* sweep.h - the order in which a product walks over weights and tokens, shared by the matmul kernels.
 *
 * A tile function multiplies 1 or 2 panels by a few tokens over a chunk of units (blocks, or columns of float matrices)
 * and leaves its sums in out; the next chunk goes on from there. Storing and loading a float changes nothing, so
 * neither chunks nor the order of the loops can be seen in the result.
 *
 * Many tokens: chunks are outermost, so that two panels' chunk stays in L1 and the tokens' chunk in L2. Few tokens
 * (decode): panels are outermost, so that the weights come from memory in one sequence. */
#ifndef CPU_SWEEP_H
#define CPU_SWEEP_H
#include "cpu/kernels.h"

typedef struct sweep {
    const pack_matrix *w;
    const act_rows *x;
    float *out;
    size_t ldo;
    int ahead_panel, ahead_first; /* where the walk will be SWEEP_AHEAD chunks later */
    /* A chunk of blocks as sweep_blocks.h opens it, by panel; in matrices of floats not used. */
    const uint8_t *code[2];  /* of its first block */
    const float *maps[2];    /* of each block [scale, minimum][groups][16] */
    const uint8_t *ahead[2]; /* the packed codes there */
} sweep;

/* Panels from `panel` on and tokens from `token` on, as many as the function is made for; units [first, first + n). */
typedef void (*sweep_tile)(const sweep *s, int panel, int first, int n, int token);

enum {
    SWEEP_RESIDENT_BYTES = 192 << 10, /* activations that stay in any L2 beside the weights */
    SWEEP_AHEAD = 3,                  /* chunks from what is worked on to what is asked for */
};

/* Asks for bytes to be brought to L2. */
static inline void sweep_fetch(const uint8_t *at, size_t bytes) {
    for (size_t line = 0; line < bytes; line += 64)
        __builtin_prefetch(at + line, 0, 2);
}

/* How one or two panels' chunk meets all tokens; how: what the function needs to know beside that. */
typedef void (*sweep_chunk)(const sweep *s, const void *how, int panel, int n_panels, int first, int n, int n_tokens);

static inline void sweep_walk(const sweep *s, sweep_chunk run, const void *how, int n_units, int chunk,
                              size_t unit_bytes, int panel_first, int n_panels, int n_tokens) {
    bool resident = (size_t)n_tokens * (size_t)n_units * unit_bytes <= SWEEP_RESIDENT_BYTES;
    if (!n_units)
        return;
    int n_chunks = (n_units + chunk - 1) / chunk;
    chunk = (n_units + n_chunks - 1) / n_chunks; /* nearly equal ones: 18 units are 9 and 9 */
    n_chunks = (n_units + chunk - 1) / chunk;
    int outer = resident ? n_units : chunk, panel_end = panel_first + n_panels;
    sweep at = *s;
    for (int from = 0; from < n_units; from += outer) {
        int to = n_units - from < outer ? n_units : from + outer;
        for (int p = panel_first; p < panel_end; p += 2)
            for (int c = from; c < to; c += chunk) {
                int later = c / chunk + SWEEP_AHEAD;
                at.ahead_panel = p + 2 * (resident ? later / n_chunks : 1);
                at.ahead_first = resident ? later % n_chunks * chunk : c;
                run(&at, how, p, panel_end - p < 2 ? 1 : 2, c, to - c < chunk ? to - c : chunk, n_tokens);
            }
    }
}

typedef struct sweep_tiles {
    const sweep_tile *tiles; /* [1 or 2 panels][1..max_tokens tokens] */
    int max_tokens;
} sweep_tiles;

static inline void sweep_tiles_run(const sweep *s, const void *how, int panel, int n_panels, int first, int n,
                                   int n_tokens) {
    const sweep_tiles *set = how;
    for (int t = 0; t < n_tokens; t += set->max_tokens) {
        int tokens = n_tokens - t < set->max_tokens ? n_tokens - t : set->max_tokens;
        set->tiles[(n_panels - 1) * set->max_tokens + tokens - 1](s, panel, first, n, t);
    }
}

/* NAME_tiles: tile(type, n_panels, n_tokens, sweep, panel, first, n, token), which is a sweep_tile for any number of
 * panels and tokens, compiled apart for each; type: anything that is constant in them; most: 4, 6 or 8 tokens, the
 * file's TOKENS. */
#define SWEEP_TILE(name, type, tile, p, t)                                                                             \
    static void name##_##p##x##t(const sweep *s, int panel, int first, int n, int token) {                             \
        tile(type, p, t, s, panel, first, n, token);                                                                   \
    }
#define SWEEP_TILES_4(name, type, tile, p)                                                                             \
    SWEEP_TILE(name, type, tile, p, 1)                                                                                 \
    SWEEP_TILE(name, type, tile, p, 2)                                                                                 \
    SWEEP_TILE(name, type, tile, p, 3)                                                                                 \
    SWEEP_TILE(name, type, tile, p, 4)
#define SWEEP_TILES_6(name, type, tile, p)                                                                             \
    SWEEP_TILES_4(name, type, tile, p)                                                                                 \
    SWEEP_TILE(name, type, tile, p, 5)                                                                                 \
    SWEEP_TILE(name, type, tile, p, 6)
#define SWEEP_TILES_8(name, type, tile, p)                                                                             \
    SWEEP_TILES_6(name, type, tile, p)                                                                                 \
    SWEEP_TILE(name, type, tile, p, 7)                                                                                 \
    SWEEP_TILE(name, type, tile, p, 8)
#define SWEEP_LIST_4(name, p)                     name##_##p##x1, name##_##p##x2, name##_##p##x3, name##_##p##x4
#define SWEEP_LIST_6(name, p)                     SWEEP_LIST_4(name, p), name##_##p##x5, name##_##p##x6
#define SWEEP_LIST_8(name, p)                     SWEEP_LIST_6(name, p), name##_##p##x7, name##_##p##x8
#define SWEEP_TILES_OF(most, name, type, tile, p) SWEEP_TILES_##most(name, type, tile, p)
#define SWEEP_TILES(most, name, type, tile)                                                                            \
    _Static_assert((most) == TOKENS, "what the file's tiles have room for");                                           \
    SWEEP_TILES_OF(most, name, type, tile, 1)                                                                          \
    SWEEP_TILES_OF(most, name, type, tile, 2)                                                                          \
    static const sweep_tile name##_tiles[] = {SWEEP_LIST_##most(name, 1), SWEEP_LIST_##most(name, 2)};
/* matmul_NAME of a level for a type of floats; chunk: of columns. */
#define SWEEP_COLUMNS(name, type, tile, most, chunk)                                                                   \
    SWEEP_TILES(most, name, type, tile)                                                                                \
    static void matmul_##name(const pack_matrix *w, int panel_first, int n_panels, const act_rows *x, int n_tokens,    \
                              float *out, size_t ldo) {                                                                \
        sweep s = {.w = w, .x = x, .out = out, .ldo = ldo};                                                            \
        sweep_tiles how = {name##_tiles, most};                                                                        \
        sweep_walk(&s, sweep_tiles_run, &how, w->n_cols, chunk, sizeof(float), panel_first, n_panels, n_tokens);       \
    }
#endif
