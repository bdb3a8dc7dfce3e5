/* test_pool.c - the pool's budget is exact to the byte, freed pages come back, a reservation holds whatever the sizes,
 * charges count in budget and memory, pages that lie apart can move together, memory asks for huge pages. */
#include "kv/pool.h"
#include "base/memory.h"
#include "support/env.h"
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <setjmp.h>
#include <cmocka.h>

static kv_pool *open_pool(size_t bytes) {
    kv_pool *pool;
    assert_int_equal(kv_pool_open(bytes, &pool, NULL), PLEAT_OK);
    return pool;
}

static void budget_is_exact(void **state) {
    (void)state;
    kv_pool *pool = open_pool(8192 * 3 + 64);
    void *a = kv_pool_take(pool, 8192), *b = kv_pool_take(pool, 8192), *c = kv_pool_take(pool, 8192);
    assert_non_null(a);
    assert_non_null(b);
    assert_non_null(c);
    assert_int_equal(kv_pool_used_bytes(pool), 3 * 8192);
    assert_null(kv_pool_take(pool, 128));
    void *last = kv_pool_take(pool, 64);
    assert_non_null(last);
    assert_null(kv_pool_take(pool, 64));
    kv_pool_give(pool, b, 8192);
    assert_int_equal(kv_pool_used_bytes(pool), 2 * 8192 + 64);
    b = kv_pool_take(pool, 8192);
    assert_non_null(b);
    kv_pool_give(pool, a, 8192);
    kv_pool_give(pool, b, 8192);
    kv_pool_give(pool, c, 8192);
    kv_pool_give(pool, last, 64);
    assert_int_equal(kv_pool_used_bytes(pool), 0);
    kv_pool_close(pool);
}

static void pages_are_aligned_and_apart(void **state) {
    (void)state;
    enum { N = 600 };
    static const size_t sizes[] = {1024, 1344, 2048, 8192, 32768, 65536};
    kv_pool *pool = open_pool((size_t)1 << 30);
    uint8_t *page[N];
    for (int i = 0; i < N; i++) {
        page[i] = kv_pool_take(pool, sizes[i % 6]);
        assert_non_null(page[i]);
        assert_int_equal((uintptr_t)page[i] % 64, 0);
        memset(page[i], i & 255, sizes[i % 6]);
    }
    for (int i = 0; i < N; i++)
        for (size_t j = 0; j < sizes[i % 6]; j++)
            assert_int_equal(page[i][j], i & 255);
    for (int i = N - 1; i >= 0; i--)
        kv_pool_give(pool, page[i], sizes[i % 6]);
    kv_pool_close(pool);
}

/* Memory freed in one size must serve another: else a long run would grow without end. */
static void empty_slabs_change_size(void **state) {
    (void)state;
    enum { ROUNDS = 40, N = 2000 };
    kv_pool *pool = open_pool((size_t)64 << 20);
    uintptr_t low = UINTPTR_MAX, high = 0;
    for (int round = 0; round < ROUNDS; round++) {
        size_t bytes = 8192 + 64 * (size_t)(round % 20);
        static uint8_t *page[N];
        for (int i = 0; i < N; i++) {
            page[i] = kv_pool_take(pool, bytes);
            assert_non_null(page[i]);
            low = (uintptr_t)page[i] < low ? (uintptr_t)page[i] : low;
            high = (uintptr_t)page[i] > high ? (uintptr_t)page[i] : high;
        }
        for (int i = 0; i < N; i++)
            kv_pool_give(pool, page[i], bytes);
    }
    assert_true(high - low < ((size_t)64 << 20));
    kv_pool_close(pool);
}

static void reservation_holds(void **state) {
    (void)state;
    kv_pool *pool = open_pool((size_t)32 << 20);
    assert_false(kv_pool_reserve(pool, ((size_t)32 << 20) + 1));
    assert_true(kv_pool_reserve(pool, (size_t)32 << 20));
    void *page[600];
    size_t left = (size_t)32 << 20, size[600];
    int n = 0;
    for (; n < 600 && left >= 65536; n++) {
        size[n] = 64 * (size_t)(1 + n * 37 % 20) * 50;
        page[n] = kv_pool_take(pool, size[n]);
        assert_non_null(page[n]);
        left -= size[n];
    }
    assert_false(kv_pool_reserve(pool, left + 1));
    while (n--)
        kv_pool_give(pool, page[n], size[n]);
    kv_pool_close(pool);
}

/* Sizes come and go without end; only those in use together are limited. */
static void sizes_are_forgotten(void **state) {
    (void)state;
    kv_pool *pool = open_pool((size_t)1 << 30);
    void *kept = kv_pool_take(pool, KV_POOL_PAGE_BYTES);
    for (size_t i = 1; i <= 3000; i++) {
        void *page = kv_pool_take(pool, 64 * i);
        assert_non_null(page);
        kv_pool_give(pool, page, 64 * i);
    }
    kv_pool_give(pool, kept, KV_POOL_PAGE_BYTES);
    kv_pool_close(pool);
}

static size_t resident_bytes(void) {
    FILE *f = fopen("/proc/self/statm", "r");
    size_t pages = 0;
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%*u %zu", &pages), 1);
    fclose(f);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* What lies outside and is charged takes the place of pages, in the budget and in memory. */
static void charges_take_the_place_of_pages(void **state) {
    (void)state;
    enum { MB = 1 << 20, N = 32 << 20 >> 16 };
    kv_pool *pool = open_pool(32 * MB);
    static uint8_t *page[N];
    for (int i = 0; i < N - 16; i++) {
        page[i] = kv_pool_take(pool, 1 << 16);
        assert_non_null(page[i]);
        memset(page[i], i, 1 << 16);
    }
    assert_false(kv_pool_charge(pool, MB + 1));
    assert_true(kv_pool_charge(pool, MB));
    assert_int_equal(kv_pool_used_bytes(pool), 32 * MB);
    assert_null(kv_pool_take(pool, 64));
    for (int i = 0; i < N - 16; i++)
        kv_pool_give(pool, page[i], 1 << 16);
    size_t before = resident_bytes();
    assert_true(kv_pool_charge(pool, 24 * MB));
    assert_true(resident_bytes() + 20 * MB < before);
    kv_pool_discharge(pool, 25 * MB);
    assert_int_equal(kv_pool_used_bytes(pool), 0);
    page[0] = kv_pool_take(pool, 1 << 16);
    assert_non_null(page[0]);
    memset(page[0], 1, 1 << 16);
    kv_pool_give(pool, page[0], 1 << 16);
    kv_pool_close(pool);
}

/* Of pages far apart those that nobody shares move: with their bytes, and until as few slabs are left as can be. */
static void pages_move_closer_together(void **state) {
    (void)state;
    enum { PAGE = 8192, PER_SLAB = 64, SLABS = 32, N = SLABS * PER_SLAB };
    kv_pool *pool = open_pool((size_t)64 << 20);
    static uint8_t *page[N];
    for (int i = 0; i < N; i++) {
        page[i] = kv_pool_take(pool, PAGE);
        memset(page[i], i % 251, PAGE);
    }
    assert_int_equal(kv_pool_mark(pool, SIZE_MAX), 0);
    assert_true(kv_pool_share(pool, page[5 * PER_SLAB]));
    for (int i = 0; i < N; i++)
        if (i % (PER_SLAB / 2)) /* two are left of a slab */
            kv_pool_give(pool, page[i], PAGE);
    size_t used = kv_pool_used_bytes(pool), apart = kv_pool_mark(pool, SIZE_MAX);
    assert_true(apart >= (SLABS - 4) * (size_t)PER_SLAB * PAGE);
    int n_moved = 0;
    for (int i = 0; i < N; i += PER_SLAB / 2) {
        uint8_t *to = kv_pool_gather(pool, page[i]);
        n_moved += to != NULL;
        assert_true(!to || i != 5 * PER_SLAB);
        page[i] = to ? to : page[i];
    }
    assert_true(n_moved >= 2 * (SLABS - 4));
    assert_int_equal(kv_pool_used_bytes(pool), used);
    assert_int_equal(kv_pool_mark(pool, SIZE_MAX), 0);
    for (int i = 0; i < N; i += PER_SLAB / 2)
        for (int k = 0; k < PAGE; k++)
            assert_int_equal(page[i][k], i % 251);
    for (int i = 0; i < N; i += PER_SLAB / 2)
        kv_pool_give(pool, page[i], PAGE);
    kv_pool_give(pool, page[5 * PER_SLAB], PAGE);
    kv_pool_close(pool);
}

/* A page that somebody shares stays where it is; a slab that has one is not emptied, and one that had may be. */
static void shared_pages_stay(void **state) {
    (void)state;
    enum { PAGE = 8192, PER_SLAB = 64, SLABS = 8, N = SLABS * PER_SLAB };
    kv_pool *pool = open_pool((size_t)64 << 20);
    static uint8_t *page[N];
    for (int i = 0; i < N; i++)
        page[i] = kv_pool_take(pool, PAGE);
    for (int i = 0; i < N; i++)
        if (i % PER_SLAB)
            kv_pool_give(pool, page[i], PAGE);
        else
            assert_true(kv_pool_share(pool, page[i])); /* one in each slab */
    assert_int_equal(kv_pool_mark(pool, SIZE_MAX), 0);
    for (int i = 0; i < N; i += PER_SLAB)
        kv_pool_give(pool, page[i], PAGE);
    assert_true(kv_pool_mark(pool, SIZE_MAX) >= (SLABS - 2) * (size_t)PER_SLAB * PAGE);
    assert_int_equal(kv_pool_mark(pool, 3 * (size_t)PER_SLAB * PAGE), 3 * (size_t)PER_SLAB * PAGE);
    kv_pool_mark(pool, SIZE_MAX);
    for (int i = 0; i < N; i += PER_SLAB)
        assert_true(kv_pool_share(pool, page[i]));
    for (int i = 0; i < N; i += PER_SLAB)
        assert_null(kv_pool_gather(pool, page[i]));
    for (int i = 0; i < N; i += PER_SLAB) {
        kv_pool_give(pool, page[i], PAGE);
        kv_pool_give(pool, page[i], PAGE);
    }
    assert_int_equal(kv_pool_used_bytes(pool), 0);
    kv_pool_close(pool);
}

/* Of slabs that all had shared pages once, the fullest stays. */
static void the_fullest_slab_stays(void **state) {
    (void)state;
    enum { PAGE = 8192, N = 200 };
    kv_pool *pool = open_pool((size_t)64 << 20);
    static uint8_t *page[N];
    for (int i = 0; i < N; i++) {
        page[i] = kv_pool_take(pool, PAGE);
        assert_true(kv_pool_share(pool, page[i]));
        kv_pool_give(pool, page[i], PAGE);
    }
    for (int i = 1; i < N; i++) /* 40 are left of the second slab, one of each other */
        if (i % 64 && (i < 70 || i >= 110))
            kv_pool_give(pool, page[i], PAGE);
    assert_true(kv_pool_mark(pool, SIZE_MAX) > 0);
    for (int i = 70; i < 110; i++)
        assert_null(kv_pool_gather(pool, page[i]));
    for (int i = 0; i < N; i++)
        if (i % 64 == 0 || (i >= 70 && i < 110)) {
            void *to = kv_pool_gather(pool, page[i]);
            kv_pool_give(pool, to ? to : page[i], PAGE);
        }
    assert_int_equal(kv_pool_used_bytes(pool), 0);
    kv_pool_close(pool);
}

static void *churn(void *context) {
    kv_pool *pool = context;
    void *page[64];
    for (int round = 0; round < 200; round++) {
        for (int i = 0; i < 64; i++) {
            page[i] = kv_pool_take(pool, 64 * (size_t)(1 + i));
            if (page[i])
                memset(page[i], i, 64 * (size_t)(1 + i));
        }
        for (int i = 0; i < 64; i++)
            if (page[i])
                kv_pool_give(pool, page[i], 64 * (size_t)(1 + i));
    }
    return NULL;
}

static void threads_share_it(void **state) {
    (void)state;
    kv_pool *pool = open_pool(64 * 64 * 65); /* too little for all at once: some takes say no */
    pthread_t thread[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, churn, pool), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(thread[i], NULL);
    assert_int_equal(kv_pool_used_bytes(pool), 0);
    kv_pool_close(pool);
}

/* The kernel was told to back the mapping that p lies in by huge pages, and says so. */
static bool is_advised(const void *p) {
    FILE *f = fopen("/proc/self/smaps", "re");
    char line[512];
    bool inside = false, advised = false;
    while (f && fgets(line, sizeof(line), f)) {
        uintptr_t from, to;
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR, &from, &to) == 2)
            inside = from <= (uintptr_t)p && (uintptr_t)p < to;
        else if (inside && !strncmp(line, "VmFlags:", 8))
            advised = strstr(line, " hg") != NULL;
    }
    if (f)
        fclose(f);
    return advised;
}

static void memory_asks_for_huge_pages(void **state) {
    (void)state;
    enum { BYTES = 4 << 20 };
    void *own = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(own, MAP_FAILED);
    bool shows = !is_advised(own) && !madvise(own, BYTES, MADV_HUGEPAGE) && is_advised(own);
    munmap(own, BYTES);
    if (!shows)
        env_skip("this system does not say which memory asks for huge pages");
    kv_pool *pool = open_pool(BYTES);
    void *page = kv_pool_take(pool, 4096), *map = mem_map(BYTES);
    assert_true(is_advised(page));
    assert_true(is_advised(map));
    mem_unmap(map, BYTES);
    kv_pool_give(pool, page, 4096);
    kv_pool_close(pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(budget_is_exact),
        cmocka_unit_test(pages_are_aligned_and_apart),
        cmocka_unit_test(empty_slabs_change_size),
        cmocka_unit_test(reservation_holds),
        cmocka_unit_test(charges_take_the_place_of_pages),
        cmocka_unit_test(pages_move_closer_together),
        cmocka_unit_test(shared_pages_stay),
        cmocka_unit_test(the_fullest_slab_stays),
        cmocka_unit_test(threads_share_it),
        cmocka_unit_test(sizes_are_forgotten),
        cmocka_unit_test(memory_asks_for_huge_pages),
    };
    return cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
