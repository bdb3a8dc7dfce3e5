/* attend.h - attention of a step's queries over one lane: one algorithm for prefill and decode, any format, any policy.
 *
 * Queries go in tiles on absolute positions (16 tokens x the group's heads), keys in pages of 64 slots, blocks of 4
 * pages and chunks (tile.h); each chunk gives a partial (maximum, sum, output), merged in rising order. One task is one
 * (lane, query tile, chunk range): few lanes are split by chunk, and since chunks are merged alike, the bits do not
 * depend on that. */
#ifndef KV_ATTEND_H
#define KV_ATTEND_H
#include "kv/cache.h"

enum { ATTEND_TILE_TOKENS = 16, ATTEND_BLOCK_PAGES = 4 };

/* The attention of one step in one layer over all its sequences. */
typedef struct kv_attend_item {
    kv_cache *cache;
    const float *q;              /* [n_tokens][n_head][d] rotated, not scaled */
    float *out;                  /* [n_tokens][n_head][d] */
    int n_tokens;                /* the tokens of kv_cache_begin */
    size_t q_stride, out_stride; /* floats between tokens */
} kv_attend_item;

typedef struct kv_attend kv_attend;
/* Room for steps of at most max_items sequences and max_tokens rows in all; partials are grown by kv_attend_plan. */
pleat_status kv_attend_open(const kv_model *model, int max_items, int max_tokens, int n_workers, kv_attend **out,
                            pleat_error *error);
void kv_attend_close(kv_attend *attend);
/* Before a step and its kv_cache_begin, from the items' n_tokens: takes the memory that its layers need, so that
 * nothing fails later. PLEAT_EMEMORY: no cache has changed. */
pleat_status kv_attend_plan(kv_attend *attend, const kv_attend_item *items, int n_items, pleat_error *error);
/* One layer; then two stages, the second when the first has ended: every pick, every task once, in any thread with its
 * own scratch. Whichever task of a lane ends last puts its parts together. q and out pointers may differ from
 * kv_attend_plan's. */
void kv_attend_layer(kv_attend *attend, const kv_attend_item *items, int n_items, int il);
int kv_attend_picks(const kv_attend *attend); /* 0 unless a policy picks what a decode token reads */
void kv_attend_pick(kv_attend *attend, int pick, kv_scratch *scratch, const cpu_kernels *);
int kv_attend_tasks(const kv_attend *attend);
int kv_attend_task_pages(const kv_attend *attend, int task); /* that it reads at most; until the step's end */
void kv_attend_task(kv_attend *attend, int task, int worker, kv_scratch *scratch, const cpu_kernels *);
#endif
