/* merge.c - joins neighbouring symbols, best pair first: the loop that byte-level BPE and SPM share.
 *
 * Symbols are a doubly linked list over one text, in an array. Every pair of neighbours that may join waits in a binary
 * heap under its key (BPE: the rank of the merge; SPM: the negative score of the joined token), equal keys by place
 * from the left. An entry is stale when one of its halves has been swallowed or has grown since; a symbol only ever
 * grows, so comparing the bytes of both halves with those at the time of the push finds that. Each join pushes at most
 * two entries: O(n log n). */
#include "text/vocab.h"
#include <assert.h>
#include <stdlib.h>

static bool grow(void **array, int *cap, int n, size_t size_bytes) {
    if (n <= *cap)
        return true;
    const int wanted = *cap < 32 ? 64 : *cap > INT32_MAX / 2 ? INT32_MAX : *cap * 2;
    const int next = wanted < n ? n : wanted;
    size_t bytes;
    if (__builtin_mul_overflow((size_t)next, size_bytes, &bytes))
        return false;
    void *moved = realloc(*array, bytes);
    if (!moved)
        return false;
    *array = moved;
    *cap = next;
    return true;
}

void id_list_push(id_list *list, int32_t id) {
    if (list->failed || list->n == INT32_MAX ||
        !grow((void **)&list->ids, &list->cap, list->n + 1, sizeof *list->ids)) {
        list->failed = true;
        return;
    }
    list->ids[list->n++] = id;
}

static bool before(const merge_entry *a, const merge_entry *b) {
    return a->key < b->key || (a->key == b->key && a->left < b->left);
}

bool merge_heap_push(merge_heap *heap, merge_entry entry) {
    if (heap->n == INT32_MAX || !grow((void **)&heap->entry, &heap->cap, heap->n + 1, sizeof *heap->entry))
        return false;
    int i = heap->n++;
    while (i > 0 && before(&entry, &heap->entry[(i - 1) / 2])) {
        heap->entry[i] = heap->entry[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap->entry[i] = entry;
    return true;
}

merge_entry merge_heap_pop(merge_heap *heap) {
    assert(heap->n > 0);
    const merge_entry top = heap->entry[0], last = heap->entry[--heap->n];
    int64_t i = 0;
    for (;;) {
        int64_t child = 2 * i + 1;
        if (child >= heap->n)
            break;
        if (child + 1 < heap->n && before(&heap->entry[child + 1], &heap->entry[child]))
            child++;
        if (!before(&heap->entry[child], &last))
            break;
        heap->entry[i] = heap->entry[child];
        i = child;
    }
    heap->entry[i] = last;
    return top;
}

bool merge_add(merge *m, int at, int n, int32_t id) {
    if (m->n == INT32_MAX || !grow((void **)&m->symbol, &m->cap, m->n + 1, sizeof *m->symbol))
        return false;
    m->symbol[m->n] = (merge_symbol){.at = at, .n = n, .prev = m->n - 1, .next = -1, .id = id};
    if (m->n > 0)
        m->symbol[m->n - 1].next = m->n;
    m->n++;
    return true;
}

static bool offer(merge *m, merge_join join, const void *context, int left, int right) {
    if (left < 0 || right < 0)
        return true;
    const merge_symbol *l = &m->symbol[left], *r = &m->symbol[right];
    merge_entry entry = {.left = left, .right = right, .n_bytes = l->n + r->n};
    return !join(context, l, r, &entry.key, &entry.id) || merge_heap_push(&m->heap, entry);
}

bool merge_run(merge *m, merge_join join, const void *context) {
    m->heap.n = 0;
    for (int i = 1; i < m->n; i++)
        if (!offer(m, join, context, i - 1, i))
            return false;
    while (m->heap.n > 0) {
        const merge_entry top = merge_heap_pop(&m->heap);
        merge_symbol *l = &m->symbol[top.left], *r = &m->symbol[top.right];
        if (l->n == 0 || r->n == 0 || l->n + r->n != top.n_bytes)
            continue;
        l->n = top.n_bytes;
        l->id = top.id;
        l->next = r->next;
        r->n = 0;
        if (r->next >= 0)
            m->symbol[r->next].prev = top.left;
        if (!offer(m, join, context, l->prev, top.left) || !offer(m, join, context, top.left, l->next))
            return false;
    }
    return true;
}

void merge_free(merge *m) {
    free(m->symbol);
    free(m->heap.entry);
    *m = (merge){0};
}
