/* intern.h - numbers for byte strings: equal bytes get the same number, from 0 in the order of first sight. */
#ifndef BASE_INTERN_H
#define BASE_INTERN_H
#include "base/text.h"

typedef struct intern { /* zeroed: empty */
    text bytes;         /* the keys, each ended by 0 */
    size_t *at;         /* [n] into bytes */
    size_t *n_bytes;    /* [n] */
    int *slot;          /* [n_slots] open addressing, a power of two: number + 1, 0: free */
    int n, cap_at, cap_bytes, n_slots;
} intern;

/* The key's number; *is_new (may be NULL) says whether this is its first sight. -1: no memory. */
int intern_add(intern *table, const void *key, size_t n_bytes, bool *is_new);
/* The number, or -1 when the key has not been added. */
int intern_find(const intern *table, const void *key, size_t n_bytes);
/* The bytes of key i, ended by 0; valid until the next intern_add. */
const char *intern_key(const intern *table, int i);
void intern_free(intern *table);
#endif
