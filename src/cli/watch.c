/* watch.c - see watch.h. */
#include "cli/watch.h"

static void update(void *context, double done, double total, const char *detail) {
    watch *w = context;
    if (!w->begun)
        progress_begin(&w->bar, w->label, total);
    w->begun = true;
    progress_update(&w->bar, done, detail);
}

measure_watch watch_of(watch *w, const char *label) {
    *w = (watch){.label = label};
    return (measure_watch){update, w};
}

void watch_end(watch *w) {
    if (w->begun)
        progress_end(&w->bar);
}
