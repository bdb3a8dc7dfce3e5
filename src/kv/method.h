/* method.h - what a compression method is: format x policy x split, three small interfaces.
 *
 * A *format* owns bytes and decides nothing. A *policy* decides and touches no bytes. A *split* shares a budget among
 * layers and heads. Only the cache (cache.h) moves bytes. Adding a method is one file and one line in methods.def.
 *
 * lane: the cached tokens of one (sequence, layer, KV head). slot: an index in it. page: 64 slots of one format for one
 * side. run: pages sealed in one call (they may share a block of bytes). tail: slots not sealed yet, in fp16 pages. */
#ifndef KV_METHOD_H
#define KV_METHOD_H
#include "cpu/kernels.h"
#include "pleat.h"

typedef enum kv_side { KV_K, KV_V } kv_side;

/* ---- what the cache and the methods need of a model; `model` fills it ---- */

enum { KV_MAX_HEAD_DIM = 256, KV_MAX_GROUP = 64, KV_MAX_HEADS = 256 }; /* of KV heads */

typedef struct kv_layer_shape {
    int window_tokens; /* a query at t sees positions > t - window; 0: all. Policies act on layers without a window */
    const float *rope_inv; /* [n_rot/2] angle per position of each pair, scaling included */
} kv_layer_shape;

typedef struct kv_model {
    const char *name;
    int n_layer, n_head, n_head_kv, head_dim; /* group = n_head / n_head_kv query heads read one KV head */
    int n_rot;                                /* rotated elements of a head */
    bool rope_neox;                           /* pairs (i, i + n_rot/2), else (2i, 2i + 1) */
    float score_scale;                        /* usually 1/sqrt(head_dim) */
    int context_tokens;
    bool has_key_bias;           /* Qwen2.5: extreme K channels */
    bool has_qk_norm;            /* gemma3: key norms nearly constant */
    const kv_layer_shape *layer; /* [n_layer] */
    float rope_magnitude;        /* factor of the rotation's cos and sin (yarn), else 1 */
    int n_embd;
    uint64_t fingerprint; /* of the file: saved caches belong to one */
    /* wo [n_embd][head_dim] = the columns of the output projection that query head h's output meets (CriticalKV); NULL:
     * not known. */
    void (*open_wo)(const void *owner, int il, int h, float *wo);
    const void *owner; /* for open_wo */
} kv_model;

/* ---- parameters ---- */

enum { KV_MAX_PARAMS = 8 };
typedef struct kv_config {
    double value[KV_MAX_PARAMS]; /* in the order of the params table; choices by index */
} kv_config;

typedef struct kv_param {
    const char *name;    /* NULL ends the table */
    const char *help;    /* a few words, with the unit */
    const char *choices; /* "page|token": the value is its index; NULL: a number */
    double fallback, low, high;
    bool integer;
} kv_param;

/* ---- format ---- */

/* How one side of a lane is kept. Sealing takes the oldest tail slots: step * floor((tail - keep) / step) of them, when
 * positive. Slots count from the first page that can be sealed: behind the sinks' page, if there is one. */
typedef struct kv_geometry {
    size_t page_bytes; /* of a sealed page of 64 slots; 0: never seals, fp16 pages are the format */
    int run_pages;   /* most pages of a run. Runs start at multiples of it, counted in pages that can be sealed; what is
                      * sealed in one call and lies between two such boundaries is one run */
    int keep_tokens; /* newest slots that stay fp16 */
    int step_tokens; /* sealed at once: a multiple of 64; or 1 (then rows are sealed singly; needs row_writable); or
                      * less than 64, a run of its own that leaves the rest of its page empty (only where the other side
                      * has the same windows, else it counts as 64) */
    int sink_tokens; /* first kept slots that stay fp16 for ever, in a page of their own (at most 64); both sides of a
                      * lane take the larger of their two */
    bool row_writable; /* any row of a sealed page can be written anew without touching the others */
} kv_geometry;

/* One sealed page as a format sees it. */
typedef struct kv_page {
    uint8_t *bytes; /* page_bytes, 64-byte aligned */
    uint8_t *run;   /* run_bytes() of its run, 64-byte aligned, shared by the run's pages; NULL without */
    int page_in_run, n_run_pages;
    bool decode; /* the run was sealed while decoding (GEAR: with the decode rank) */
} kv_page;

/* What a format may know of the sealing itself. */
typedef struct kv_sealing {
    uint64_t seed; /* counter for formats that draw: of (layer, head, side, first slot); the same for the same run */
    int il, n_layer;
    const cpu_kernels *kernels;
    float *work; /* kv_seal_work_floats of the run's rows, 64-byte aligned; NULL when runs are single pages */
} kv_sealing;

/* Working memory of one seal of n rows: twice the rows, and 16 floats for each. */
static inline size_t kv_seal_work_floats(int n, int d) {
    return (size_t)((n + PAGE_TOKENS - 1) / PAGE_TOKENS * PAGE_TOKENS) * (size_t)(2 * d + 16);
}

enum { KV_OF_RUN_FLOATS = 16, KV_FOLDED_ROWS = 8 };
/* Rows that pages of one lane are scored with, and what a format keeps of them from page to page. x stays as it is for
 * as long as one of these lives: other rows get another, in which nothing is kept yet. */
typedef struct kv_query_rows {
    const float *x; /* [n][d] */
    int n;
    float *of_run;      /* room [n][KV_OF_RUN_FLOATS], the format's */
    const uint8_t *run; /* the kv_page.run that of_run belongs to; NULL: none */
    dot_row *folded;    /* room [KV_FOLDED_ROWS * d / 32] for x as whole numbers (page_products.c), which no page's maps
                         * change where they are by token */
    bool is_folded;
} kv_query_rows;

static inline kv_query_rows kv_query_rows_of(const float *x, int n, float *of_run, dot_row *folded) {
    return (kv_query_rows){.x = x, .n = n, .of_run = of_run, .folded = folded};
}

typedef struct kv_format {
    const char *name, *paper, *summary;
    const kv_param *params;
    /* Refuses what cannot be (group against head_dim d, ...) with a sentence. d is 0 when no model is known. */
    pleat_status (*check)(const kv_config *, kv_side, int d, pleat_error *);
    void (*geometry)(const kv_config *, kv_side, int d, kv_geometry *out);
    /* Bytes of the block that the n_pages pages of a run share, a multiple of 64, or 0; NULL: none. */
    size_t (*run_bytes)(const kv_config *, kv_side, int d, int n_pages, bool decode);
    /* What a person should know before using it on this model (model NULL: in general), or NULL. */
    const char *(*warning)(const kv_config *, kv_side, const kv_model *model);
    /* Writes finite rows x [n][d], which it may spoil, as slots first..first+n-1 of the pages of one run (slot 64*p + i
     * is row i of page p; pages [..] ordered). The whole run (its last page may be filled in part only when step_tokens
     * says so), unless row_writable, when any first and n inside one page will do. */
    void (*seal)(const kv_config *, kv_side, int d, float *x, int first, int n, const kv_page *pages,
                 const kv_sealing *how);
    /* Whether the next functions can read a page that comes from a file (its bytes and its run's, aligned to nothing)
     * without leaving it: formats whose bytes hold places. NULL: any bytes are rows of some value. */
    bool (*sound)(const kv_config *, kv_side, int d, const kv_page *page);
    /* Formats that keep rows in another orthonormal basis: x [n_rows][d] is turned into it, or back. Then score's q and
     * mix's o are in that basis (attention turns q once per tile and o once per chunk); seal's and open's rows are not.
     * NULL: the plain one. */
    void (*turn)(const kv_config *, int d, bool back, float *x, int n_rows);
    /* x [64][d] = the page's rows: the definition of the format, and the oracle of the next two. */
    void (*open)(const kv_config *, kv_side, int d, const kv_page *page, float *x);
    /* s[r*64 + t] = q row r . K row t, the same bits whatever pages q met before; NULL: a generic path over `open`. */
    void (*score)(const cpu_kernels *, const kv_config *, int d, const kv_page *page, kv_query_rows *q, float *s,
                  const void *prefetch);
    /* o[r*d + j] += sum_t p[r*64 + t] * V[t][j]; NULL: generic. */
    void (*mix)(const cpu_kernels *, const kv_config *, int d, const kv_page *page, const float *p, int n_rows,
                float *o, const void *prefetch);
} kv_format;

/* ---- policy ---- */

enum {
    KV_WANT_MASS = 1,     /* each slot's accumulated probability, summed over the group's query heads and all queries */
    KV_WANT_LAST = 2,     /* each slot's probability for the newest query, summed over the group's query heads */
    KV_WANT_WINDOW_Q = 4, /* the newest queries, rotated, float */
    KV_WANT_MOMENTS = 8,  /* count, sum and sum of outer products of the queries before rotation, by query head */
    KV_WANT_BOUNDS = 16,  /* least and greatest K of neighbouring slots by channel, of rows as `open` gives them */
    KV_WANT_ROWS = 32,    /* kv_view_rows at events; nothing is kept for it */
    KV_WANT_VALUES = 64,  /* CriticalKV's norm of each value, once it is needed */
    KV_WANT_OF_PROMPT = 15, /* what must be gathered while a prompt runs */
};

typedef struct kv_wants {
    unsigned flags;    /* KV_WANT_* */
    int window_tokens; /* WINDOW_Q: how many queries */
    int skip_tokens;   /* MOMENTS: first positions that are left out */
    int bound_slots;   /* BOUNDS: slots that share a bound, 4 or 16 */
} kv_wants;

typedef enum kv_event { KV_AT_GRID, KV_AT_PROMPT_END, KV_AT_STEP } kv_event;

/* Queries before rotation (after their norm), since the prompt's beginning (positions below skip_tokens left out) or,
 * in decode, since the last event that evicted. */
typedef struct kv_moments {
    int n;
    const float *sum;   /* [n_head][d] */
    const float *outer; /* [n_head][d][d] sum of q q^T, symmetric */
} kv_moments;

/* Read-only view of one layer of one sequence with all its KV heads' lanes. Dead slots have pos == KV_DEAD. */
#define KV_DEAD INT32_MAX
typedef struct kv_view {
    const kv_model *model;
    int il;                    /* layer */
    int n_full_layers, i_full; /* layers without a window, and this one's number among them */
    kv_event event;
    int n_seen;                /* tokens of the sequence so far: the next token's position */
    int n_prompt;              /* tokens of the prompt this event ends or lies in */
    int max_new;               /* tokens that will be generated at most, as the request says; 0: not known */
    int n_steps;               /* decode steps since the prompt's end, this one included */
    const int *n_slots;        /* [n_head_kv] dead ones included */
    const int *n_live;         /* [n_head_kv] */
    const int32_t *const *pos; /* [n_head_kv][n_slots] original positions */
    const float *const *mass;  /* [n_head_kv][n_slots] or NULL unless wanted */
    const float *const *last;  /* the same: LAST */
    int n_window_q;            /* newest queries at hand; the last one is at position n_seen - 1 */
    int n_newest;              /* the policy's window_tokens */
    bool critical;             /* CriticalKV weighs the scores by the values' norm afterwards */
    kv_moments moments;        /* n is 0 unless wanted */
    const struct kv_cache *cache;
    struct kv_scratch *scratch; /* for the functions below */
    const cpu_kernels *kernels;
} kv_view;

/* view.c. Rows of one side of a lane as `open` gives them, [n_slots][d], dead ones zero; until the next call for that
 * side. Only with KV_WANT_ROWS. */
const float *kv_view_rows(const kv_view *view, int ih, kv_side side);
/* s[(g * n + w) * n_slots + slot] = scaled score of query head g of KV head ih's group with the slot, for the w-th of
 * the newest n window queries; -INFINITY where it sees none. s is [group][n][n_slots]. */
void kv_view_logits(const kv_view *view, int ih, int n, float *s);
/* The same, turned into probabilities: softmax over the live slots that the query can see, in float. */
void kv_view_window(const kv_view *view, int ih, int n, float *p);
/* n floats of working memory, the same piece at each call of an event; asserts that n is at most the policy's
 * work_floats. */
float *kv_view_work(const kv_view *view, size_t n);
/* slot[] = the live slots in the order of their positions; returns how many. */
int kv_view_order(const kv_view *view, int ih, int32_t *slot);
/* [n_slots], zeroed: decides between slots of equal score, higher stays; without it, or when still equal, the smaller
 * position stays. */
float *kv_view_ties(const kv_view *view, int ih);
/* out[i * m + r] = x row i . w row r, x [n][n_cols], w [m][n_cols], each sum a chain over rising columns; n_cols is at
 * most the head's. Only with KV_WANT_ROWS. Best when m is at most KV_PRODUCT_ROWS and n is larger. */
enum { KV_PRODUCT_ROWS = 256 };
void kv_view_product(const kv_view *view, const float *x, int n, const float *w, int m, int n_cols, float *out);

/* One decode query against one lane, for policies that read less. */
typedef struct kv_pick {
    const kv_view *view; /* its ties, mass, window and moments are not filled */
    int ih;
    const float *q; /* [group][d], rotated, not scaled */
    /* [blocks of 32 bounds][2][d][32]: least, then greatest of each bound_slots slots and channel, 32 neighbours side
     * by side. Bounds without a live slot are undefined, but finite. */
    const f16 *const *bound;
    int bound_slots, n_pages;
} kv_pick;

/* s[g * room + b] = sum_j least_j * a[g * 2 d + j] + greatest_j * a[g * 2 d + d + j] of bound b, for n_rows rows a
 * [2 d], room = pick_room(), a multiple of 64; -INFINITY where no slot is live and from pick_count() on. live[b], of
 * pick_count() bounds: its live slots as bits from the lowest. */
int pick_count(const kv_pick *pick); /* bounds */
int pick_room(const kv_pick *pick);
void pick_products(const kv_pick *pick, const float *a, int n_rows, float *s, uint16_t *live);
/* mean[b] += exp(scale s[b]) / sum over b of weight[b] exp(scale s[b]) for one row of pick_products, which is
 * overwritten; weight NULL: ones. All of pick_room(). */
void pick_shares(const kv_pick *pick, float *s, const float *weight, float scale, float *mean);
/* best[0..n_best) = the indices of the n_best largest of s [n] in no order, ties to the smaller index. */
void pick_best(const kv_pick *pick, const float *s, int n, int n_best, int32_t *best);
/* Sets the bits of some of bound b's slots (its lowest bit first) for one query head. */
void pick_read(const kv_pick *pick, int g, int b, uint16_t slots, uint64_t *read);

typedef struct kv_policy {
    const char *name, *paper, *summary;
    const kv_param *params;
    bool per_head_scores;  /* comparable between heads: a split over heads may use them */
    bool attention_scores; /* shares of attention: with per_head_scores the values' norms may weigh them (critical) */
    bool shares_budget;    /* budget() is a number of tokens that a split can share out */
    bool one_set;          /* all lanes of a layer hold the same tokens in the same slots; score() may count on it */
    pleat_status (*check)(const kv_config *, pleat_error *);
    kv_wants (*wants)(const kv_config *); /* NULL: nothing */
    /* Live tokens per lane to leave at this event (before a split shares them out); INT_MAX: nothing to do. */
    int (*budget)(const kv_config *, const kv_view *);
    /* s[ih][slot]: higher stays; INFINITY: must stay. Dead slots are ignored. Ties: the smaller position stays. */
    void (*score)(const kv_config *, const kv_view *, float *const *s);
    /* Positions inside the cache (streaming): tokens with original position below the returned bound are the first
     * segment; evicted tokens lie between it and the rest. 0 or NULL: original positions. */
    int (*cache_positions)(const kv_config *);
    /* Most live tokens a lane can hold between decode steps, given its budget; INT_MAX: grows. For memory plans. */
    int (*bound_tokens)(const kv_config *);
    /* Live tokens that a lane of layer il has after the end of a prompt of n_prompt tokens; NULL: n_prompt, or
     * bound_tokens if that is less. */
    int (*kept_tokens)(const kv_config *, int il, int n_prompt, int max_new);
    /* Of a policy that bounds some layers alone, so that the two above bound none: tokens of such a layer. */
    int (*some_kept_tokens)(const kv_config *);
    /* Slots that a decode query reads at most; NULL: all. */
    int (*read_tokens)(const kv_config *);
    /* Multiples at which bounded prefill has its events, itself a multiple of 64; NULL: the method's 512. */
    int (*grid_tokens)(const kv_config *);
    /* Newest tokens that an event keeps whatever their score: splits share out what is left. NULL: 0. */
    int (*window_tokens)(const kv_config *);
    /* Sets the bits of the slots to read, read[g * n_pages + page], for each query head g of the group; a page without
     * a bit is not read. false: all are read. NULL: nothing is left out. Decode only; dead slots' bits are ignored. */
    bool (*pick)(const kv_config *, const kv_pick *, uint64_t *read);
    /* Floats of kv_view_work that score or pick need for lanes of n_slots; NULL: none. n_slots is a multiple of 64. */
    size_t (*work_floats)(const kv_config *, const kv_model *, int n_slots);
    const char *(*warning)(const kv_config *, const kv_model *model); /* as a format's */
} kv_policy;

/* ---- split ---- */

typedef struct kv_split {
    const char *name, *paper, *summary;
    const kv_param *params;
    bool needs_head_scores;
    pleat_status (*check)(const kv_config *, pleat_error *);
    /* The layer's tokens per lane, given the policy's. NULL: unchanged. */
    int (*layer_budget)(const kv_config *, const kv_view *, int budget);
    /* keep[ih] of each lane, forced slots (INFINITY) included, summing to at most n_head_kv * budget. NULL: budget for
     * each. It may use n_head_kv * n_slots floats of kv_view_work. */
    void (*heads)(const kv_config *, const kv_view *, const float *const *s, int budget, int *keep);
} kv_split;

/* ---- method ---- */

/* One side's format with its parameters. */
typedef struct kv_coding {
    const kv_format *format;
    kv_config config;
} kv_coding;

enum { KV_MAX_LAYERS = 256, KV_MAX_EXTRA = 4, KV_MAX_SPEC_BYTES = 2048 };

typedef struct pleat_method {
    kv_coding coding[2];
    const kv_policy *policy;
    const kv_split *split;
    kv_config policy_config, split_config;
    bool bounded;     /* prefill:bounded: events and seals on the grid during the prompt too */
    int grid_tokens;  /* absolute multiples of it; 512 */
    int sinks_tokens; /* modifier sinks:n=N: positions below N are never evicted; 0: off */
    bool pin;         /* modifier pin: spans marked in a sequence are never evicted */
    bool critical;    /* modifier critical: CriticalKV's two stages inside each head's budget */
    kv_config critical_config;
    /* Modifier layers: other formats for some layers. extra_of[il] - 1 indexes extra; 0: coding. */
    kv_coding extra[KV_MAX_EXTRA][2];
    int n_extra, first_layers, last_layers; /* of the file's layers; resolved to extra_of when a model is known */
    uint8_t extra_of[KV_MAX_LAYERS];
    char spec[KV_MAX_SPEC_BYTES]; /* canonical */
} kv_method;

extern const kv_param kv_critical_params[]; /* of the modifier critical, ended by a NULL name */

/* Parses and checks (model NULL: grammar and parameters only) into *out; PLEAT_EINPUT names the part, key and value. */
pleat_status kv_method_parse(const char *spec, const kv_model *model, kv_method *out, pleat_error *error);
/* What the method wants of the engine (union of KV_WANT_*). */
kv_wants kv_method_wants(const kv_method *method);
bool kv_method_is_f16(const kv_method *method); /* f16 + all: nothing is lost */
/* Whether the text may be longer than the model's context: positions are those inside a cache that is bounded, during
 * the prompt too. */
bool kv_method_is_endless(const kv_method *method);
/* The format of a layer's side. */
static inline const kv_coding *kv_method_coding(const kv_method *method, int il, kv_side side) {
    int extra = method->extra_of[il];
    return extra ? &method->extra[extra - 1][side] : &method->coding[side];
}
enum { KV_MOST_WARNINGS = 2 * (1 + KV_MAX_EXTRA) + 1 };
/* What a person should know before using it on this model (NULL: in general): adds the sentences of its formats and its
 * policy, static, to the n of other methods in out, which has room for KV_MOST_WARNINGS more; each stands there once.
 * Returns how many there are. */
int kv_method_warnings(const kv_method *method, const kv_model *model, const char **out, int n);
/* Pool bytes of one token's K and V in one lane, sealed, without tails. */
double kv_method_token_bytes(const kv_method *method, int head_dim);

/* The lists behind `pleat methods`, the tests and the docs; NULL-ended. */
extern const kv_format *const kv_formats[];
extern const kv_policy *const kv_policies[];
extern const kv_split *const kv_splits[];
typedef struct kv_preset {
    const char *name, *spec;
} kv_preset;
extern const kv_preset kv_presets[]; /* ended by a NULL name */

#endif
