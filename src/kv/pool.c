/* pool.c - pages of mixed sizes under one exact byte budget.
 *
 * Memory comes from the system in regions of 64 MB, aligned to 64 MB and cut into slabs of 512 KB; a slab serves pages
 * of one size. The slabs' records stand at the region's start, so a page finds its region by clearing low bits, its
 * slab by dividing, and no slab is touched (and so backed by memory) before its first page is. A slab whose pages are
 * all free goes back to the common list and may serve another size. The budget counts pages, and what lies elsewhere
 * and is charged to it, to the byte. Empty slabs that were used before are used first; where they and the charges
 * together are more than the budget, the system gets their memory back.
 *
 * Requests end in any order, and leave slabs in which a few pages live on. Of n pages in part-used slabs of p places,
 * as many slabs as hold n are enough: kv_pool_mark keeps those with shared pages, which cannot move, and the
 * fullest; the others are marked, and take pages only when nobody else can.
 *
 * A reservation must make later takes succeed whatever their sizes: kv_pool_reserve maps so many empty slabs that even
 * the worst order of sizes fits (one part-used slab for each size besides what the bytes themselves fill). A size is
 * forgotten with its last slab, so only sizes in use together count. */
#include "kv/pool.h"
#include "base/status.h"
#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { SLAB_BYTES = 512 << 10, REGION_SLABS = 128, MAX_SIZES = 512, NEW_SIZES = 32, HEADER_BYTES = 12288 };
#define REGION_BYTES ((size_t)SLAB_BYTES * REGION_SLABS)

typedef struct slab {
    size_t page_bytes;
    uint8_t *base;
    size_t usable_bytes;
    int n_used, n_fresh, n_pages; /* fresh: handed out at least once, counted from the start */
    uint16_t *n_more;             /* [n_pages] further holders of each page; NULL until one is shared */
    int n_shared;                 /* pages that have some */
    void *free_page;              /* list through the pages' first word */
    struct slab *next, *prev;     /* in the list of its size with pages left, or in the list of empty slabs */
    bool listed, touched;         /* touched: backed by memory, at least in part */
    bool marked;                  /* to be emptied */
} slab;

typedef struct region {
    struct region *next;
    slab slabs[REGION_SLABS];
} region;
_Static_assert(sizeof(region) <= HEADER_BYTES, "the records stay in front of the first page");

struct kv_pool {
    pthread_mutex_t lock;
    size_t budget_bytes, used_bytes, charged_bytes; /* charged: of those used, outside */
    size_t size[MAX_SIZES];                         /* 0: not in use */
    slab *partial[MAX_SIZES];                       /* slabs of a size that have pages left */
    int n_slabs[MAX_SIZES];                         /* of a size */
    int n_sizes;                                    /* entries that were ever in use */
    slab *empty;                                    /* touched ones first */
    size_t n_empty, n_touched;
    region *regions;
};

pleat_status kv_pool_open(size_t budget_bytes, kv_pool **out, pleat_error *error) {
    kv_pool *pool = calloc(1, sizeof(*pool));
    if (!pool)
        return err_set(error, PLEAT_EMEMORY, "no memory for the KV pool");
    pthread_mutex_init(&pool->lock, NULL);
    pool->budget_bytes = budget_bytes;
    *out = pool;
    return PLEAT_OK;
}

void kv_pool_close(kv_pool *pool) {
    if (!pool)
        return;
    assert(pool->used_bytes == 0);
    for (region *r = pool->regions, *next; r; r = next) {
        next = r->next;
        for (int i = 0; i < REGION_SLABS; i++)
            free(r->slabs[i].n_more);
        munmap(r, REGION_BYTES);
    }
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

static void list_push(slab **head, slab *s) {
    s->prev = NULL;
    s->next = *head;
    if (*head)
        (*head)->prev = s;
    *head = s;
    s->listed = true;
}

static void list_remove(slab **head, slab *s) {
    if (s->prev)
        s->prev->next = s->next;
    else
        *head = s->next;
    if (s->next)
        s->next->prev = s->prev;
    s->listed = false;
}

static void list_append(slab **head, slab *s) {
    slab *last = *head;
    while (last && last->next)
        last = last->next;
    s->next = NULL;
    s->prev = last;
    *(last ? &last->next : head) = s;
    s->listed = true;
}

/* Gives the memory of empty slabs back while slabs and charges take more than the budget. */
static void trim(kv_pool *pool) {
    while (pool->empty && pool->empty->touched &&
           pool->n_touched * SLAB_BYTES + pool->charged_bytes > pool->budget_bytes) {
        slab *s = pool->empty;
        madvise(s->base, s->usable_bytes, MADV_DONTNEED);
        s->touched = false;
        pool->n_touched--;
        list_remove(&pool->empty, s);
        list_append(&pool->empty, s);
    }
}

static bool map_region(kv_pool *pool) {
    uint8_t *map =
        mmap(NULL, 2 * REGION_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED)
        return false;
    uint8_t *first = (uint8_t *)(((uintptr_t)map + REGION_BYTES - 1) / REGION_BYTES * REGION_BYTES);
    if (first > map)
        munmap(map, (size_t)(first - map));
    if (first + REGION_BYTES < map + 2 * REGION_BYTES)
        munmap(first + REGION_BYTES, (size_t)(map + 2 * REGION_BYTES - first - REGION_BYTES));
    madvise(first, REGION_BYTES, MADV_HUGEPAGE);
    region *r = (region *)first;
    r->next = pool->regions;
    pool->regions = r;
    for (int i = 0; i < REGION_SLABS; i++) {
        slab *s = &r->slabs[i];
        size_t header_bytes = i == 0 ? HEADER_BYTES : 0;
        s->base = first + (size_t)i * SLAB_BYTES + header_bytes;
        s->usable_bytes = SLAB_BYTES - header_bytes;
        list_append(&pool->empty, s);
        pool->n_empty++;
    }
    return true;
}

static slab *slab_of(const void *page) {
    uintptr_t base = (uintptr_t)page / REGION_BYTES * REGION_BYTES;
    return &((region *)base)->slabs[((uintptr_t)page - base) / SLAB_BYTES];
}

/* Index of a size, made on first use; -1 when there are too many sizes. */
static int size_index(kv_pool *pool, size_t page_bytes) {
    int free_entry = pool->n_sizes;
    for (int i = 0; i < pool->n_sizes; i++) {
        if (pool->size[i] == page_bytes)
            return i;
        if (!pool->n_slabs[i])
            free_entry = i;
    }
    if (free_entry == MAX_SIZES)
        return -1;
    pool->size[free_entry] = page_bytes;
    pool->n_sizes += free_entry == pool->n_sizes;
    return free_entry;
}

/* The fullest of the next slabs that have pages left, marked ones last: those may run empty, and then serve any size.
 */
static slab *fullest(slab *head) {
    enum { LOOK_AT = 32 };
    slab *best = head;
    for (int i = 0; head && i < LOOK_AT; i++, head = head->next)
        if (head->marked < best->marked || (head->marked == best->marked && head->n_used > best->n_used))
            best = head;
    return best;
}

static slab *slab_for(kv_pool *pool, int index) {
    if (pool->partial[index])
        return fullest(pool->partial[index]);
    if (!pool->empty && !map_region(pool))
        return NULL;
    slab *s = pool->empty;
    list_remove(&pool->empty, s);
    pool->n_empty--;
    pool->n_touched += !s->touched;
    s->touched = true;
    pool->n_slabs[index]++;
    s->page_bytes = pool->size[index];
    s->n_used = s->n_fresh = 0;
    s->marked = false;
    s->n_pages = (int)(s->usable_bytes / s->page_bytes);
    s->free_page = NULL;
    list_push(&pool->partial[index], s);
    return s;
}

static void *slab_take(kv_pool *pool, int index, slab *s) {
    void *page = s->free_page;
    if (page)
        s->free_page = *(void **)page;
    else
        page = s->base + (size_t)s->n_fresh++ * s->page_bytes;
    if (++s->n_used == s->n_pages) {
        list_remove(&pool->partial[index], s);
        s->marked = false;
    }
    return page;
}

void *kv_pool_take(kv_pool *pool, size_t page_bytes) {
    assert(page_bytes && page_bytes % 64 == 0 && page_bytes <= KV_POOL_PAGE_BYTES);
    void *page = NULL;
    pthread_mutex_lock(&pool->lock);
    int index = size_index(pool, page_bytes);
    if (index >= 0 && page_bytes <= pool->budget_bytes - pool->used_bytes) {
        slab *s = slab_for(pool, index);
        if (s) {
            page = slab_take(pool, index, s);
            pool->used_bytes += page_bytes;
        }
    }
    pthread_mutex_unlock(&pool->lock);
    return page;
}

static size_t page_index(const slab *s, const void *page) {
    return (size_t)((const uint8_t *)page - s->base) / s->page_bytes;
}

static void slab_give(kv_pool *pool, slab *s, void *page) {
    int index = size_index(pool, s->page_bytes);
    *(void **)page = s->free_page;
    s->free_page = page;
    s->n_used--;
    if (!s->listed)
        list_push(&pool->partial[index], s);
    if (s->n_used)
        return;
    free(s->n_more);
    s->n_more = NULL;
    list_remove(&pool->partial[index], s);
    list_push(&pool->empty, s);
    pool->n_empty++;
    if (!--pool->n_slabs[index])
        pool->size[index] = 0;
    trim(pool);
}

static bool is_shared(const slab *s, const void *page) {
    return s->n_more && s->n_more[page_index(s, page)] > 0;
}

void kv_pool_give(kv_pool *pool, void *page, size_t page_bytes) {
    slab *s = slab_of(page);
    pthread_mutex_lock(&pool->lock);
    assert(s->page_bytes == page_bytes && s->n_used > 0);
    (void)page_bytes;
    if (is_shared(s, page)) {
        s->n_shared -= --s->n_more[page_index(s, page)] == 0;
    } else {
        pool->used_bytes -= s->page_bytes;
        slab_give(pool, s, page);
    }
    pthread_mutex_unlock(&pool->lock);
}

/* ---- closer together ---- */

enum { RANKS = 65 };

/* The higher, the better a slab stays. */
static int rank_of(const slab *s) {
    return s->n_shared ? RANKS - 1 : (int)((int64_t)s->n_used * (RANKS - 1) / s->n_pages);
}

/* Marks at most `most` slabs of one size and returns how many. They leave the list and come back, marked ones behind
 * the others. */
static size_t mark_size(slab **head, size_t most) {
    int n_of[RANKS] = {0}, n_used = 0, n_kept = 0, least = RANKS;
    slab *stays = NULL, *leaves = NULL;
    size_t n_marked = 0;
    for (const slab *s = *head; s; s = s->next) {
        n_of[rank_of(s)]++;
        n_used += s->n_used;
    }
    int needed = *head ? (n_used + (*head)->n_pages - 1) / (*head)->n_pages : 0;
    while (least > 0 && n_kept < needed)
        n_kept += n_of[--least];
    int spare = n_kept - needed; /* of rank `least` */
    for (slab *s = *head, *next; s; s = next) {
        next = s->next;
        bool is_spare = rank_of(s) == least && spare > 0;
        spare -= is_spare;
        s->marked = (is_spare || rank_of(s) < least) && !s->n_shared && n_marked < most;
        n_marked += s->marked;
        list_push(s->marked ? &leaves : &stays, s);
    }
    *head = stays ? stays : leaves;
    while (stays && stays->next)
        stays = stays->next;
    if (stays && leaves) {
        stays->next = leaves;
        leaves->prev = stays;
    }
    return n_marked;
}

size_t kv_pool_mark(kv_pool *pool, size_t most_bytes) {
    size_t n = 0, most = most_bytes / SLAB_BYTES;
    pthread_mutex_lock(&pool->lock);
    for (int i = 0; i < pool->n_sizes; i++)
        n += mark_size(&pool->partial[i], most - n);
    pthread_mutex_unlock(&pool->lock);
    return n * SLAB_BYTES;
}

void *kv_pool_gather(kv_pool *pool, void *page) {
    slab *s = slab_of(page);
    void *to = NULL;
    if (!s->marked) /* most pages: nobody marks or takes meanwhile */
        return NULL;
    pthread_mutex_lock(&pool->lock);
    if (!is_shared(s, page)) {
        int index = size_index(pool, s->page_bytes);
        slab *other = fullest(pool->partial[index]);
        if (other && !other->marked) {
            to = slab_take(pool, index, other);
            memcpy(to, page, s->page_bytes);
            slab_give(pool, s, page);
        }
    }
    pthread_mutex_unlock(&pool->lock);
    return to;
}

bool kv_pool_charge(kv_pool *pool, size_t bytes) {
    pthread_mutex_lock(&pool->lock);
    bool ok = bytes <= pool->budget_bytes - pool->used_bytes;
    if (ok) {
        pool->used_bytes += bytes;
        pool->charged_bytes += bytes;
        trim(pool);
    }
    pthread_mutex_unlock(&pool->lock);
    return ok;
}

void kv_pool_discharge(kv_pool *pool, size_t bytes) {
    pthread_mutex_lock(&pool->lock);
    assert(bytes <= pool->charged_bytes);
    pool->used_bytes -= bytes;
    pool->charged_bytes -= bytes;
    pthread_mutex_unlock(&pool->lock);
}

size_t kv_pool_page_bytes(const void *page) {
    return slab_of(page)->page_bytes;
}

bool kv_pool_share(kv_pool *pool, void *page) {
    slab *s = slab_of(page);
    pthread_mutex_lock(&pool->lock);
    if (!s->n_more)
        s->n_more = calloc((size_t)s->n_pages, sizeof(*s->n_more));
    bool ok = s->n_more && s->n_more[page_index(s, page)] < UINT16_MAX;
    if (ok)
        s->n_shared += s->n_more[page_index(s, page)]++ == 0;
    pthread_mutex_unlock(&pool->lock);
    return ok;
}

bool kv_pool_is_shared(const kv_pool *pool, const void *page) {
    const slab *s = slab_of(page);
    pthread_mutex_lock((pthread_mutex_t *)&pool->lock);
    bool shared = is_shared(s, page);
    pthread_mutex_unlock((pthread_mutex_t *)&pool->lock);
    return shared;
}

size_t kv_pool_used_bytes(const kv_pool *pool) {
    pthread_mutex_lock((pthread_mutex_t *)&pool->lock);
    size_t used = pool->used_bytes;
    pthread_mutex_unlock((pthread_mutex_t *)&pool->lock);
    return used;
}

size_t kv_pool_resident_bytes(const kv_pool *pool) {
    pthread_mutex_lock((pthread_mutex_t *)&pool->lock);
    size_t bytes = pool->n_touched * SLAB_BYTES + pool->charged_bytes;
    pthread_mutex_unlock((pthread_mutex_t *)&pool->lock);
    return bytes;
}

size_t kv_pool_budget_bytes(const kv_pool *pool) {
    return pool->budget_bytes;
}

bool kv_pool_reserve(kv_pool *pool, size_t bytes) {
    enum { USABLE = SLAB_BYTES - KV_POOL_PAGE_BYTES }; /* no page is larger than the end that a slab may waste */
    pthread_mutex_lock(&pool->lock);
    bool ok = bytes <= pool->budget_bytes - pool->used_bytes;
    size_t slabs = bytes / USABLE + 1 + NEW_SIZES;
    for (int i = 0; i < pool->n_sizes; i++)
        slabs += pool->n_slabs[i] > 0;
    while (ok && pool->n_empty < slabs)
        ok = map_region(pool);
    pthread_mutex_unlock(&pool->lock);
    return ok;
}
