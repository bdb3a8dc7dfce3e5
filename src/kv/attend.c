/* attend.c - attention of a step: which tiles, which tasks, and what is put together afterwards (tile.h has one tile).
 *
 * Chunks (tile.h) are finished on their own and merged in rising order (flash decoding), always, so that splitting a
 * lane over threads changes no bit: whichever task of a lane ends last merges. A lane is split when it has more pages
 * than all pages of the step divided by eight tasks for each thread; once one is, tasks are dealt to the threads by
 * their pages.
 * Mass (H2O) needs the end of a row, so such a lane's tile is one task; tiles are added in order, so mass does not
 * depend on cuts (multiples of 16 tokens) or threads. The same for the newest query alone (LAST): only the tile that
 * holds it keeps its rows.
 *
 * Picks (Quest): before the tasks of a layer, the policy is asked for each lane of a decode token which slots each
 * query head reads; pages that nobody reads are then skipped, other slots are masked. */
#include "kv/attend.h"
#include "base/memory.h"
#include "base/status.h"
#include "kv/tile.h"
#include <assert.h>
#include <limits.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { SPLIT_TASKS_PER_WORKER = 8 };

typedef struct task {
    int item, ih, first, n_tokens; /* first: token of the item */
    int chunk_from, chunk_to;
    int partial;        /* index of chunk_from's partial; -1: the task merges and writes its own output */
    int pick;           /* of its lane; -1: everything is read */
    int merge;          /* that its result is a part of; -1: none */
    size_t mass_offset; /* of the tile's mass row */
} task;

typedef struct picking { /* of one lane for one decode token */
    int item, ih;
    bool all;           /* the policy lets it read everything */
    size_t read_offset; /* of its [group][pages] */
} picking;

/* What the last of some tasks puts together: the partials of one tile, or the mass of one lane. */
typedef struct merge {
    int item, ih, first, n_tokens, partial, n_partials, n_tiles;
    size_t mass_offset;
    atomic_int left; /* tasks that have not ended */
} merge;

struct kv_attend {
    const kv_model *model;
    int group, tile_rows, n_workers;
    const kv_attend_item *items;
    int il;
    task *task;
    int *order; /* [n_tasks] in which the tasks are dealt to threads */
    merge *merge;
    picking *pick;
    uint64_t *read; /* slots that each query head reads, at the offsets of the picks */
    int n_tasks, n_merges, n_picks, cap_tasks, cap_order, cap_merges, cap_picks, cap_read;
    float *partial;                /* [n_partials][partial_rows][2 + d]: maximum, sum, output */
    int partial_rows, cap_partial; /* cap: floats */
    float *mass;                   /* tiles x slots, at the offsets of the tasks */
    int cap_mass;
    float **p, **p_max; /* [n_workers]: [cap_p / 64][tile_rows][64], [cap_p / 64][tile_rows] */
    kept_page **p_kept; /* [n_workers]: [cap_p / 64] */
    int cap_p;
};

/* ---- memory ---- */

pleat_status kv_attend_open(const kv_model *model, int max_items, int max_tokens, int n_workers, kv_attend **out,
                            pleat_error *error) {
    kv_attend *a = calloc(1, sizeof(*a));
    if (!a)
        return err_set(error, PLEAT_EMEMORY, "no memory for attention");
    a->model = model;
    a->group = model->n_head / model->n_head_kv;
    a->tile_rows = ATTEND_TILE_TOKENS * a->group;
    a->n_workers = n_workers;
    int n_tiles = max_items + max_tokens / ATTEND_TILE_TOKENS + max_items + 1;
    int n_chunks = chunk_of_page(page_count(2 * model->context_tokens + 4096)) + 1;
    a->p = calloc((size_t)n_workers, sizeof(*a->p));
    a->p_max = calloc((size_t)n_workers, sizeof(*a->p_max));
    a->p_kept = calloc((size_t)n_workers, sizeof(*a->p_kept));
    int n_lane_tiles = n_tiles * model->n_head_kv, n_split = SPLIT_TASKS_PER_WORKER * n_workers * n_chunks;
    bool ok = a->p && a->p_max && a->p_kept &&
              mem_grow(&a->task, &a->cap_tasks, n_lane_tiles + n_split, sizeof(*a->task)) &&
              mem_grow(&a->order, &a->cap_order, n_lane_tiles + n_split, sizeof(*a->order)) &&
              mem_grow(&a->merge, &a->cap_merges, n_lane_tiles, sizeof(*a->merge));
    if (!ok) {
        kv_attend_close(a);
        return err_set(error, PLEAT_EMEMORY, "no memory for attention");
    }
    *out = a;
    return PLEAT_OK;
}

void kv_attend_close(kv_attend *a) {
    if (!a)
        return;
    for (int w = 0; a->p && a->p_max && a->p_kept && w < a->n_workers; w++) {
        mem_free(a->p[w]);
        mem_free(a->p_max[w]);
        mem_free(a->p_kept[w]);
    }
    free(a->p);
    free(a->p_max);
    free(a->p_kept);
    free(a->task);
    free(a->order);
    free(a->merge);
    free(a->pick);
    free(a->read);
    free(a->partial);
    free(a->mass);
    free(a);
}

static bool grow_probabilities(kv_attend *a, int n_slots) {
    if (n_slots <= a->cap_p)
        return true;
    int cap = page_count(n_slots + n_slots / 4) * PAGE_TOKENS;
    a->cap_p = 0;
    for (int w = 0; w < a->n_workers; w++) {
        mem_free(a->p[w]);
        mem_free(a->p_max[w]);
        mem_free(a->p_kept[w]);
        a->p[w] = mem_alloc((size_t)a->tile_rows * (size_t)cap, sizeof(float));
        a->p_max[w] = mem_alloc((size_t)a->tile_rows * (size_t)cap / PAGE_TOKENS, sizeof(float));
        a->p_kept[w] = mem_alloc((size_t)cap / PAGE_TOKENS, sizeof(kept_page));
        if (!a->p[w] || !a->p_max[w] || !a->p_kept[w])
            return false;
    }
    a->cap_p = cap;
    return true;
}

static int tile_count(int position, int n_tokens) {
    return (position + n_tokens - 1) / ATTEND_TILE_TOKENS - position / ATTEND_TILE_TOKENS + 1;
}

pleat_status kv_attend_plan(kv_attend *a, const kv_attend_item *items, int n_items, pleat_error *error) {
    int n_lane_tiles = 0, mass_slots = 0, most_chunks = 1, most_tokens = 1, n_picks = 0, n_heads = a->model->n_head_kv;
    size_t n_mass = 0, n_read = 0;
    for (int i = 0; i < n_items; i++) {
        const kv_cache *cache = items[i].cache;
        int n_slots = cache_most_slots(cache, items[i].n_tokens),
            n_tiles = tile_count(cache->n_seen, items[i].n_tokens);
        int n_chunks = chunk_of_page(n_slots / PAGE_TOKENS) + 1;
        n_lane_tiles += n_tiles * n_heads;
        most_chunks = n_chunks > most_chunks ? n_chunks : most_chunks;
        most_tokens = items[i].n_tokens > most_tokens ? items[i].n_tokens : most_tokens;
        if (cache->wants.flags & (KV_WANT_MASS | KV_WANT_LAST))
            mass_slots = n_slots > mass_slots ? n_slots : mass_slots;
        if (cache->wants.flags & KV_WANT_MASS)
            n_mass += (size_t)n_tiles * (size_t)n_heads * (size_t)n_slots;
        if (cache->method.policy->pick && items[i].n_tokens == 1) {
            n_picks += n_heads;
            n_read += (size_t)a->model->n_head * (size_t)(n_slots / PAGE_TOKENS);
        }
    }
    int n_split =
        SPLIT_TASKS_PER_WORKER * a->n_workers; /* tiles at most: each has more than 1 / n_split of all pages */
    n_split = (n_split < n_lane_tiles ? n_split : n_lane_tiles) * most_chunks;
    a->partial_rows = a->group * (most_tokens < ATTEND_TILE_TOKENS ? most_tokens : ATTEND_TILE_TOKENS);
    size_t n_partial = (size_t)n_split * (size_t)a->partial_rows * (size_t)(2 + a->model->head_dim);
    bool ok = n_mass <= INT_MAX && n_read <= INT_MAX && n_partial <= INT_MAX &&
              mem_grow(&a->task, &a->cap_tasks, n_lane_tiles + n_split, sizeof(*a->task)) &&
              mem_grow(&a->order, &a->cap_order, n_lane_tiles + n_split, sizeof(*a->order)) &&
              mem_grow(&a->merge, &a->cap_merges, n_lane_tiles, sizeof(*a->merge)) &&
              mem_grow(&a->partial, &a->cap_partial, (int)n_partial, sizeof(float)) &&
              mem_grow(&a->mass, &a->cap_mass, (int)n_mass, sizeof(float)) &&
              mem_grow(&a->pick, &a->cap_picks, n_picks, sizeof(*a->pick)) &&
              mem_grow(&a->read, &a->cap_read, (int)n_read, sizeof(*a->read)) && grow_probabilities(a, mass_slots);
    return ok ? PLEAT_OK : err_set(error, PLEAT_EMEMORY, "no memory for the attention of this step");
}

/* ---- which tasks ---- */

/* Chunks that some query from position `first` on can see. */
static void chunk_range(const kv_lane *lane, int first, int window, int *from, int *to) {
    int page = lane->first_page;
    if (window && (first - window + 1) / PAGE_TOKENS > page)
        page = (first - window + 1) / PAGE_TOKENS;
    *from = chunk_of_page(page);
    *to = chunk_of_page(page_count(lane->n_slots) - 1) + 1;
}

static void add_tile(kv_attend *a, task t, bool split, int *n_partials) {
    const kv_cache *cache = a->items[t.item].cache;
    chunk_range(lane_of(cache, a->il, t.ih), cache->n_seen + t.first, a->model->layer[a->il].window_tokens,
                &t.chunk_from, &t.chunk_to);
    if (!split || t.chunk_to - t.chunk_from < 2) {
        a->task[a->n_tasks++] = t;
        return;
    }
    t.merge = a->n_merges;
    a->merge[a->n_merges++] = (merge){.item = t.item,
                                      .ih = t.ih,
                                      .first = t.first,
                                      .n_tokens = t.n_tokens,
                                      .partial = *n_partials,
                                      .n_partials = t.chunk_to - t.chunk_from,
                                      .left = t.chunk_to - t.chunk_from};
    for (int chunk = t.chunk_from, chunk_to = t.chunk_to; chunk < chunk_to; chunk++) {
        t.chunk_from = chunk;
        t.chunk_to = chunk + 1;
        t.partial = (*n_partials)++;
        a->task[a->n_tasks++] = t;
    }
}

/* The lane's queries read what the policy picks. */
static bool picks(const kv_cache *cache, const kv_lane *lane) {
    return cache->method.policy->pick && cache->phase == PLEAT_DECODE && !lane->windowed;
}

static int add_pick(kv_attend *a, int i, int ih, size_t *n_read) {
    const kv_lane *lane = lane_of(a->items[i].cache, a->il, ih);
    a->pick[a->n_picks] = (picking){.item = i, .ih = ih, .read_offset = *n_read};
    *n_read += (size_t)a->group * (size_t)page_count(lane->n_slots);
    return a->n_picks++;
}

/* The tiles of one lane, last one first: it sees most. */
static void add_lane(kv_attend *a, int i, int ih, bool split, size_t *mass_offset, size_t *n_read, int *n_partials) {
    const kv_cache *cache = a->items[i].cache;
    const kv_lane *lane = lane_of(cache, a->il, ih);
    bool mass = lane->mass && !lane->windowed;
    int pick = picks(cache, lane) ? add_pick(a, i, ih, n_read) : -1;
    int n_tiles = tile_count(cache->n_seen, cache->n_new), n_padded = page_count(lane->n_slots) * PAGE_TOKENS;
    int tile0 = cache->n_seen / ATTEND_TILE_TOKENS;
    for (int nth = n_tiles - 1; nth >= 0; nth--) {
        int from = (tile0 + nth) * ATTEND_TILE_TOKENS - cache->n_seen, to = from + ATTEND_TILE_TOKENS;
        from = from < 0 ? 0 : from;
        to = to > cache->n_new ? cache->n_new : to;
        bool last = lane->last && nth == n_tiles - 1;
        task t = {.item = i,
                  .ih = ih,
                  .first = from,
                  .n_tokens = to - from,
                  .partial = -1,
                  .pick = pick,
                  .merge = mass ? a->n_merges : -1,
                  .mass_offset = *mass_offset + (size_t)nth * (size_t)n_padded};
        add_tile(a, t, split && !mass && !last, n_partials);
    }
    if (!mass)
        return;
    a->merge[a->n_merges++] =
        (merge){.item = i, .ih = ih, .n_tiles = n_tiles, .mass_offset = *mass_offset, .left = n_tiles};
    *mass_offset += (size_t)n_tiles * (size_t)n_padded;
}

/* ---- whose tasks ---- */

static int pages_of(const kv_attend *a, const task *t) {
    const kv_lane *lane = lane_of(a->items[t->item].cache, a->il, t->ih);
    int from = chunk_first_page(t->chunk_from), to = chunk_first_page(t->chunk_to), end = page_count(lane->n_slots);
    from = from > lane->first_page ? from : lane->first_page;
    to = to < end ? to : end;
    return to > from ? to - from : 0;
}

/* The first of the tasks that threads_run deals to a worker. */
static int first_of(const kv_attend *a, int worker) {
    return (int)((int64_t)a->n_tasks * worker / a->n_workers);
}

/* The place of the r-th largest task: to each worker in turn, there and back, at the head of what it is dealt; at last
 * to those who are dealt one more. */
static int place_of(const kv_attend *a, int r) {
    int n = a->n_workers, round = r / n, nth = r % n;
    if (round < a->n_tasks / n)
        return first_of(a, round % 2 ? n - 1 - nth : nth) + round;
    for (int w = 0;; w++)
        if (first_of(a, w + 1) - first_of(a, w) > round && nth-- == 0)
            return first_of(a, w) + round;
}

/* Classes of size, the largest first: more than a chunk, then by pages. */
enum { SIZES = CHUNK_PAGES + 2 };

static int size_of(const kv_attend *a, const task *t) {
    int pages = pages_of(a, t);
    return pages > CHUNK_PAGES ? 0 : CHUNK_PAGES + 1 - pages;
}

/* Threads get the same number of tasks, and about the same number of pages. Sorted by counting. */
static void deal(kv_attend *a) {
    int rank[SIZES] = {0};
    for (int i = 0; i < a->n_tasks; i++)
        rank[size_of(a, &a->task[i])]++;
    for (int size = 0, sum = 0; size < SIZES; size++) {
        int n = rank[size];
        rank[size] = sum;
        sum += n;
    }
    for (int i = 0; i < a->n_tasks; i++)
        a->order[place_of(a, rank[size_of(a, &a->task[i])]++)] = i;
}

/* ---- a layer ---- */

static int64_t count_pages(const kv_attend_item *items, int n_items, int n_heads, int il) {
    int64_t n = 0;
    for (int i = 0; i < n_items; i++)
        for (int ih = 0; items[i].cache->n_new && ih < n_heads; ih++)
            n += (int64_t)tile_count(items[i].cache->n_seen, items[i].cache->n_new) *
                 page_count(lane_of(items[i].cache, il, ih)->n_slots);
    return n;
}

void kv_attend_layer(kv_attend *a, const kv_attend_item *items, int n_items, int il) {
    int n_partials = 0, n_heads = a->model->n_head_kv;
    size_t mass_offset = 0, n_read = 0;
    int64_t n_pages = count_pages(items, n_items, n_heads, il);
    a->items = items;
    a->il = il;
    a->n_tasks = a->n_merges = a->n_picks = 0;
    for (int i = 0; i < n_items; i++)
        for (int ih = 0; items[i].cache->n_new && ih < n_heads; ih++) {
            int64_t pages = page_count(lane_of(items[i].cache, il, ih)->n_slots);
            bool split = pages * SPLIT_TASKS_PER_WORKER * a->n_workers > n_pages;
            add_lane(a, i, ih, split, &mass_offset, &n_read, &n_partials);
        }
    assert(a->n_tasks <= a->cap_tasks && a->n_merges <= a->cap_merges);
    assert((size_t)n_partials * (size_t)a->partial_rows * (size_t)(2 + a->model->head_dim) <= (size_t)a->cap_partial);
    assert(mass_offset <= (size_t)a->cap_mass && a->n_picks <= a->cap_picks && n_read <= (size_t)a->cap_read);
    if (n_partials)
        deal(a);
    else
        for (int i = 0; i < a->n_tasks; i++)
            a->order[i] = i;
}

int kv_attend_picks(const kv_attend *a) {
    return a->n_picks;
}

int kv_attend_tasks(const kv_attend *a) {
    return a->n_tasks;
}

int kv_attend_task_pages(const kv_attend *a, int index) {
    return pages_of(a, &a->task[a->order[index]]);
}

/* ---- picks ---- */

void kv_attend_pick(kv_attend *a, int index, kv_scratch *scratch, const cpu_kernels *kernels) {
    picking *p = &a->pick[index];
    const kv_attend_item *item = &a->items[p->item];
    const kv_cache *cache = item->cache;
    const kv_lane *lane = lane_of(cache, a->il, p->ih);
    const kv_method *method = &cache->method;
    view_store store;
    kv_view view = view_open(cache, a->il, KV_AT_STEP, scratch, kernels, &store);
    kv_pick pick = {.view = &view,
                    .ih = p->ih,
                    .q = item->q + p->ih * a->group * a->model->head_dim,
                    .bound = (const f16 *const *)lane->bound,
                    .bound_slots = cache->wants.bound_slots,
                    .n_pages = page_count(lane->n_slots)};
    uint64_t *read = a->read + p->read_offset;
    memset(read, 0, (size_t)(a->group * pick.n_pages) * sizeof(*read));
    p->all = !method->policy->pick(&method->policy_config, &pick, read);
}

/* ---- merges ---- */

/* Row `part` merged into row `all` by log-sum-exp. */
static void merge_row(const cpu_kernels *kernels, int d, float *max, float *sum, float *out, float part_max,
                      float part_sum, const float *part_out) {
    if (part_max == -INFINITY)
        return;
    if (*max == -INFINITY) {
        *max = part_max;
        *sum = part_sum;
        memcpy(out, part_out, (size_t)d * sizeof(*out));
        return;
    }
    float high = part_max > *max ? part_max : *max, keep = expf(*max - high), add = expf(part_max - high);
    *max = high;
    *sum = *sum * keep + part_sum * add;
    kernels->scale(out, d, keep);
    kernels->add_scaled(out, part_out, d, add);
}

static void write_row(const kv_attend *a, const kv_attend_item *item, int first, int ih, int r, float sum,
                      const float *out, const cpu_kernels *kernels) {
    int d = a->model->head_dim;
    float *to =
        item->out + (size_t)(first + r / a->group) * item->out_stride + (size_t)((ih * a->group + r % a->group) * d);
    memcpy(to, out, (size_t)d * sizeof(*to));
    kernels->scale(to, d, 1 / sum);
}

static void merge_partials(kv_attend *a, const merge *m, const cpu_kernels *kernels) {
    int d = a->model->head_dim;
    for (int r = 0; r < m->n_tokens * a->group; r++) {
        float max = -INFINITY, sum = 0, out[KV_MAX_HEAD_DIM];
        for (int i = 0; i < m->n_partials; i++) {
            const float *part = a->partial + (size_t)(m->partial + i) * (size_t)a->partial_rows * (size_t)(2 + d);
            merge_row(kernels, d, &max, &sum, out, part[r], part[a->partial_rows + r],
                      part + 2 * a->partial_rows + r * d);
        }
        write_row(a, &a->items[m->item], m->first, m->ih, r, sum, out, kernels);
    }
}

static void merge_mass(kv_attend *a, const merge *m, const cpu_kernels *kernels) {
    kv_lane *lane = lane_of(a->items[m->item].cache, a->il, m->ih);
    int n_padded = page_count(lane->n_slots) * PAGE_TOKENS;
    for (int i = 0; i < m->n_tiles; i++)
        kernels->add_scaled(lane->mass, a->mass + m->mass_offset + (size_t)i * (size_t)n_padded, lane->n_slots, 1);
}

/* In the order of the parts, whichever ends last. */
static void part_ended(kv_attend *a, int index, const cpu_kernels *kernels) {
    merge *m = &a->merge[index];
    if (atomic_fetch_sub(&m->left, 1) > 1)
        return;
    if (m->n_tiles)
        merge_mass(a, m, kernels);
    else
        merge_partials(a, m, kernels);
}

/* ---- tasks ---- */

/* Where the probabilities of the tile stay, if its lane keeps them. */
static void keep_probabilities(const kv_attend *a, tile *t, int worker, bool last) {
    if (!(t->lane->mass && !t->lane->windowed) && !last)
        return;
    t->p = a->p[worker];
    t->p_max = a->p_max[worker];
    t->p_kept = a->p_kept[worker];
}

static void run(kv_attend *a, const task *job, int worker, kv_scratch *w, const cpu_kernels *kernels) {
    const kv_attend_item *item = &a->items[job->item];
    tile t = tile_begin(item, a->il, job->ih, job->first, job->n_tokens, w, kernels);
    bool last = t.lane->last && job->first + job->n_tokens == item->cache->n_new;
    keep_probabilities(a, &t, worker, last);
    if (job->pick >= 0 && !a->pick[job->pick].all)
        t.read = a->read + a->pick[job->pick].read_offset;
    if (job->partial >= 0) {
        float *part = a->partial + (size_t)job->partial * (size_t)a->partial_rows * (size_t)(2 + t.d);
        tile_chunk(&t, job->chunk_from, part, part + a->partial_rows, part + 2 * a->partial_rows);
        return;
    }
    for (int r = 0; r < t.n_rows; r++)
        w->max[r] = -INFINITY;
    for (int chunk = job->chunk_from; chunk < job->chunk_to; chunk++) {
        tile_chunk(&t, chunk, w->chunk_max, w->chunk_sum, w->chunk_out);
        for (int r = 0; r < t.n_rows; r++)
            merge_row(kernels, t.d, &w->max[r], &w->sum[r], w->out + r * t.d, w->chunk_max[r], w->chunk_sum[r],
                      w->chunk_out + r * t.d);
    }
    for (int r = 0; r < t.n_rows; r++)
        write_row(a, item, job->first, job->ih, r, w->sum[r], w->out + r * t.d, kernels);
    if (t.p && t.lane->mass)
        tile_mass(&t, 0, w->max, w->sum, a->mass + job->mass_offset, page_count(t.lane->n_slots) * PAGE_TOKENS);
    if (last)
        tile_mass(&t, t.n_rows - t.group, w->max, w->sum, t.lane->last, t.lane->n_slots);
}

void kv_attend_task(kv_attend *a, int index, int worker, kv_scratch *scratch, const cpu_kernels *kernels) {
    const task *job = &a->task[a->order[index]];
    run(a, job, worker, scratch, kernels);
    if (job->merge >= 0)
        part_ended(a, job->merge, kernels);
}
