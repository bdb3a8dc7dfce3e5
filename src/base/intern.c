/* intern.c - see intern.h: a hash table with linear probing, at most half full. */
#include "base/intern.h"
#include "base/hash.h"
#include "base/memory.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* The slot that holds the key, or the free one where it belongs. n_slots > n. */
static int *place(const intern *t, const void *key, size_t n_bytes) {
    size_t mask = (size_t)t->n_slots - 1, i = (size_t)hash_bytes(key, n_bytes, 0) & mask;
    for (;; i = (i + 1) & mask) {
        int number = t->slot[i] - 1;
        if (number < 0 || (t->n_bytes[number] == n_bytes && !memcmp(t->bytes.bytes + t->at[number], key, n_bytes)))
            return &t->slot[i];
    }
}

static bool grow(intern *t) {
    if (2 * (size_t)(t->n + 1) <= (size_t)t->n_slots)
        return true;
    if (t->n_slots > INT32_MAX / 4)
        return false;
    intern wider = *t;
    wider.n_slots = t->n_slots ? 2 * t->n_slots : 64;
    wider.slot = calloc((size_t)wider.n_slots, sizeof(*wider.slot));
    if (!wider.slot)
        return false;
    for (int i = 0; i < t->n; i++)
        *place(&wider, t->bytes.bytes + t->at[i], t->n_bytes[i]) = i + 1;
    free(t->slot);
    *t = wider;
    return true;
}

int intern_find(const intern *t, const void *key, size_t n_bytes) {
    return t->n_slots ? *place(t, key, n_bytes) - 1 : -1;
}

int intern_add(intern *t, const void *key, size_t n_bytes, bool *is_new) {
    int found = intern_find(t, key, n_bytes);
    if (is_new)
        *is_new = found < 0;
    if (found >= 0)
        return found;
    if (!grow(t) || !mem_grow(&t->at, &t->cap_at, t->n + 1, sizeof(*t->at)) ||
        !mem_grow(&t->n_bytes, &t->cap_bytes, t->n + 1, sizeof(*t->n_bytes)))
        return -1;
    size_t at = t->bytes.n;
    text_append(&t->bytes, key, n_bytes);
    text_append(&t->bytes, "", 1);
    if (t->bytes.failed)
        return -1;
    t->at[t->n] = at;
    t->n_bytes[t->n] = n_bytes;
    *place(t, key, n_bytes) = t->n + 1;
    return t->n++;
}

const char *intern_key(const intern *t, int i) {
    return t->bytes.bytes + t->at[i];
}

void intern_free(intern *t) {
    text_free(&t->bytes);
    free(t->at);
    free(t->n_bytes);
    free(t->slot);
    *t = (intern){0};
}
