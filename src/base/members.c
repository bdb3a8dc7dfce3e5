/* members.c - see members.h. There are no more members than requests wait and run: a list is enough. */
#include "base/members.h"
#include <stdlib.h>
#include <string.h>

member *members_find(member *first, const char *name) {
    while (first && strcmp(first->name, name))
        first = first->next;
    return first;
}

member *members_find_or_make(member **first, const char *name, size_t bytes) {
    member *m = members_find(*first, name);
    size_t n = strlen(name) + 1;
    if (m || !(m = calloc(1, bytes + n)))
        return m;
    m->name = memcpy((char *)m + bytes, name, n);
    m->next = *first;
    return *first = m;
}

void members_sweep(member **first) {
    for (member **at = first; *at;) {
        member *m = *at;
        if (atomic_load(&m->n_users)) {
            at = &m->next;
            continue;
        }
        *at = m->next;
        free(m);
    }
}
