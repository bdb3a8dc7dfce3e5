/* small.c - see small.h. */
#include "small.h"
#include <stdio.h>
#include <string.h>

enum { LARGE = 256, PARTS = 4 };

static void write_value(const kv_param *p, char *out, size_t cap) {
    if (p->choices) {
        const char *at = p->choices;
        for (int i = 0; i < (int)p->fallback; i++)
            at = strchr(at, '|') + 1;
        snprintf(out, cap, "%.*s", (int)strcspn(at, "|"), at);
        return;
    }
    bool large = p->integer && p->fallback >= LARGE && p->fallback / PARTS >= p->low;
    snprintf(out, cap, "%.9g", large ? p->fallback / PARTS : p->fallback);
}

void small_part(const char *name, const kv_param *params, char *out, size_t cap) {
    size_t n = (size_t)snprintf(out, cap, "%s", name);
    kv_method method;
    for (int i = 0; params && params[i].name && n < cap; i++) {
        char value[40];
        write_value(&params[i], value, sizeof(value));
        n += (size_t)snprintf(out + n, cap - n, "%s%s=%s", i ? "," : ":", params[i].name, value);
    }
    if (n >= cap || kv_method_parse(out, NULL, &method, NULL))
        snprintf(out, cap, "%s", name);
}
