/* tile.h - one tile of attention: the queries of up to 16 tokens over the pages of one lane. For attend.c and view.c.
 */
#ifndef KV_TILE_H
#define KV_TILE_H
#include "kv/attend.h"
#include "kv/lane.h"

/* Chunks of a lane's pages: the first four end at 128, 256, 512 and 1,024 slots, so that a few short lanes can be
 * shared evenly by threads, and the others have 1,024 each. Where one ends depends on the slot alone. */
enum { CHUNK_PAGES = 16, SHORT_CHUNKS = 4 };

static inline int chunk_first_page(int chunk) {
    return chunk == 0 ? 0 : chunk < SHORT_CHUNKS ? 1 << chunk : CHUNK_PAGES * (chunk - SHORT_CHUNKS + 1);
}
static inline int chunk_of_page(int page) {
    int chunk = SHORT_CHUNKS - 1 + page / CHUNK_PAGES;
    while (page < chunk_first_page(chunk))
        chunk--;
    return chunk;
}

typedef struct kept_page { /* a page whose probabilities are kept, and the block of pages that it was seen in */
    int page, block;
} kept_page;

typedef struct tile {
    const kv_cache *cache;
    const kv_lane *lane;
    const cpu_kernels *kernels;
    kv_scratch *scratch;
    int d, group, n_rows, window;
    int t_first, t_last;             /* positions of its queries */
    bool shifted;                    /* the first segment is read with q_cached */
    kv_query_rows rows, rows_cached; /* the tile's queries as sealed pages are scored with them */
    bool turns[2];                   /* sealed K is read with turned queries, sealed V is summed up in out_turned */
    float *out_turned;               /* of the chunk, or NULL while there is nothing in it */
    float *p, *p_max;                /* the worker's, or NULL when no probabilities are kept */
    kept_page *p_kept;
    int n_kept, n_blocks; /* pages and blocks of pages that were seen so far */
    const uint64_t *read; /* [group][pages] slots that each query head reads; NULL: all */
} tile;

/* The tile of n_tokens of the item from `first` on, in one lane; all that is read, nothing kept. `scratch` is the
 * worker's, whose queries it holds from now on. */
tile tile_begin(const kv_attend_item *item, int il, int ih, int first, int n_tokens, kv_scratch *scratch,
                const cpu_kernels *kernels);
/* One chunk: each row's maximum and sum, and the sum of its values, out [rows][d], not yet divided. */
void tile_chunk(tile *t, int chunk, float *max, float *sum, float *out);
/* mass [n] = the kept probabilities per slot from row `from` on, added up in the order of the rows. */
void tile_mass(const tile *t, int from, const float *max, const float *sum, float *mass, int n);
/* A tile for scores alone, of n_rows queries that stand in scratch->q, scaled, for as long as it is used. */
tile tile_of_rows(const kv_lane *lane, const cpu_kernels *kernels, kv_scratch *scratch, int d, int n_rows);
/* Scores of one page, s [n_rows][64], with nothing masked. */
void tile_page_score(tile *t, int page, float *s);
#endif
