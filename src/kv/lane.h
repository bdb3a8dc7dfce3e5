/* lane.h - the inside of a cache, shared by cache.c, lane.c, plan.c, seal.c, reserve.c, fill.c, attend.c, tile.c,
 * view.c, window.c, bounds.c, critical.c, share.c, gather.c and image.c only.
 *
 * A lane numbers its slots 0..n_slots-1; slot i of both sides lies in page i / 64. On each side the slots below
 * n_sealed lie in sealed pages, the others in fp16 pages (a page may be both: its sealed rows first). Order in a lane
 * has no meaning for attention; pos says which token a slot holds, KV_DEAD that it holds none.
 *
 *   slot:      0        64       128      192      256
 *   K  sealed |########|########|                          n_sealed[K] = 128
 *      fp16                      |........|......           the tail
 *   V  sealed |########|                                    n_sealed[V] = 64
 *      fp16             |........|........|......
 *      pos     0 1 2 ... dead ...                           shared by both sides, like mass
 *
 * Slots at or above lock = max(n_sealed) are fp16 on both sides and may be moved and overwritten freely.
 *
 * Sinks. When a format wants its first tokens in fp16 for ever, the lane's first seal makes a gap behind them, so that
 * they have page 0 to themselves on both sides; before that they are slots like others:
 *
 *   slot:      0    32   64       128
 *   fp16      |####-gap-|
 *   sealed              |########|########|                  n_front = 64, n_sealed counts from slot 0
 *
 * Runs. Pages that were sealed together may share a block of bytes; a run covers neighbouring pages and ends at a
 * multiple of the geometry's run_pages, counted from n_front. A run that is sealed in pieces of less than a page (a
 * buffer of 20) fills its last page in part, and a gap follows. Slots of gaps are dead and no holes: nothing fills them
 * but a rebuild. */
#ifndef KV_LANE_H
#define KV_LANE_H
#include "kv/cache.h"
#include <stdatomic.h>

/* How a layer keeps one side of its lanes. */
typedef struct kv_keep {
    kv_coding coding;
    kv_geometry geometry;
} kv_keep;

typedef struct kv_lane {
    const kv_keep *keep; /* [2], the layer's */
    int il, ih;
    int sink_tokens; /* that get a page of their own; 0: none */
    int n_slots, n_live;
    int n_front; /* slots in front that never seal: the sinks' page and its gap; 0 before the first seal */
    int n_gap;   /* slots that no token is ever put in */
    int n_sealed[2];
    int first_page; /* windowed layers: pages below it were released */
    bool unordered; /* movable slots are not in the order of their positions */
    bool windowed;  /* slots are positions; nothing moves, whole pages are released behind the window */
    int cap_slots, cap_pages;
    int cap_values; /* room in those of mass, last and norm that there are */
    int n_bound, cap_bound, cap_bound_old;
    kv_page *sealed[2]; /* [cap_pages], bytes NULL where there is none */
    uint8_t **tail[2];  /* [cap_pages] fp16 pages */
    int32_t *pos;       /* [cap_slots] */
    float *mass;        /* [cap_slots] or NULL when nobody wants it; moves with its slot, as the next two do */
    float *last;        /* the same: probability for the newest query of the last step */
    float *norm;        /* the same: CriticalKV's norm of the value, negative while it is not known */
    f16 **bound;        /* [blocks of cap_slots] bounds.c; NULL where there is none, or when nobody wants them */
    uint8_t *bound_old; /* [cap_pages] 1: the page's bounds must be made anew; NULL when nobody wants them */
    int64_t evicted, seals, reseals;
} kv_lane;

typedef struct kv_span {
    int first, end;
} kv_span;

enum { QUERIES_LATE = 16 };
/* The queries of a layer that policies look at (window.c). */
typedef struct kv_queries {
    float *ring;  /* [window_tokens][n_head][d] the query of position p in row p % window_tokens, rotated */
    float *sum;   /* [n_head][d] of the moments */
    float *outer; /* [n_head][d][d] of which the lower triangle is kept up to date */
    float *late;  /* [QUERIES_LATE][n_head][d] of decoding, before rotation, that the moments lack; else zeros */
    int from;     /* first position of the moments */
} kv_queries;

struct kv_cache {
    const kv_model *model;
    kv_method method;
    kv_pool *pool;
    kv_keep (*keep)[2]; /* [n_layer] */
    size_t f16_bytes;   /* of an fp16 page */
    kv_wants wants;
    int n_seen; /* tokens before this step */
    int n_new;  /* of this step */
    pleat_phase phase;
    int prompt_from;         /* first token of the current or last prompt */
    bool in_prompt, evented; /* evented: some event has changed the cache (it cannot be forked) */
    int grid_sealed;         /* tokens of the first prompt that were sealed at grid points */
    bool shares;             /* some page may have another holder: tails are owned before rows move */
    bool offers;             /* a step's whole fp16 pages get another holder before its event */
    int grid_from;           /* grid points are at grid_from + multiples of the method's grid: behind the sinks */
    int segment_end;         /* positions below it form the first segment; 0: original positions */
    int max_new, n_steps;    /* tokens expected of decoding (0: not known), and decoded since the prompt's end */
    kv_span *pin;            /* [n_pins] pinned positions, in rising order, apart from each other */
    int n_pins, cap_pins;
    kv_queries *queries;  /* [n_layer] window.c; NULL until the first step that needs it */
    size_t charged_bytes; /* of the pool, for these */
    _Atomic size_t bytes, peak_bytes;
    size_t most_bytes; /* of this step, as was reserved; SIZE_MAX between steps */
    kv_lane *lane;     /* [n_layer][n_head_kv] */
};

struct kv_scratch {
    int cap_slots;
    float *score;             /* [n_head_kv][cap_slots] */
    float **score_row;        /* [n_head_kv] into score */
    int32_t *order, *inverse; /* [cap_slots] */
    float *ties;              /* [n_head_kv][cap_slots] */
    bool *has_ties;           /* [n_head_kv] of this event */
    /* grown by kv_scratch_grow for caches whose method needs them */
    float *work, *opened[2], *product,
        *wo; /* kv_view_work, kv_view_rows [cap_opened][d], product_pack, kv_model.open_wo */
    size_t cap_work, cap_product, cap_wo;
    int cap_opened;
    float *rows[2];  /* [64][d] one page of each side */
    f16 *half[2];    /* [64][d] */
    float *run_rows; /* [rows][d] of a run; memory that only long runs touch */
    float *run_work; /* kv_seal_work_floats of as many, likewise */
    size_t run_rows_bytes, run_work_bytes;
    /* tile.c: rows = 16 tokens x group */
    float *q, *q_cached, *out, *chunk_out;          /* [rows][d] */
    float *q_turned, *q_cached_turned, *out_turned; /* [rows][d] in the basis of a format that turns rows */
    float *of_run, *of_run_cached;                  /* [rows][KV_OF_RUN_FLOATS] of kv_query_rows */
    dot_row *folded, *folded_cached;                /* [KV_FOLDED_ROWS * d / 32] of kv_query_rows */
    float *s;                                       /* [4 pages][rows][64] */
    float *s_part, *p_part;                         /* [rows][64] */
    float *max, *sum, *chunk_max, *chunk_sum;       /* [rows] */
    float *cos_sin;                                 /* [n_rot] of the rotation below */
    const float *cos_sin_rope;                      /* whose angles */
    int cos_sin_shift;                              /* by how many positions */
};

/* cache.c: the scratch's arrays by slot, made anew; what they held is lost. false: no memory, unchanged. */
bool scratch_slots(kv_scratch *scratch, const kv_model *model, int n_slots);
/* cache.c: most slots of any lane, in whole pages, once a step's n_new tokens are in. */
int cache_most_slots(const kv_cache *cache, int n_new);

static inline int page_count(int n_slots) {
    return (n_slots + PAGE_TOKENS - 1) / PAGE_TOKENS;
}
static inline kv_lane *lane_of(const kv_cache *cache, int il, int ih) {
    return &cache->lane[(size_t)il * (size_t)cache->model->n_head_kv + (size_t)ih];
}
static inline float *query_row(const kv_cache *cache, int il, int position) {
    size_t width = (size_t)cache->model->n_head * (size_t)cache->model->head_dim;
    return cache->queries[il].ring + (size_t)(position % cache->wants.window_tokens) * width;
}
static inline bool layer_windowed(const kv_cache *cache, int il) {
    return cache->model->layer[il].window_tokens > 0;
}
/* Under prefill:bounded: an event is due when a prompt has come to n_tokens. */
static inline bool cache_grid_point(const kv_cache *cache, int n_tokens) {
    int behind = n_tokens - cache->grid_from;
    return cache->method.bounded && behind > 0 && behind % cache->method.grid_tokens == 0;
}
static inline int lane_lock(const kv_lane *lane) {
    return lane->n_sealed[0] > lane->n_sealed[1] ? lane->n_sealed[0] : lane->n_sealed[1];
}
static inline int lane_holes(const kv_lane *lane) {
    return lane->n_slots - lane->n_live - lane->n_gap;
}
/* True when an event may move rows between slots: evictions do, and gaps. */
static inline bool lane_moves(const kv_cache *cache, const kv_lane *lane) {
    return cache->method.policy != kv_policies[0] || lane->sink_tokens ||
           lane->keep[KV_K].geometry.step_tokens % PAGE_TOKENS || lane->keep[KV_V].geometry.step_tokens % PAGE_TOKENS;
}
/* Slots of a page that are sealed: its first ones. */
static inline int lane_sealed_in(const kv_lane *lane, int side, int page) {
    int n = (page + 1) * PAGE_TOKENS <= lane->n_front ? 0 : lane->n_sealed[side] - page * PAGE_TOKENS;
    return n < 0 ? 0 : n > PAGE_TOKENS ? PAGE_TOKENS : n;
}

/* lane.c: pages and rows. Taking a page cannot fail after kv_cache_step_bytes was reserved (asserted). */
bool lane_grow(kv_cache *cache, kv_lane *lane,
               int n_slots);                         /* room in the lane's own arrays; false: no memory, unchanged */
void lane_free(kv_cache *cache, kv_lane *lane);      /* gives every page back and frees the arrays */
void lane_count(kv_cache *cache, size_t page_bytes); /* the cache holds a page more */
uint8_t *lane_take(kv_cache *cache, size_t page_bytes);
void lane_give(kv_cache *cache, uint8_t **page, size_t page_bytes); /* *page may be NULL; becomes NULL */
void lane_tail_ensure(kv_cache *cache, kv_lane *lane,
                      int page);                     /* fp16 pages of both sides where slots are not sealed */
void lane_tails_own(kv_cache *cache, kv_lane *lane); /* copies fp16 pages that have another holder */
void lane_rows_open(const kv_cache *cache, const kv_lane *lane, kv_side side, int page, float *x,
                    f16 *half);                       /* [64][d] */
void lane_trim(kv_cache *cache, kv_lane *lane);       /* gives back pages that hold no slot of their kind */
int lane_movable_hole(const kv_lane *lane);           /* where a decoded token goes; -1: behind the last slot */
void lane_kill(kv_lane *lane, int slot);              /* the slot's token is evicted */
void lane_slot_move(kv_lane *lane, int dst, int src); /* all that a slot carries (position, mass, ...) but its rows */
void lane_slot_swap(kv_lane *lane, int a, int b);
/* Makes n pages one run: takes those that are missing, zeroed, and the run's block; gives up blocks that nobody else
 * reads. Pages that are there keep their bytes. */
void lane_run_take(kv_cache *cache, kv_lane *lane, kv_side side, int page, int n, bool decode);
void lane_unseal(kv_cache *cache, kv_lane *lane, kv_side side, int page); /* gives the page back if there is one */

/* plan.c: what stays at an event, and its eviction. */
void plan_event(kv_cache *cache, int il, kv_event event, kv_scratch *scratch, const cpu_kernels *);
/* True when slot a leaves before slot b; ties may be NULL. */
static inline bool leaves_first(const float *score, const float *ties, const int32_t *pos, int a, int b) {
    if (score[a] != score[b])
        return score[a] < score[b];
    if (ties && ties[a] != ties[b])
        return ties[a] < ties[b];
    return pos[a] > pos[b];
}
/* Moves the n_drop slots that leave first to the front of order[0..n). */
void select_leaving(int32_t *order, int n, int n_drop, const float *score, const float *ties, const int32_t *pos);

/* view.c: an event's view of a layer, all but budget and scores. */
typedef struct view_store {
    int n_slots[KV_MAX_HEADS], n_live[KV_MAX_HEADS];
    const int32_t *pos[KV_MAX_HEADS];
    const float *mass[KV_MAX_HEADS], *last[KV_MAX_HEADS];
} view_store;
kv_view view_open(const kv_cache *cache, int il, kv_event event, kv_scratch *scratch, const cpu_kernels *,
                  view_store *store);

/* w [n_rows][n_cols], at most KV_PRODUCT_ROWS rows, packed into the scratch; out[i * ldo + r] = x row i . w row r. */
pack_matrix product_pack(const kv_view *view, const float *w, int n_rows, int n_cols);
void product_run(const kv_view *view, const pack_matrix *w, const float *x, int n, float *out, int ldo);

/* window.c: queries kept for policies. */
bool queries_ensure(kv_cache *cache);            /* false: no memory, unchanged */
size_t queries_uncharged(const kv_cache *cache); /* bytes of the pool that queries_charge will take */
void queries_charge(kv_cache *cache);            /* a step that has reserved them begins */
void queries_free(kv_cache *cache);
void queries_copy(kv_cache *cache, const kv_cache *src);
/* Of a layer, its outer products made whole. */
kv_moments queries_moments(kv_cache *cache, int il, const cpu_kernels *);
void queries_restart(kv_cache *cache, int il); /* moments begin anew after this step */

/* bounds.c: least and greatest K of neighbouring slots. */
int bounds_blocks(const kv_cache *cache, int n_slots);
size_t bounds_block_bytes(const kv_cache *cache);
bool bounds_grow(const kv_cache *cache, kv_lane *lane, int n_slots); /* the table; false: no memory */
int bounds_room(const kv_cache *cache, const kv_lane *lane);         /* slots that the table has room for */
void bounds_trim(kv_cache *cache, kv_lane *lane, int n_slots);       /* gives blocks behind n_slots back */
size_t bounds_step_bytes(const kv_cache *cache, const kv_lane *lane, int n_tokens, pleat_phase phase);
/* n new rows [n][d] of K in slots slot.. of one page: widens their bounds in decode, else leaves them to the event. */
void bounds_append(kv_cache *cache, kv_lane *lane, int slot, int n, const f16 *rows);
void bounds_refresh(kv_cache *cache, kv_lane *lane, kv_scratch *scratch); /* pages whose slots changed */

/* critical.c: the scores of a lane's free slots weighed by their values' norm, so that the best n_keep are CriticalKV's
 * (its two stages). score holds the policy's scores, forced ones INFINITY. */
void critical_weigh(kv_cache *cache, const kv_view *view, int ih, int n_keep, float *score);

/* seal.c: order, sealing, rebuilding. */
void seal_pack(kv_cache *cache, kv_lane *lane, kv_scratch *scratch); /* movable slots: live ones first, by position */
/* Seals what is due; all: whole pages up to the last (a grid point), else by the geometry's windows. */
void seal_due(kv_cache *cache, kv_lane *lane, bool all, kv_scratch *scratch, const cpu_kernels *);
void seal_rebuild_if_sparse(kv_cache *cache, kv_lane *lane, kv_scratch *scratch, const cpu_kernels *);
int seal_due_tokens(const kv_lane *lane, int side, bool all);
int seal_run_end(const kv_lane *lane, int side, int slot); /* where the run that the slot lies in ends at the latest */

/* reserve.c: adds to *bytes what a layer's lanes take of the pool in a step of n tokens and do not give back at once;
 * *passing: what one lane at a time takes besides for a moment. Grows the lanes; false: no memory. */
bool reserve_layer(kv_cache *cache, int il, int n_tokens, pleat_phase phase, size_t *bytes, size_t *passing);
#endif
