/* json.c - see json.h: jansson allocates by a function that notes, per thread, when it fails. */
#include "serve/json.h"
#include <stdlib.h>

static _Thread_local bool failed;

static void *take(size_t n) {
    void *p = malloc(n);
    failed |= !p;
    return p;
}

void json_watch(void) {
    json_set_alloc_funcs(take, free);
}

void json_begin(void) {
    failed = false;
}

bool json_ran_out(void) {
    return failed;
}
