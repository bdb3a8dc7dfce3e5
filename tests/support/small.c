/* small.c - see small.h. */
#include "small.h"
#include <stdio.h>
#include <string.h>

enum { LARGE = 128 };

/* What keeps a method from acting in a short run whatever its budget: layers left out, a layer's share of attention,
 * steps between two cuts. */
static const struct {
    const char *name;
    double value;
} acting[] = {{"skip", 0}, {"threshold", 0}, {"every", 8}, {"buffer", 8}};

static double small_value(const kv_param *p, int parts) {
    for (size_t i = 0; i < sizeof(acting) / sizeof(*acting); i++)
        if (!strcmp(p->name, acting[i].name) && acting[i].value >= p->low)
            return acting[i].value;
    bool large = p->integer && p->fallback >= LARGE && p->fallback / parts >= p->low;
    return large ? p->fallback / parts : p->fallback;
}

static void write_value(const kv_param *p, int parts, char *out, size_t cap) {
    if (p->choices) {
        const char *at = p->choices;
        for (int i = 0; i < (int)p->fallback; i++)
            at = strchr(at, '|') + 1;
        snprintf(out, cap, "%.*s", (int)strcspn(at, "|"), at);
        return;
    }
    snprintf(out, cap, "%.9g", small_value(p, parts));
}

void small_part(const char *name, const kv_param *params, int parts, char *out, size_t cap) {
    size_t n = (size_t)snprintf(out, cap, "%s", name);
    kv_method method;
    for (int i = 0; params && params[i].name && n < cap; i++) {
        char value[40];
        write_value(&params[i], parts, value, sizeof(value));
        n += (size_t)snprintf(out + n, cap - n, "%s%s=%s", i ? "," : ":", params[i].name, value);
    }
    if (n >= cap || kv_method_parse(out, NULL, &method, NULL))
        snprintf(out, cap, "%s", name);
}
