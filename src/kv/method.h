/* method.h - what a compression method is: format x policy x split, three small interfaces.
 *
 * A *format* owns bytes and decides nothing. A *policy* decides and touches no bytes. A *split* shares a budget among layers and
 * heads. Only the cache (cache.h) moves bytes. Adding a method is one file and one line in methods.def.
 *
 * lane: the cached tokens of one (sequence, layer, KV head). slot: an index in it. page: 64 slots of one format for one side.
 * run: pages sealed in one call (they may share a block of bytes). tail: slots not sealed yet, in fp16 pages. */
#ifndef KV_METHOD_H
#define KV_METHOD_H
#include "cpu/kernels.h"
#include "pleat.h"

typedef enum kv_side { KV_K, KV_V } kv_side;

/* ---- what the cache and the methods need of a model; `model` fills it ---- */

enum { KV_MAX_HEAD_DIM = 256, KV_MAX_GROUP = 64, KV_MAX_HEADS = 256 }; /* of KV heads */

typedef struct kv_layer_shape {
    int window_tokens;     /* a query at t sees positions > t - window; 0: all. Policies act on layers without a window */
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
    const kv_layer_shape *layer; /* [n_layer] */
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

/* How one side of a lane is kept. Sealing takes the oldest tail slots: step * floor((tail - keep) / step) of them, when positive. */
typedef struct kv_geometry {
    size_t page_bytes;    /* of a sealed page of 64 slots; 0: never seals, fp16 pages are the format */
    size_t run_bytes;     /* block shared by the pages of a run; 0: none (room: the cache asserts 0 until a format needs it) */
    int run_pages;        /* most pages of a run; 1 without a block */
    int keep_tokens;      /* newest slots that stay fp16 */
    int step_tokens;      /* sealed at once: a multiple of 64, or 1 (then rows are sealed singly; needs row_writable) */
    bool row_writable;    /* any row of a sealed page can be written anew without touching the others */
} kv_geometry;

/* One sealed page as a format sees it. */
typedef struct kv_page {
    uint8_t *bytes;   /* page_bytes, 64-byte aligned */
    uint8_t *run;     /* run_bytes or NULL */
    int page_in_run, n_run_pages;
} kv_page;

typedef struct kv_format {
    const char *name, *paper, *summary;
    const kv_param *params;
    /* Refuses what cannot be (group against head_dim d, ...) with a sentence. d is 0 when no model is known. */
    pleat_status (*check)(const kv_config *, kv_side, int d, pleat_error *);
    void (*geometry)(const kv_config *, kv_side, int d, kv_geometry *out);
    /* Writes rows x [n][d] as slots first..first+n-1 of the pages of one run (slot 64*p + i is row i of page p; pages [..] ordered).
     * Whole pages, unless row_writable, when any first and n inside one page will do. seed: counter for formats that draw. */
    void (*seal)(const kv_config *, kv_side, int d, const float *x, int first, int n, const kv_page *pages, uint64_t seed);
    /* x [64][d] = the page's rows: the definition of the format, and the oracle of the next two. */
    void (*open)(const kv_config *, kv_side, int d, const kv_page *page, float *x);
    /* s[r*64 + t] = q[r*d ..] . K row t for n_rows rows; NULL: a generic path over `open`. */
    void (*score)(const cpu_kernels *, const kv_config *, int d, const kv_page *page, const float *q, int n_rows, float *s,
                  const void *prefetch);
    /* o[r*d + j] += sum_t p[r*64 + t] * V[t][j]; NULL: generic. */
    void (*mix)(const cpu_kernels *, const kv_config *, int d, const kv_page *page, const float *p, int n_rows, float *o,
                const void *prefetch);
} kv_format;

/* ---- policy ---- */

enum {
    KV_WANT_MASS = 1,      /* each slot's accumulated probability, summed over the group's query heads and all queries so far */
    KV_WANT_WINDOW_Q = 2,  /* the newest queries, rotated, float (room for the methods to come) */
    KV_WANT_BOUNDS = 4,    /* per-page bounds of keys (room) */
};

typedef enum kv_event { KV_AT_GRID, KV_AT_PROMPT_END, KV_AT_STEP } kv_event;

/* Read-only view of one layer of one sequence with all its KV heads' lanes. Dead slots have pos == KV_DEAD. */
#define KV_DEAD INT32_MAX
typedef struct kv_view {
    const kv_model *model;
    int il;                      /* layer */
    kv_event event;
    int n_seen;                  /* tokens of the sequence so far: the next token's position */
    int n_prompt;                /* tokens of the prompt this event ends or lies in */
    const int *n_slots;          /* [n_head_kv] dead ones included */
    const int *n_live;           /* [n_head_kv] */
    const int32_t *const *pos;   /* [n_head_kv][n_slots] original positions */
    const float *const *mass;    /* [n_head_kv][n_slots]; NULL unless wanted */
    const float *window_q;       /* [n_head][window][d] or NULL */
    int n_window_q;
    const struct kv_cache *cache; /* for kv_cache_open_rows() only */
} kv_view;

typedef struct kv_policy {
    const char *name, *paper, *summary;
    const kv_param *params;
    bool per_head_scores; /* comparable between heads: a split over heads may use them */
    pleat_status (*check)(const kv_config *, pleat_error *);
    unsigned (*wants)(const kv_config *, int *window_tokens); /* NULL: nothing */
    /* Live tokens per lane to leave at this event (before a split shares them out); INT_MAX: nothing to do. */
    int (*budget)(const kv_config *, const kv_view *);
    /* s[ih][slot]: higher stays; INFINITY: must stay. Dead slots are ignored. Ties: the smaller position stays. */
    void (*score)(const kv_config *, const kv_view *, float *const *s);
    /* Positions inside the cache (streaming): tokens with original position below the returned bound are the first segment;
     * evicted tokens lie between it and the rest. 0 or NULL: original positions. */
    int (*cache_positions)(const kv_config *);
    /* Most live tokens a lane can hold between decode steps, given its budget; INT_MAX: grows. For memory plans. */
    int (*bound_tokens)(const kv_config *);
    /* Pages that a query reads, for policies that read less; NULL: all (room). */
    int (*pick)(const kv_config *, const kv_view *, int ih, const float *q, int32_t *page);
} kv_policy;

/* ---- split ---- */

typedef struct kv_split {
    const char *name, *paper, *summary;
    const kv_param *params;
    bool needs_head_scores;
    pleat_status (*check)(const kv_config *, pleat_error *);
    /* The layer's tokens per lane, given the policy's. NULL: unchanged. */
    int (*layer_budget)(const kv_config *, const kv_view *, int budget);
    /* keep[ih] of each lane, summing to at most n_head_kv * budget. NULL: budget for each. */
    void (*heads)(const kv_config *, const kv_view *, const float *const *s, int budget, int *keep);
} kv_split;

/* ---- method ---- */

typedef struct pleat_method {
    const kv_format *format[2];
    const kv_policy *policy;
    const kv_split *split;
    kv_config format_config[2], policy_config, split_config;
    bool bounded;     /* prefill:bounded: events and seals on the grid during the prompt too */
    int grid_tokens;  /* absolute multiples of it; 512 */
    int sinks_tokens; /* modifier sinks:n=N: positions below N are never evicted; 0: off */
    char spec[512];   /* canonical */
} kv_method;

/* Parses and checks (model NULL: grammar and parameters only) into *out; PLEAT_EINPUT names the part, key and value. */
pleat_status kv_method_parse(const char *spec, const kv_model *model, kv_method *out, pleat_error *error);
/* What the method wants of the engine (union of KV_WANT_*). */
unsigned kv_method_wants(const kv_method *method, int *window_tokens);
bool kv_method_is_f16(const kv_method *method); /* f16 + all: nothing is lost */
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
