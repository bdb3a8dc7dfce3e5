/* cache.h - the compressed cache of one sequence: lanes of pages, and the one place that moves bytes.
 *
 * A step, in order (the engine's side of the contract):
 *   1. kv_cache_step_bytes() of every sequence against the pool: pages are reserved before anything changes;
 *   2. kv_cache_begin(cache, n, phase): gives the n new tokens positions; no lane has slots for them yet;
 *   3. per layer and KV head, in any order and thread: kv_cache_append() the n rows of K (rotated) and V, and
 *      kv_cache_note_queries() those of Q;
 *   4. per layer, when all lanes have their rows: kv_attend tasks (attend.h);
 *   5. after the last layer, per layer, in any thread: kv_cache_finish_layer(): event, plan, eviction, sealing;
 *   6. kv_cache_end(cache).
 * Nothing in 2 to 6 can fail. A query at position t sees the slots whose position is at most t (and inside the layer's
 * window). */
#ifndef KV_CACHE_H
#define KV_CACHE_H
#include "kv/method.h"
#include "kv/pool.h"

typedef struct kv_cache kv_cache;

/* The model and pool must outlive it; the method is copied. PLEAT_EMEMORY. */
pleat_status kv_cache_open(const kv_model *model, const kv_method *method, kv_pool *pool, kv_cache **out,
                           pleat_error *error);
void kv_cache_close(kv_cache *cache); /* gives every page back; NULL is fine */
/* A copy of src's open prompt (no event since its start, prefill:exact, a first turn) under another method.
 * PLEAT_EFULL: no pages; PLEAT_EINPUT: src is past its prompt, or lacks what the method wants. */
pleat_status kv_cache_fork(const kv_cache *src, const kv_method *method, kv_cache **out, pleat_error *error);
/* Asks for the side data of `wants` as well (a measuring prefill that others will fork); before the first token. Of
 * several windows the widest is kept; where moments leave out different first tokens, the first asked holds. */
void kv_cache_want(kv_cache *cache, kv_wants wants);
/* How many tokens will be decoded at most (0: not known); before the prompt's end. A fork takes it over. */
void kv_cache_expect(kv_cache *cache, int max_new_tokens);
/* Positions first..first+n-1 are never evicted, if the method has the modifier pin. PLEAT_EMEMORY; PLEAT_EINPUT: no
 * such positions. */
pleat_status kv_cache_pin(kv_cache *cache, int first, int n, pleat_error *error);

const kv_method *kv_cache_method(const kv_cache *cache);
int kv_cache_tokens(const kv_cache *cache);     /* seen so far = position of the next token */
bool kv_cache_in_prompt(const kv_cache *cache); /* a prompt was begun and not ended */
/* Upper bound of the pool bytes that a step of n tokens takes at its highest point, when at most n_workers call
 * kv_cache_finish_layer at once; that point itself wherever no policy evicts (reserve.c). The step asserts it. Also
 * grows the lanes' own arrays, so that the step itself allocates nothing: SIZE_MAX when the system has no memory for
 * them. The cache's contents do not change. */
size_t kv_cache_step_bytes(kv_cache *cache, int n_tokens, pleat_phase phase, int n_workers);
/* Of the queries that a policy wants kept: charged to the pool with a cache's first step. */
size_t kv_queries_bytes(const kv_model *model, const kv_wants *wants);
/* How many of n further prompt tokens one step may take (grid points under bounded; any otherwise). */
int kv_cache_cut(const kv_cache *cache, int n_tokens);
/* Tokens until the model's context ends. With positions inside the cache only live tokens count, so decode never ends;
 * under bounded such a prompt may have any length (INT_MAX). */
int kv_cache_room(const kv_cache *cache);

void kv_cache_begin(kv_cache *cache, int n_tokens, pleat_phase phase);
/* k, v: rows of the n new tokens for head ih, [n] with row_stride floats between them, K already rotated to its
 * position. */
void kv_cache_append(kv_cache *cache, int il, int ih, const float *k, const float *v, size_t row_stride,
                     const cpu_kernels *);
/* q: rows of the n new tokens for the query heads of KV head ih, [n] with q_stride floats between them, each
 * [group][d], rotated by cos_sin [n][n_rot] (as the kernel `rope` takes it). Kept when the method wants queries. */
void kv_cache_note_queries(kv_cache *cache, int il, int ih, const float *q, size_t q_stride, const float *cos_sin,
                           const cpu_kernels *);
/* worker-owned scratch; see kv_scratch_open. */
typedef struct kv_scratch kv_scratch;
void kv_cache_finish_layer(kv_cache *cache, int il, kv_scratch *scratch, const cpu_kernels *);
void kv_cache_end(kv_cache *cache);

pleat_status kv_scratch_open(const kv_model *model, kv_scratch **out, pleat_error *error);
void kv_scratch_close(kv_scratch *scratch);
/* Before a step of n_new tokens: room for what the method's policy does with it. false: no memory. */
bool kv_scratch_grow(kv_scratch *scratch, const kv_cache *cache, int n_new);

pleat_seq_stats kv_cache_stats(const kv_cache *cache);

/* For policies and tests: rows of live slots as stored ([n_slots][d]; dead ones zero), through the formats' `open`. */
void kv_cache_open_rows(const kv_cache *cache, int il, int ih, kv_side side, float *x);
int kv_cache_slots(const kv_cache *cache, int il, int ih);
const int32_t *kv_cache_positions(const kv_cache *cache, int il, int ih); /* [n_slots], KV_DEAD where dead */
const float *kv_cache_mass(const kv_cache *cache, int il, int ih);        /* [n_slots] or NULL */
const float *kv_cache_last(const kv_cache *cache, int il, int ih);        /* the same, for the newest query */
/* Slots below this are sealed on that side. */
int kv_cache_sealed(const kv_cache *cache, int il, int ih, kv_side side);

/* Fills an empty cache with n synthetic tokens (rows drawn per layer, head and token from rng, keys of realistic
 * spread), ended as a prompt: for timing decode without a long prefill. On failure (PLEAT_EFULL, PLEAT_EMEMORY) the
 * cache can only be closed. */
pleat_status kv_cache_fill(kv_cache *cache, int n_tokens, uint64_t seed, kv_scratch *scratch, const cpu_kernels *,
                           pleat_error *error);
#endif
