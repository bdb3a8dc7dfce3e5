/* drive.h - a cache driven without a model: queries, keys and values are drawn, or those that a real model made; steps
 * are run as the engine runs them, and a double reference says what attention must give. */
#ifndef TESTS_DRIVE_H
#define TESTS_DRIVE_H
#include "kv/attend.h"
#include "support/capture.h"

enum { DRIVE_LAYERS = 2, DRIVE_EMBD = 48 };

typedef struct drive_shape {
    int n_head, n_head_kv, d;
    int window;         /* of layer 1; 0: none */
    int context_tokens; /* 0: 8,192 */
    /* NULL: rows are drawn. Else they are these, whatever the seed, for as many tokens as there are: d is theirs, KV
     * head ih is theirs of that number, and a group is the first of its query heads. */
    const capture *real;
    int real_layer[DRIVE_LAYERS];
} drive_shape;

typedef struct drive {
    kv_model model;
    kv_layer_shape layer[DRIVE_LAYERS];
    float rope_inv[KV_MAX_HEAD_DIM / 2];
    kv_pool *pool;
    kv_attend *attend;
    kv_scratch *scratch[4];
    const cpu_kernels *kernels;
    int n_workers;
    bool backwards;      /* tasks in falling order, workers in turn */
    int dealt_pages[4];  /* of the last layer, to each of 4 threads by threads_run, before any takes from another */
    const capture *real; /* as in the shape */
    int real_layer[DRIVE_LAYERS];
} drive;

void drive_open(drive *d, drive_shape shape, size_t pool_bytes);
void drive_close(drive *d);
/* Parses spec; the test fails when it is refused. */
kv_method drive_method(const drive *d, const char *spec);
kv_cache *drive_cache(drive *d, const char *spec);
/* Of the pool beside the cache's pages: what its policy keeps of queries. */
size_t drive_queries_bytes(const drive *d, const kv_cache *cache);

typedef struct drive_item {
    kv_cache *cache;
    uint64_t seed;
    int n_tokens;
    pleat_phase phase;
    float *out; /* [DRIVE_LAYERS][n_tokens][n_head][d] */
} drive_item;

/* One step of a batch; also checks that no more bytes were taken than kv_cache_step_bytes said. */
void drive_step(drive *d, const drive_item *items, int n_items);
/* A whole prompt in pieces of at most cut tokens; out as in drive_item, for all n tokens, or NULL. */
void drive_prompt(drive *d, kv_cache *cache, uint64_t seed, int n, int cut, bool end, float *out);
void drive_decode(drive *d, kv_cache *cache, uint64_t seed, int n_steps, float *out /* of the last step, or NULL */);
size_t drive_out_floats(const drive *d, int n_tokens);

/* What a decode step's attention must give in layer il, in double, from the cache as it stands before the step and the
 * new token's own row (rounded to fp16): out [n_head][d]. mass, if not NULL, [n_slots + 1] per KV head: probabilities
 * of each slot summed over the group, the new token last. */
void drive_expect(const drive *d, const kv_cache *cache, uint64_t seed, int il, double *out, double *mass[]);
/* The drawn output projection of query head h, [DRIVE_EMBD][d] (kv_model.open_wo; owner is the drive). */
void drive_wo(const void *owner, int il, int h, float *wo);
/* The rows. which: 0 q (ih: query head), 1 k, 2 v; rotated to the position. */
void drive_row(const drive *d, uint64_t seed, int which, int il, int ih, int position, float *row);
#endif
