/* attention.c - decode attention alone, over caches far larger than the last cache.
 *
 *   bench/attention [--shapes 64/3,64/7,128/6,128/4] [--tokens 8128,32704] [--formats 'SPEC SPEC...'] [--mb N]
 *                   [--rounds N] [--threads N]
 *
 * A shape is head dim / query heads per KV head. Every format has a filled cache of so many layers that its f16 form
 * takes --mb megabytes (KV_MAX_LAYERS of them at most); a round goes once through the layers of each format in turn and
 * once over a buffer for the read bandwidth, so a page comes back after all the others were read. What is timed is what
 * the engine does in a decode step: kv_attend's picks and tasks, layer by layer. The first format is the base of the
 * ratios.
 *
 * Roofs: reading (bytes of the cache / read bandwidth of the round) and arithmetic (the same attention over a few pages
 * that stay in L2); `of roof` is the share of the lower one. Medians of the rounds with their lowest and highest ratio.
 */
#include "base/clock.h"
#include "base/memory.h"
#include "kv/attend.h"
#include "support/limits.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_FORMATS = 12, MOST_THREADS = 64, RESIDENT_BYTES = 512 << 10, RESIDENT_PASSES = 40 };

typedef struct shape {
    int d, group, n_head_kv;
} shape;

/* Head counts of the models that have these shapes: SmolLM2, Qwen2.5 0.5B and 1.5B, Llama 3 8B. */
static const shape known_shapes[] = {{64, 3, 3}, {64, 7, 2}, {128, 6, 2}, {128, 4, 8}};

typedef struct bench {
    const cpu_kernels *kernels;
    threads *pool;
    kv_model model;
    kv_attend *attend;
    kv_scratch *scratch[MOST_THREADS];
    float *q, *k, *out; /* rows of a step; k is v too */
    int n_tokens;
    kv_attend_item item;
} bench;

typedef struct entry { /* one format */
    char spec[128];
    kv_pool *pages;
    kv_cache *cache;
    double token_bytes; /* of one token of one KV head, all of the cache counted */
    double resident;    /* tokens x KV heads a second from L2 */
    timing rate;        /* the same from memory */
    bool failed;
} entry;

static void die(const char *what, const pleat_error *error) {
    fprintf(stderr, "bench/attention: %s%s\n", what, error ? error->text : "");
    exit(1);
}

/* ---- a model of one shape ---- */

static void model_open(bench *b, shape s, int n_layer, int n_tokens) {
    pleat_error error;
    kv_layer_shape *layer = calloc((size_t)n_layer, sizeof(*layer));
    float *rope_inv = calloc((size_t)s.d, sizeof(*rope_inv));
    if (!layer || !rope_inv)
        die("no memory", NULL);
    for (int il = 0; il < n_layer; il++)
        layer[il].rope_inv = rope_inv;
    b->model = (kv_model){.name = "bench",
                          .n_layer = n_layer,
                          .n_head = s.n_head_kv * s.group,
                          .n_head_kv = s.n_head_kv,
                          .head_dim = s.d,
                          .n_rot = s.d,
                          .score_scale = 0.125f,
                          .context_tokens = n_tokens + 4096,
                          .layer = layer};
    b->n_tokens = n_tokens;
    if (kv_attend_open(&b->model, 1, 1, threads_count(b->pool), &b->attend, &error))
        die("", &error);
    for (int i = 0; i < threads_count(b->pool); i++)
        if (kv_scratch_open(&b->model, &b->scratch[i], &error))
            die("", &error);
    size_t n = (size_t)b->model.n_head * (size_t)s.d;
    b->q = mem_alloc(n, sizeof(float));
    b->k = mem_alloc(n, sizeof(float));
    b->out = mem_alloc(n, sizeof(float));
    if (!b->q || !b->k || !b->out)
        die("no memory", NULL);
    for (size_t i = 0; i < n; i++) {
        b->q[i] = (float)(i * 7919 % 257) / 128 - 1;
        b->k[i] = (float)(i * 104729 % 251) / 125 - 1;
    }
}

static void model_close(bench *b) {
    kv_attend_close(b->attend);
    for (int i = 0; i < threads_count(b->pool); i++)
        kv_scratch_close(b->scratch[i]);
    mem_free(b->q);
    mem_free(b->k);
    mem_free(b->out);
    free((void *)b->model.layer[0].rope_inv);
    free((void *)b->model.layer);
}

/* ---- one decode step's attention ---- */

static void pick_task(void *context, int task, int worker) {
    bench *b = context;
    kv_attend_pick(b->attend, task, b->scratch[worker], b->kernels);
}

static void attend_task(void *context, int task, int worker) {
    bench *b = context;
    kv_attend_task(b->attend, task, worker, b->scratch[worker], b->kernels);
}

static double attend_layers(bench *b, double (*seconds)(void)) {
    double started = seconds();
    for (int il = 0; il < b->model.n_layer; il++) {
        kv_attend_layer(b->attend, &b->item, 1, il);
        threads_run(b->pool, kv_attend_picks(b->attend), pick_task, b);
        threads_run(b->pool, kv_attend_tasks(b->attend), attend_task, b);
    }
    return seconds() - started;
}

/* A step of one token; the seconds of its attention, or the median of several passes by this thread's own time. */
static double step(bench *b, entry *e, int n_passes) {
    pleat_error error;
    timing own = {.n = 0};
    double took = 0;
    b->item = (kv_attend_item){.cache = e->cache, .q = b->q, .out = b->out, .n_tokens = 1};
    b->item.q_stride = b->item.out_stride = (size_t)(b->model.n_head * b->model.head_dim);
    if (!kv_pool_reserve(e->pages, kv_cache_step_bytes(e->cache, 1, PLEAT_DECODE, threads_count(b->pool))) ||
        kv_attend_plan(b->attend, &b->item, 1, &error))
        die("no memory for a step", NULL);
    for (int w = 0; w < threads_count(b->pool); w++)
        if (!kv_scratch_grow(b->scratch[w], e->cache, 1))
            die("no memory for a step", NULL);
    kv_cache_begin(e->cache, 1, PLEAT_DECODE);
    for (int il = 0; il < b->model.n_layer; il++)
        for (int ih = 0; ih < b->model.n_head_kv; ih++)
            kv_cache_append(e->cache, il, ih, b->k, b->k, (size_t)b->model.head_dim, b->kernels);
    if (n_passes == 1)
        took = attend_layers(b, clock_seconds);
    for (int i = 0; i < n_passes && n_passes > 1; i++)
        timing_add(&own, attend_layers(b, timing_cpu_seconds));
    for (int il = 0; il < b->model.n_layer; il++)
        kv_cache_finish_layer(e->cache, il, b->scratch[0], b->kernels);
    kv_cache_end(e->cache);
    return n_passes > 1 ? timing_median(&own) : took;
}

static double tokens_per_pass(const bench *b) {
    return (double)b->n_tokens * b->model.n_layer * b->model.n_head_kv;
}

/* ---- caches ---- */

static bool entry_open(bench *b, entry *e, kv_scratch *scratch) {
    kv_method method;
    pleat_error error;
    pleat_status status = kv_method_parse(e->spec, &b->model, &method, &error);
    status = status ? status : kv_pool_open((size_t)1 << 40, &e->pages, &error);
    status = status ? status : kv_cache_open(&b->model, &method, e->pages, &e->cache, &error);
    status = status ? status : kv_cache_fill(e->cache, b->n_tokens, 1, scratch, b->kernels, &error);
    if (status) {
        printf("%s: %s\n", e->spec, error.text);
        return false;
    }
    e->token_bytes = (double)kv_cache_stats(e->cache).kv_bytes / tokens_per_pass(b);
    return true;
}

static void entry_close(entry *e) {
    kv_cache_close(e->cache);
    kv_pool_close(e->pages);
    e->cache = NULL;
    e->pages = NULL;
}

typedef struct opening {
    bench *b;
    entry *list;
} opening;

static void open_task(void *context, int task, int worker) {
    opening *o = context;
    entry *e = &o->list[task];
    e->failed = e->failed || !entry_open(o->b, e, o->b->scratch[worker]);
}

/* Tokens x KV heads a second of each format when its pages stay in L2. */
static void measure_resident(bench *b, shape s, entry *list, int n) {
    threads *all = b->pool;
    pleat_error error;
    if (threads_open(1, &b->pool, &error))
        die("", &error);
    s.n_head_kv = 1;
    int n_tokens = RESIDENT_BYTES / (4 * s.d) / PAGE_TOKENS * PAGE_TOKENS;
    model_open(b, s, 1, n_tokens);
    for (int i = 0; i < n; i++) {
        entry e = {.failed = false};
        memcpy(e.spec, list[i].spec, sizeof(e.spec));
        list[i].failed = !entry_open(b, &e, b->scratch[0]);
        if (list[i].failed)
            continue;
        list[i].resident = threads_count(all) * tokens_per_pass(b) / step(b, &e, RESIDENT_PASSES);
        entry_close(&e);
    }
    model_close(b);
    threads_close(b->pool);
    b->pool = all;
}

/* ---- one shape and length ---- */

static void print_entry(const entry *e, const entry *base, const timing *read) {
    timing ratio = timing_ratio(&e->rate, &base->rate), roof = {.n = 0}, share = {.n = 0};
    for (int i = 0; i < e->rate.n; i++) {
        double by_read = read->x[i] / e->token_bytes, lower = by_read < e->resident ? by_read : e->resident;
        timing_add(&roof, e->rate.x[i] / lower);
        timing_add(&share, e->rate.x[i] / by_read);
    }
    printf("  %-46s %6.1f %8.1f %7.1f %7.0f%%   %5.2f (%.2f to %.2f) %8.1f %7.0f%%\n", e->spec, e->token_bytes,
           timing_median(&e->rate) / 1e6, timing_median(&e->rate) * e->token_bytes / 1e9, 100 * timing_median(&share),
           timing_median(&ratio), timing_low(&ratio), timing_high(&ratio), e->resident / 1e6,
           100 * timing_median(&roof));
}

static void run_shape(bench *b, shape s, int n_tokens, entry *list, int n, size_t f16_bytes, int rounds) {
    measure_resident(b, s, list, n);
    int n_layer = (int)(f16_bytes / ((size_t)n_tokens * (size_t)(4 * s.d) * (size_t)s.n_head_kv)) + 1;
    n_layer = n_layer < KV_MAX_LAYERS ? n_layer : KV_MAX_LAYERS;
    model_open(b, s, n_layer, n_tokens);
    opening o = {b, list};
    threads_run(b->pool, n, open_task, &o);
    size_t read_bytes = f16_bytes & ~(((size_t)1 << 20) - 1);
    char *memory = mem_map(read_bytes);
    if (!memory)
        die("no memory for the read buffer", NULL);
    memset(memory, 1, read_bytes);
    timing read = {.n = 0};
    for (int round = -1; round < rounds; round++) { /* the first one warms up */
        double bandwidth = limits_read(b->pool, memory, read_bytes);
        for (int i = 0; i < n; i++) {
            double rate = list[i].failed ? 0 : tokens_per_pass(b) / step(b, &list[i], 1);
            if (round >= 0 && !list[i].failed)
                timing_add(&list[i].rate, rate);
        }
        if (round >= 0)
            timing_add(&read, bandwidth);
    }
    printf("\n%d/%d, %d tokens, %d KV heads x %d layers; read %.1f GB/s (%.1f to %.1f)\n", s.d, s.group, n_tokens,
           s.n_head_kv, n_layer, timing_median(&read) / 1e9, timing_low(&read) / 1e9, timing_high(&read) / 1e9);
    printf("  %-46s %6s %8s %7s %8s   %-20s %8s %8s\n", "format", "B/tok", "Mtok/s", "GB/s", "of read", "x first",
           "resident", "of roof");
    for (int i = 0; i < n; i++) {
        if (!list[i].failed)
            print_entry(&list[i], &list[0], &read);
        entry_close(&list[i]);
    }
    mem_unmap(memory, read_bytes);
    model_close(b);
}

static int parse_formats(const char *text, entry *list) {
    int n = 0;
    for (const char *p = text; *p;) {
        size_t bytes = strcspn(p, " ");
        if (n == MOST_FORMATS || bytes >= sizeof(list[n].spec))
            die("too many formats, or one that is too long", NULL);
        if (bytes) {
            memset(&list[n], 0, sizeof(list[n]));
            memcpy(list[n++].spec, p, bytes);
        }
        p += bytes + (p[bytes] == ' ');
    }
    return n;
}

int main(int argc, char **argv) {
    timing_arguments(argc, argv,
                     "[--shapes 64/3,64/7,128/6,128/4] [--tokens 8128,32704] [--formats 'SPEC SPEC...'] [--mb N] "
                     "[--rounds N] [--threads N]");
    const char *shapes = timing_text(argc, argv, "shapes", "64/3,64/7,128/6,128/4");
    const char *tokens = timing_text(argc, argv, "tokens", "8128,32704");
    const char *formats =
        timing_text(argc, argv, "formats",
                    "f16 int8:group=row int8 k=int4(axis=channel,group=64),v=int4(group=row) int4 kivi-4 kivi-2");
    size_t f16_bytes = (size_t)(timing_option(argc, argv, "mb", 2e-6 * (double)timing_last_cache_bytes()) * 1e6);
    int rounds = timing_rounds(argc, argv, "rounds", 7);
    pleat_error error;
    bench b = {.kernels = NULL};
    if (cpu_kernels_get(&b.kernels, &error) ||
        threads_open((int)timing_option(argc, argv, "threads", 0), &b.pool, &error))
        die("", &error);
    if (threads_count(b.pool) > MOST_THREADS)
        die("too many threads", NULL);
    printf("%s, %d threads, level %s, f16 caches of %.2f GB, medians of %d rounds\n", cpu_model_name(),
           threads_count(b.pool), b.kernels->level, (double)f16_bytes / 1e9, rounds);
    for (size_t i = 0; i < sizeof(known_shapes) / sizeof(*known_shapes); i++) {
        char name[16];
        snprintf(name, sizeof(name), "%d/%d", known_shapes[i].d, known_shapes[i].group);
        if (!strstr(shapes, name))
            continue;
        for (const char *p = tokens; *p; p += strcspn(p, ","), p += *p == ',') {
            entry list[MOST_FORMATS];
            int n = parse_formats(formats, list);
            run_shape(&b, known_shapes[i], atoi(p), list, n, f16_bytes, rounds);
            fflush(stdout);
        }
    }
    threads_close(b.pool);
    return 0;
}
