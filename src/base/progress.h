/* progress.h - a bar with time left on stderr: only on a terminal, only after two seconds of work. */
#ifndef BASE_PROGRESS_H
#define BASE_PROGRESS_H
typedef struct progress {
    const char *label;
    double total, started, drawn;
    int shown;
} progress;
void progress_begin(progress *p, const char *label, double total);
void progress_update(progress *p, double done, const char *detail); /* detail may be NULL */
void progress_end(progress *p);
#endif
