/* watch.h - a measurement's progress as a bar on stderr. */
#ifndef CLI_WATCH_H
#define CLI_WATCH_H
#include "base/progress.h"
#include "measure/measure.h"

typedef struct watch {
    progress bar;
    bool begun;
    const char *label;
} watch;
/* Of a bar named `label`; call watch_end when the work is over. */
measure_watch watch_of(watch *w, const char *label);
void watch_end(watch *w);
#endif
