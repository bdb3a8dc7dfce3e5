/* image.c - one walk over a cache's state, in one order, for four purposes: to count bytes, to write them, to check an
 * image, and to read it. So what is written and what is read cannot drift apart.
 *
 *   header  magic "PLEATKV", version, byte order, size, model fingerprint, method spec, shape
 *   state   of the sequence, pinned spans, the queries that its policy looks at
 *   lanes   by layer and head: counts, positions, mass and other values of slots, bounds; by side and page: its place
 * in a run, the bytes it has end     hash of all before it
 *
 * A damaged image is refused before anything is taken: the hash is checked first, then a whole walk checks every number
 * against the others (a hash says nothing of a foreign file that was made to fit), and only a last walk takes pages. */
#include "kv/image.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/status.h"
#include "kv/lane.h"
#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { VERSION = 3, MOST_SLOTS = 1 << 26 };
static const char magic[8] = "PLEATKV";
static const uint64_t byte_order = 0x0102030405060708u;

typedef struct header {
    char magic[8];
    uint32_t version, n_layer, n_head_kv, head_dim;
    uint64_t byte_order, n_bytes, fingerprint;
    char spec[sizeof(((kv_method *)0)->spec)];
} header;

typedef enum pass { COUNT, WRITE, CHECK, READ } pass;

/* To or from a file, a piece at a time. */
typedef struct passage {
    int fd;
    uint8_t *piece; /* [PIECE_BYTES] */
    size_t n, at;   /* bytes in it; read up to here */
    size_t left;    /* READ: of the file, behind the piece */
    uint64_t sum;   /* of the pieces so far */
    pleat_status status;
    pleat_error *error;
} passage;
enum { PIECE_BYTES = 1 << 20 };

typedef struct walk {
    pass pass;
    uint8_t *to;         /* WRITE */
    const uint8_t *from; /* CHECK, READ */
    passage *passage;    /* WRITE, READ: instead */
    size_t at, end;
    size_t page_bytes; /* of all pages together */
    bool bad;
    const char *why;      /* what is wrong, where one sentence can say it; else NULL */
    size_t first_head_at; /* CHECK: where the positions of the layer's first head are, */
    int first_head_slots; /* and how many */
} walk;

/* ---- through a file ---- */

static bool passage_flush(passage *p) {
    p->sum = hash_bytes(p->piece, p->n, p->sum);
    p->status = file_write_all(p->fd, p->piece, p->n, "a moved cache", p->error);
    p->n = 0;
    return !p->status;
}

static bool passage_fill(passage *p) {
    p->n = p->left < PIECE_BYTES ? p->left : PIECE_BYTES;
    p->at = 0;
    p->left -= p->n;
    p->status = file_read_all(p->fd, p->piece, p->n, "a moved cache", p->error);
    p->sum = hash_bytes(p->piece, p->n, p->sum);
    return !p->status;
}

static bool passage_put(passage *p, const void *value, size_t n) {
    for (const uint8_t *from = value; n;) {
        size_t m = n < PIECE_BYTES - p->n ? n : PIECE_BYTES - p->n;
        memcpy(p->piece + p->n, from, m);
        p->n += m;
        from += m;
        n -= m;
        if (p->n == PIECE_BYTES && !passage_flush(p))
            return false;
    }
    return true;
}

static bool passage_get(passage *p, void *value, size_t n) {
    for (uint8_t *to = value; n;) {
        if (p->at == p->n && !passage_fill(p))
            return false;
        size_t m = n < p->n - p->at ? n : p->n - p->at;
        memcpy(to, p->piece + p->at, m);
        p->at += m;
        to += m;
        n -= m;
    }
    return true;
}

/* ---- one walk ---- */

/* The next n bytes of the image are those at `value`. While checking, small values are read into `value` too (a scratch
 * copy); large ones (value NULL) are skipped. */
static void visit(walk *w, void *value, size_t n) {
    if (w->bad || (w->pass > WRITE && n > w->end - w->at)) {
        w->bad = true;
        return;
    }
    if (w->passage && n)
        w->bad = !(w->pass == WRITE ? passage_put(w->passage, value, n) : passage_get(w->passage, value, n));
    else if (w->pass == WRITE && n) /* an empty lane has no arrays */
        memcpy(w->to + w->at, value, n);
    else if (w->pass != COUNT && value)
        memcpy(value, w->from + w->at, n);
    w->at += n;
}

#define VISIT(w, field) visit(w, &(field), sizeof(field))

static void expect_or(walk *w, bool truth, const char *why) {
    if (w->bad || w->pass < CHECK || truth)
        return;
    w->bad = true;
    w->why = why;
}

static void expect(walk *w, bool truth) {
    expect_or(w, truth, NULL);
}

static void visit_bool(walk *w, bool *value) {
    uint8_t byte = *value;
    VISIT(w, byte);
    expect(w, byte <= 1);
    if (w->pass > WRITE)
        *value = byte == 1;
}

/* ---- state of the sequence ---- */

static void visit_state(walk *w, kv_cache *cache) {
    VISIT(w, cache->n_seen);
    VISIT(w, cache->prompt_from);
    VISIT(w, cache->grid_sealed);
    visit_bool(w, &cache->in_prompt);
    visit_bool(w, &cache->evented);
    expect(w, cache->n_seen >= 0 && cache->prompt_from >= 0 && cache->prompt_from <= cache->n_seen);
    expect(w, cache->grid_sealed >= 0 && cache->grid_sealed <= cache->n_seen);
    VISIT(w, cache->max_new);
    VISIT(w, cache->n_steps);
    expect(w, cache->max_new >= 0 && cache->n_steps >= 0 && cache->n_steps <= cache->n_seen);
}

/* Pinned spans; a check looks at them and keeps none. */
static void visit_pins(walk *w, kv_cache *cache) {
    int n = w->pass < CHECK ? cache->n_pins : 0;
    VISIT(w, n);
    expect(w, n >= 0 && n <= MOST_SLOTS);
    for (int i = 0; i < n && !w->bad; i++) {
        kv_span span = w->pass < CHECK ? cache->pin[i] : (kv_span){0};
        VISIT(w, span);
        expect(w, span.first >= 0 && span.end > span.first);
        if (w->pass == READ && !w->bad && kv_cache_pin(cache, span.first, span.end - span.first, NULL))
            w->bad = true;
    }
}

/* The queries that policies look at (window.c); there are none before the first step. */
static void visit_queries(walk *w, kv_cache *cache) {
    bool any = w->pass < CHECK && cache->queries;
    visit_bool(w, &any);
    expect(w, !any || cache->wants.flags & (KV_WANT_WINDOW_Q | KV_WANT_MOMENTS));
    expect(w, any || cache->n_seen == 0 || !(cache->wants.flags & (KV_WANT_WINDOW_Q | KV_WANT_MOMENTS)));
    if (!any || w->bad)
        return;
    if (w->pass == READ && !queries_ensure(cache)) {
        w->bad = true;
        return;
    }
    size_t row = (size_t)cache->model->n_head * (size_t)cache->model->head_dim * sizeof(float);
    for (int il = 0; il < cache->model->n_layer && !w->bad; il++) {
        kv_queries none = {0}, *q = w->pass == CHECK ? &none : &cache->queries[il];
        if (layer_windowed(cache, il))
            continue;
        if (cache->wants.flags & KV_WANT_WINDOW_Q)
            visit(w, q->ring, row * (size_t)cache->wants.window_tokens);
        if (!(cache->wants.flags & KV_WANT_MOMENTS))
            continue;
        visit(w, q->sum, row);
        visit(w, q->outer, row * (size_t)cache->model->head_dim);
        visit(w, q->late, row * QUERIES_LATE);
        VISIT(w, q->from);
        expect(w, q->from >= 0);
    }
}

/* ---- lanes ---- */

static void visit_counts(walk *w, const kv_cache *cache, kv_lane *lane) {
    VISIT(w, lane->n_slots);
    VISIT(w, lane->n_live);
    VISIT(w, lane->n_front);
    VISIT(w, lane->n_gap);
    VISIT(w, lane->n_sealed);
    VISIT(w, lane->first_page);
    visit_bool(w, &lane->unordered);
    VISIT(w, lane->evicted);
    VISIT(w, lane->seals);
    VISIT(w, lane->reseals);
    expect(w, lane->n_slots >= 0 && lane->n_slots <= MOST_SLOTS && lane->n_live >= 0 && lane->n_live <= lane->n_slots);
    if (w->bad) /* the others are measured by these */
        return;
    expect(w, lane->n_front == 0 || (lane->sink_tokens && lane->n_front == PAGE_TOKENS));
    expect(w, lane->n_gap >= 0 && lane->n_gap <= lane->n_slots - lane->n_live);
    expect(w, lane->first_page >= 0 && lane->first_page <= page_count(lane->n_slots));
    expect(w, lane->windowed || lane->first_page == 0);
    expect(w, !lane->windowed || lane->n_slots == cache->n_seen);
    for (int side = 0; side < 2; side++) {
        const kv_geometry *g = &lane->keep[side].geometry;
        bool seals = g->page_bytes > 0, front_due = lane->sink_tokens && !lane->n_front;
        expect(w, lane->n_sealed[side] >= (seals ? lane->n_front : 0));
        expect(w, lane->n_sealed[side] <= (seals && !front_due ? lane->n_slots : 0));
        expect_or(w, g->row_writable || lane->n_sealed[side] % PAGE_TOKENS == 0,
                  "a page is sealed in part, which its format cannot do");
    }
}

static int32_t position_in(const walk *w, size_t positions_at, int slot) {
    int32_t pos;
    memcpy(&pos, w->from + positions_at + (size_t)slot * sizeof(pos), sizeof(pos));
    return pos;
}

static void check_positions(walk *w, const kv_cache *cache, const kv_lane *lane) {
    int n_live = 0;
    for (int slot = 0; slot < lane->n_slots && !w->bad; slot++) {
        int32_t pos = position_in(w, w->at, slot);
        n_live += pos != KV_DEAD;
        expect(w, pos == KV_DEAD || (pos >= 0 && pos < cache->n_seen));
        expect(w, pos == KV_DEAD || !lane->windowed || (pos == slot && slot >= lane->first_page * PAGE_TOKENS));
    }
    expect(w, n_live == lane->n_live);
}

/* Policies that keep one set of tokens for a layer count on it. */
static void check_alike(walk *w, const kv_cache *cache, const kv_lane *lane) {
    size_t n_bytes = (size_t)lane->n_slots * sizeof(*lane->pos);
    if (!cache->method.policy->one_set || w->bad)
        return;
    if (lane->ih == 0) {
        w->first_head_at = w->at;
        w->first_head_slots = lane->n_slots;
    }
    bool alike = lane->n_slots == w->first_head_slots && !memcmp(w->from + w->first_head_at, w->from + w->at, n_bytes);
    expect_or(w, alike, "the heads of a layer hold different tokens, and its policy keeps one set for all");
}

static void visit_slots(walk *w, const kv_cache *cache, kv_lane *lane) {
    size_t n = (size_t)lane->n_slots;
    if (w->pass == CHECK && n * sizeof(*lane->pos) <= w->end - w->at) {
        check_positions(w, cache, lane);
        check_alike(w, cache, lane);
    }
    visit(w, w->pass == CHECK ? NULL : lane->pos, n * sizeof(*lane->pos));
    unsigned flags = lane->windowed ? 0 : cache->wants.flags;
    const struct {
        float *value;
        unsigned flag;
    } values[] = {{lane->mass, KV_WANT_MASS}, {lane->last, KV_WANT_LAST}, {lane->norm, KV_WANT_VALUES}};
    for (int i = 0; i < 3; i++)
        if (flags & values[i].flag)
            visit(w, w->pass == CHECK ? NULL : values[i].value, n * sizeof(float));
}

/* Bytes of a page or block that the lane has there. While checking, *bytes (if bytes is not NULL) are the image's own,
 * aligned to nothing. */
static void visit_bytes(walk *w, kv_cache *cache, uint8_t **bytes, size_t n_bytes) {
    if (w->pass == READ && !w->bad)
        *bytes = lane_take(cache, n_bytes);
    if (w->pass == CHECK && bytes)
        *bytes = (uint8_t *)w->from + w->at;
    w->page_bytes += n_bytes;
    visit(w, w->pass == CHECK || w->pass == COUNT ? NULL : *bytes, n_bytes);
}

/* A sealed page: its place in its run, the run's block with the first page that has a hand on it, its own bytes.
 * before: the page in front of it. */
static void visit_sealed(walk *w, kv_cache *cache, const kv_lane *lane, kv_side side, const kv_page *before,
                         kv_page *page, int number) {
    const kv_coding *coding = &lane->keep[side].coding;
    VISIT(w, page->page_in_run);
    VISIT(w, page->n_run_pages);
    visit_bool(w, &page->decode);
    expect(w, page->n_run_pages >= 1 && page->n_run_pages <= lane->keep[side].geometry.run_pages);
    expect(w, page->page_in_run >= 0 && page->page_in_run < page->n_run_pages);
    expect_or(w, page->page_in_run <= number, "a run of pages begins before the lane's first page");
    if (w->bad)
        return;
    if (coding->format->run_bytes) {
        bool joins = page->page_in_run > 0 && before->n_run_pages == page->n_run_pages &&
                     before->page_in_run == page->page_in_run - 1 && before->decode == page->decode;
        size_t n =
            coding->format->run_bytes(&coding->config, side, cache->model->head_dim, page->n_run_pages, page->decode);
        if (joins)
            page->run = before->run;
        else if (n)
            visit_bytes(w, cache, &page->run, n);
    }
    visit_bytes(w, cache, &page->bytes, lane->keep[side].geometry.page_bytes);
    if (w->pass == CHECK && !w->bad && coding->format->sound)
        expect_or(w, coding->format->sound(&coding->config, side, cache->model->head_dim, page),
                  "a page holds what its format never writes");
}

static void visit_pages(walk *w, kv_cache *cache, kv_lane *lane, kv_side side) {
    kv_page before = {0}, checked;
    for (int page = lane->first_page; page < page_count(lane->n_slots) && !w->bad; page++) {
        bool has_tail = w->pass < CHECK && lane->tail[side][page];
        if (lane_sealed_in(lane, side, page) > 0) {
            checked = (kv_page){0};
            kv_page *at = w->pass == CHECK ? &checked : &lane->sealed[side][page];
            visit_sealed(w, cache, lane, side, &before, at, page);
            before = *at;
        } else {
            before = (kv_page){0};
        }
        visit_bool(w, &has_tail);
        expect_or(w, has_tail == (lane_sealed_in(lane, side, page) < PAGE_TOKENS),
                  "slots that are not sealed have no page, or sealed ones have two");
        if (has_tail)
            visit_bytes(w, cache, w->pass == CHECK ? NULL : &lane->tail[side][page], cache->f16_bytes);
    }
}

/* Bounds of keys (bounds.c): which pages' are due to be made anew, and the blocks there are. A lane that is read from
 * must have all of them. */
static void visit_bounds(walk *w, kv_cache *cache, kv_lane *lane) {
    if (lane->windowed || !(cache->wants.flags & KV_WANT_BOUNDS) || w->bad)
        return;
    visit(w, w->pass == CHECK ? NULL : lane->bound_old, (size_t)page_count(lane->n_slots));
    for (int block = 0; block < bounds_blocks(cache, lane->n_slots) && !w->bad; block++) {
        uint8_t *bytes = w->pass < CHECK ? (uint8_t *)lane->bound[block] : NULL;
        bool there = bytes != NULL;
        visit_bool(w, &there);
        expect(w, there || cache->in_prompt);
        if (there)
            visit_bytes(w, cache, w->pass == CHECK ? NULL : &bytes, bounds_block_bytes(cache));
        if (w->pass == READ) {
            lane->bound[block] = (f16 *)bytes;
            lane->n_bound += bytes != NULL;
        }
    }
}

static void visit_lane(walk *w, kv_cache *cache, kv_lane *lane) {
    visit_counts(w, cache, lane);
    if (w->pass == READ && !w->bad && !lane_grow(cache, lane, lane->n_slots))
        w->bad = true;
    if (w->bad)
        return;
    visit_slots(w, cache, lane);
    for (int side = 0; side < 2; side++)
        visit_pages(w, cache, lane, (kv_side)side);
    visit_bounds(w, cache, lane);
}

static void visit_all(walk *w, kv_cache *cache) {
    visit_state(w, cache);
    visit_pins(w, cache);
    visit_queries(w, cache);
    for (int i = 0; i < cache->model->n_layer * cache->model->n_head_kv && !w->bad; i++) {
        kv_lane check = {0}, *lane = &cache->lane[i];
        if (w->pass == CHECK) { /* the cache itself stays as it is */
            check = (kv_lane){.keep = lane->keep, .il = lane->il, .ih = lane->ih, .windowed = lane->windowed};
            check.sink_tokens = lane->sink_tokens;
            lane = &check;
        }
        visit_lane(w, cache, lane);
    }
}

/* ---- saving ---- */

static header header_of(const kv_cache *cache, size_t n_bytes) {
    header h = {.version = VERSION,
                .n_layer = (uint32_t)cache->model->n_layer,
                .n_head_kv = (uint32_t)cache->model->n_head_kv,
                .head_dim = (uint32_t)cache->model->head_dim,
                .byte_order = byte_order,
                .n_bytes = n_bytes,
                .fingerprint = cache->model->fingerprint};
    memcpy(h.magic, magic, sizeof(magic));
    strcpy(h.spec, cache->method.spec);
    return h;
}

/* `at` bytes, `page_bytes` of them of pages. */
static walk count(const kv_cache *cache) {
    walk w = {.pass = COUNT};
    visit_all(&w, (kv_cache *)cache); /* only READ changes it */
    return w;
}

size_t kv_image_bytes(const kv_cache *cache) {
    return sizeof(header) + count(cache).at + sizeof(uint64_t);
}

pleat_status kv_image_save(const kv_cache *cache, kv_image *out, pleat_error *error) {
    assert(cache->n_new == 0);
    size_t n = kv_image_bytes(cache);
    uint8_t *bytes = malloc(n);
    if (!bytes)
        return err_set(error, PLEAT_EMEMORY, "no memory for a copy of a cache of %zu bytes", n);
    header h = header_of(cache, n);
    memcpy(bytes, &h, sizeof(h));
    walk w = {.pass = WRITE, .to = bytes, .at = sizeof(h)};
    visit_all(&w, (kv_cache *)cache);
    assert(w.at + sizeof(uint64_t) == n);
    uint64_t sum = hash_bytes(bytes, w.at, VERSION);
    memcpy(bytes + w.at, &sum, sizeof(sum));
    *out = (kv_image){bytes, n};
    return PLEAT_OK;
}

/* ---- loading ---- */

static pleat_status check_header(const kv_image *image, header *h, pleat_error *error) {
    uint64_t sum;
    if (image->n_bytes < sizeof(*h) + sizeof(sum))
        return err_set(error, PLEAT_EINPUT, "a saved cache of %zu bytes is too short", image->n_bytes);
    memcpy(h, image->bytes, sizeof(*h));
    if (memcmp(h->magic, magic, sizeof(magic)))
        return err_set(error, PLEAT_EINPUT, "this is not a saved cache");
    if (h->byte_order != byte_order)
        return err_set(error, PLEAT_EINPUT, "the saved cache is from a machine with another byte order");
    if (h->version != VERSION)
        return err_set(error, PLEAT_EINPUT, "the saved cache has version %u; this pleat reads %d", h->version, VERSION);
    if (h->n_bytes != image->n_bytes)
        return err_set(error, PLEAT_EINPUT, "the saved cache has %zu bytes and says %llu: it is cut or damaged",
                       image->n_bytes, (unsigned long long)h->n_bytes);
    memcpy(&sum, image->bytes + image->n_bytes - sizeof(sum), sizeof(sum));
    if (sum != hash_bytes(image->bytes, image->n_bytes - sizeof(sum), VERSION))
        return err_set(error, PLEAT_EINPUT, "the saved cache is damaged: its hash does not match");
    if (!memchr(h->spec, 0, sizeof(h->spec)))
        return err_set(error, PLEAT_EINPUT, "the saved cache names no method");
    return PLEAT_OK;
}

pleat_status kv_image_spec(const kv_image *image, const char **spec, pleat_error *error) {
    header h;
    pleat_status status = check_header(image, &h, error);
    if (!status)
        *spec = (const char *)image->bytes + offsetof(header, spec);
    return status;
}

static pleat_status check_fit(const header *h, const kv_cache *cache, pleat_error *error) {
    header own = header_of(cache, h->n_bytes);
    if (h->fingerprint != own.fingerprint || h->n_layer != own.n_layer || h->n_head_kv != own.n_head_kv ||
        h->head_dim != own.head_dim)
        return err_set(error, PLEAT_EINPUT, "the saved cache is of another model than %s", cache->model->name);
    if (strcmp(h->spec, own.spec))
        return err_set(error, PLEAT_EINPUT, "the saved cache is compressed by %.200s, not by %.200s", h->spec,
                       own.spec);
    return PLEAT_OK;
}

/* The state fields of a cache that a check walk may overwrite. */
static kv_cache fresh_state(const kv_cache *cache) {
    kv_cache copy;
    memcpy(&copy, cache, sizeof(copy));
    return copy;
}

static void empty(kv_cache *cache) {
    for (int i = 0; i < cache->model->n_layer * cache->model->n_head_kv; i++) {
        kv_lane *lane = &cache->lane[i], fresh = {.keep = lane->keep, .il = lane->il, .ih = lane->ih};
        fresh.windowed = lane->windowed;
        fresh.sink_tokens = lane->sink_tokens;
        lane_free(cache, lane);
        *lane = fresh;
    }
    cache->n_seen = cache->prompt_from = cache->grid_sealed = 0;
    cache->in_prompt = cache->evented = false;
    cache->n_pins = cache->n_steps = cache->max_new = 0;
    queries_free(cache);
}

pleat_status kv_image_load(const kv_image *image, kv_cache *cache, pleat_error *error) {
    assert(cache->n_seen == 0 && cache->n_new == 0);
    header h;
    pleat_status status = check_header(image, &h, error);
    status = status ? status : check_fit(&h, cache, error);
    if (status)
        return status;
    kv_cache copy = fresh_state(cache);
    walk w = {.pass = CHECK, .from = image->bytes, .at = sizeof(h), .end = image->n_bytes - sizeof(uint64_t)};
    visit_all(&w, &copy);
    if (w.bad || w.at != w.end)
        return err_set(error, PLEAT_EINPUT, "the saved cache contradicts itself near byte %zu%s%s", w.at,
                       w.why ? ": " : "", w.why ? w.why : "");
    if (!kv_pool_reserve(cache->pool, w.page_bytes))
        return err_set(error, PLEAT_EFULL, "a saved cache needs %zu bytes of the KV pool; %zu are free", w.page_bytes,
                       kv_pool_budget_bytes(cache->pool) - kv_pool_used_bytes(cache->pool));
    w = (walk){.pass = READ, .from = image->bytes, .at = sizeof(h), .end = w.end};
    visit_all(&w, cache);
    if (w.bad) {
        empty(cache);
        return err_set(error, PLEAT_EMEMORY, "no memory for the lanes of a saved cache");
    }
    return PLEAT_OK;
}

/* ---- a file of this process ---- */

static pleat_status passage_open(passage *p, int fd, pleat_error *error) {
    *p = (passage){.fd = fd, .piece = malloc(PIECE_BYTES), .error = error};
    return p->piece ? PLEAT_OK : err_set(error, PLEAT_EMEMORY, "no memory to move a cache");
}

pleat_status kv_image_put(const kv_cache *cache, int fd, kv_image_file *out, pleat_error *error) {
    assert(cache->n_new == 0);
    walk size = count(cache);
    passage p;
    pleat_status status = passage_open(&p, fd, error);
    if (status)
        return status;
    walk w = {.pass = WRITE, .passage = &p};
    visit_all(&w, (kv_cache *)cache);
    if (!w.bad)
        passage_flush(&p);
    free(p.piece);
    *out = (kv_image_file){.fd = fd, .n_bytes = size.at, .page_bytes = size.page_bytes, .sum = p.sum};
    return p.status;
}

pleat_status kv_image_get(const kv_image_file *file, kv_cache *cache, pleat_error *error) {
    assert(cache->n_seen == 0 && cache->n_new == 0);
    if (!kv_pool_reserve(cache->pool, file->page_bytes))
        return err_set(error, PLEAT_EFULL, "a moved cache needs %zu bytes of the KV pool; %zu are free",
                       file->page_bytes, kv_pool_budget_bytes(cache->pool) - kv_pool_used_bytes(cache->pool));
    if (lseek(file->fd, 0, SEEK_SET))
        return err_set(error, PLEAT_EIO, "a moved cache cannot be read: %s", strerror(errno));
    passage p;
    pleat_status status = passage_open(&p, file->fd, error);
    if (status)
        return status;
    p.left = file->n_bytes;
    walk w = {.pass = READ, .passage = &p, .end = file->n_bytes};
    visit_all(&w, cache);
    free(p.piece);
    status = p.status;
    if (!status && w.bad)
        status = err_set(error, PLEAT_EMEMORY, "no memory for the lanes of a moved cache");
    if (!status && (p.sum != file->sum || w.at != w.end))
        status = err_set(error, PLEAT_EINPUT, "a moved cache is damaged: its hash does not match");
    if (status)
        empty(cache);
    return status;
}

void kv_image_free(kv_image *image) {
    free(image->bytes);
    *image = (kv_image){NULL, 0};
}

bool kv_image_at_grid(const kv_cache *cache) {
    return cache->in_prompt && cache->prompt_from == 0 && cache_grid_point(cache, cache->n_seen);
}

uint64_t kv_image_told(const kv_cache *cache) {
    enum { LONG_PROMPT = 1 << 16 };
    const kv_policy *p = cache->method.policy;
    const kv_config *c = &cache->method.policy_config;
    int n = cache->max_new;
    bool sized = p->kept_tokens &&
                 p->kept_tokens(c, KV_MAX_LAYERS, LONG_PROMPT, n) != p->kept_tokens(c, KV_MAX_LAYERS, LONG_PROMPT, 0);
    uint64_t told = cache->method.pin ? hash_bytes(cache->pin, (size_t)cache->n_pins * sizeof(*cache->pin), 1) : 0;
    return sized ? hash_bytes(&n, sizeof(n), told) : told;
}
