/* shares.h - bytes of one bound that several holders share, so that none of them keeps the others out. It counts; what
 * the bytes are for is the caller's.
 *
 * A holder may have at most seven eighths of what the others leave. Alone it leaves an eighth free; who comes then gets
 * most of that at once, and more as soon as the first gives back. (Dynamic thresholds of a shared buffer: Choudhury and
 * Hahne, IEEE/ACM Transactions on Networking 6(2), 1998, with a factor of 7.) */
#ifndef BASE_SHARES_H
#define BASE_SHARES_H
#include "base/members.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct share {
    member member;
    atomic_size_t bytes;
} share;

typedef struct shares {
    pthread_mutex_t lock; /* of those who hold and take */
    member *first;
    size_t most; /* 0: no bound */
    atomic_size_t used;
} shares;

void shares_open(shares *all, size_t most_bytes);
void shares_close(shares *all); /* everything is given back */
/* The share of this name, held once more. NULL: no memory. */
share *shares_hold(shares *all, const char *name);
/* Takes no lock, like shares_give. After it the caller does not use the share. NULL is fine. */
void shares_drop(share *s);
/* false: that would be too much now, and nothing was taken. */
bool shares_take(shares *all, share *s, size_t n_bytes);
void shares_give(shares *all, share *s, size_t n_bytes);
/* What one holder can have when the others have nothing. */
size_t shares_most_of_one(const shares *all);
#endif
