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
/* From now on Ctrl-C (and the terminal's going away) ends the program with `say` on stderr. What was measured is in the
 * store already, so nothing else has to be done. */
void watch_interrupts(const char *say);
#endif
