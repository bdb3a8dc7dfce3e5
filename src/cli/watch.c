/* watch.c - see watch.h. */
#include "cli/watch.h"
#include <signal.h>
#include <string.h>
#include <unistd.h>

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

static const char *last_words;

static void stop(int signal_number) {
    ssize_t n = write(STDERR_FILENO, last_words, strlen(last_words));
    (void)n;
    _exit(128 + signal_number);
}

void watch_interrupts(const char *say) {
    struct sigaction action = {.sa_handler = stop};
    last_words = say;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
}
