/* budget.h - bytes that any threads take of one bound and give back, without a lock. It counts; it allocates nothing.
 */
#ifndef BASE_BUDGET_H
#define BASE_BUDGET_H
#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct budget {
    size_t most; /* 0: no bound */
    atomic_size_t used;
} budget;

/* false: that would be too much now, and nothing was taken. */
static inline bool budget_take(budget *b, size_t n_bytes) {
    size_t used = atomic_load(&b->used);
    do
        if (b->most && (n_bytes > b->most || used > b->most - n_bytes))
            return false;
    while (!atomic_compare_exchange_weak(&b->used, &used, used + n_bytes));
    return true;
}

static inline void budget_give(budget *b, size_t n_bytes) {
    size_t used = atomic_fetch_sub(&b->used, n_bytes);
    assert(used >= n_bytes);
    (void)used;
}
#endif
