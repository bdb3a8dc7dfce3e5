/* progress.c - one line that is drawn over itself on stderr: label, bar, share, time left, detail. The one place beside
 * the command line that prints; it is silent unless stderr is a terminal and the work takes over two seconds. */
#include "base/progress.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"

enum { bar_cells = 24 };
static const double quiet_seconds = 2.0, redraw_seconds = 0.1;

static int terminal_columns(void) {
    struct winsize size;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

static void format_left(double seconds, char *out, size_t n) {
    long s = seconds < 359999 ? (long)(seconds + 0.5) : 359999;
    if (s >= 3600)
        snprintf(out, n, "%ld:%02ld:%02ld left", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(out, n, "%ld:%02ld left", s / 60, s % 60);
}

void progress_begin(progress *p, const char *label, double total) {
    *p =
        (progress){.label = label, .total = total, .started = clock_seconds(), .shown = isatty(STDERR_FILENO) ? 0 : -1};
    p->drawn = p->started + quiet_seconds - redraw_seconds;
}

void progress_update(progress *p, double done, const char *detail) {
    double now = clock_seconds();
    if (p->shown < 0 || now - p->drawn < redraw_seconds)
        return;
    p->drawn = now;
    p->shown = 1;
    double share = p->total > 0 ? done / p->total : 0;
    if (!(share >= 0))
        share = 0;
    if (share > 1)
        share = 1;
    char bar[bar_cells + 1], left[32] = "", line[512];
    int filled = (int)(share * bar_cells);
    memset(bar, '-', bar_cells);
    memset(bar, '#', (size_t)filled);
    bar[bar_cells] = 0;
    if (share > 0)
        format_left((now - p->started) * (1 - share) / share, left, sizeof left);
    int n = snprintf(line, sizeof line, "%s [%s] %3d%% %s%s%s", p->label, bar, (int)(100 * share), left,
                     detail && *detail ? "  " : "", detail ? detail : "");
    int columns = terminal_columns() - 1;
    if (n >= (int)sizeof line)
        n = (int)sizeof line - 1;
    if (n > columns)
        n = columns > 0 ? columns : 0;
    while (n > 0 && ((unsigned char)line[n] & 0xC0) == 0x80)
        n--;
    fprintf(stderr, "\r%.*s\033[K", n, line);
    fflush(stderr);
}

void progress_end(progress *p) {
    if (p->shown == 1) {
        fputs("\r\033[K", stderr);
        fflush(stderr);
    }
    p->shown = -1;
}
