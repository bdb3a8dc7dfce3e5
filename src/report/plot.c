/* plot.c - see plot.h.
 *
 * gnuplot draws with placeholder colours (#0101NN), which are replaced by CSS variables, so that one drawing serves
 * light and dark. The script goes in through a temporary file, the SVG comes back through a pipe. */
#include "report/plot.h"
#include "report/html.h"
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SERIES = 16 }; /* placeholder of the first series */

static const char head[] =
    "set terminal svg size 560,%d dynamic noenhanced font 'sans-serif,14' name '%s' background rgb '#010199'\n"
    "set border 3 lc rgb '#010100'\nset tics nomirror textcolor rgb '#010100'\n"
    "set grid y lc rgb '#010101'\nset key textcolor rgb '#010100' outside top horizontal left\n"
    "set xlabel textcolor rgb '#010100'\nset ylabel textcolor rgb '#010100'\n";

plot plot_begin(const char *name, int height_px) {
    plot p = {.name = name};
    text_printf(&p.script, head, height_px, name);
    return p;
}

void plot_drop(plot *p) {
    text_free(&p->script);
}

void plot_quote(text *script, const char *s) {
    text_puts(script, "'");
    for (; *s; s++) {
        if ((unsigned char)*s >= ' ')
            text_append(script, *s == '\'' ? "\"" : s, 1);
    }
    text_puts(script, "'");
}

const char *plot_colour(int i, char out[16]) {
    snprintf(out, 16, "'#0101%02x'", i > 0 ? (unsigned)(SERIES + (i - 1) % PLOT_COLOURS) : 0u);
    return out;
}

/* ---- gnuplot ---- */

static bool write_script(const text *script, char path[]) {
    int fd = mkstemp(path);
    if (fd < 0)
        return false;
    bool ok = write(fd, script->bytes, script->n) == (ssize_t)script->n;
    return close(fd) == 0 && ok;
}

/* Starts gnuplot; its standard output is *from. */
static bool start(const char *path, pid_t *child, int *from) {
    extern char **environ;
    int ends[2];
    posix_spawn_file_actions_t actions;
    if (pipe2(ends, O_CLOEXEC))
        return false;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
    posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
    bool ok = posix_spawnp(child, "gnuplot", &actions, NULL, (char *[]){"gnuplot", (char *)path, NULL}, environ) == 0;
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    *from = ends[0];
    if (!ok)
        close(ends[0]);
    return ok;
}

static bool run_gnuplot(const text *script, text *out) {
    char path[] = "/tmp/pleat-plot-XXXXXX", part[4096];
    pid_t child;
    int from, status = 1;
    bool ok = write_script(script, path) && start(path, &child, &from);
    if (ok) {
        for (ssize_t n; (n = read(from, part, sizeof(part))) > 0 || (n < 0 && errno == EINTR);)
            text_append(out, part, n > 0 ? (size_t)n : 0);
        close(from);
        while (waitpid(child, &status, 0) < 0 && errno == EINTR)
            ;
        ok = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    }
    unlink(path);
    return ok && out->n > 0 && !out->failed;
}

/* ---- its SVG ---- */

/* A placeholder colour ("#0101NN" or "rgb(  1,   1, NN)") at `at`: its length, 0: none. */
static int placeholder(const char *at, unsigned *index) {
    unsigned r = 0, g = 0;
    int n = 0;
    if (*at == '#' && sscanf(at, "#%2x%2x%2x%n", &r, &g, index, &n) == 3 && n == 7 && r == 1 && g == 1)
        return n;
    n = 0;
    if (*at == 'r' && sscanf(at, "rgb( %u , %u , %u )%n", &r, &g, index, &n) == 3 && n && r == 1 && g == 1)
        return n;
    return 0;
}

/* What else is changed inside an SVG; "%" stands for the drawing's name. Namespaces are known to a page by themselves;
 * marks are named by each drawing for itself; gnuplot's titles would pop up as tips over the whole drawing. */
static const struct {
    const char *from, *until /* NULL: from alone */, *to;
} changes[] = {
    {" xmlns=", "svg\"", ""},         {" xmlns:xlink=", "xlink\"", ""},
    {"xlink:href", NULL, "href"},     {"gpPt", NULL, "%-pt"},
    {"gpDot", NULL, "%-dot"},         {"'textbox'", NULL, "'%-textbox'"},
    {"#textbox", NULL, "#%-textbox"}, {"'greybox'", NULL, "'%-greybox'"},
    {"#greybox", NULL, "#%-greybox"}, {"gnuplot_canvas", NULL, "%-canvas"},
    {"<title>", "</title>", ""},      {"<desc>", "</desc>", ""},
};

static void put_named(text *page, const char *s, const char *name) {
    for (; *s; s++)
        if (*s == '%')
            text_puts(page, name);
        else
            text_append(page, s, 1);
}

/* Applies a change at `at`; returns how many bytes it took, 0: none applies. */
static size_t change(const char *at, const char *name, text *page) {
    for (size_t i = 0; i < sizeof(changes) / sizeof(*changes); i++) {
        size_t n = strlen(changes[i].from);
        if (strncmp(at, changes[i].from, n))
            continue;
        const char *end = changes[i].until ? strstr(at + n, changes[i].until) : at + n;
        if (!end)
            continue;
        put_named(page, changes[i].to, name);
        return (size_t)(end - at) + (changes[i].until ? strlen(changes[i].until) : 0);
    }
    return 0;
}

static bool put_svg(const text *svg, const char *name, const char *title, text *page) {
    const char *at = strstr(svg->bytes, "<svg"); /* after the XML head */
    if (!at)
        return false;
    text_puts(page, "<div class=\"plot\" tabindex=\"0\" role=\"img\" aria-label=\"");
    html_text(page, title);
    text_puts(page, "\">");
    while (*at) {
        unsigned index = 0;
        size_t n = (size_t)placeholder(at, &index);
        if (n)
            text_printf(page, "var(--p%02x)", index);
        else if (!(n = change(at, name, page)))
            text_append(page, at, n = 1);
        at += n;
    }
    text_puts(page, "</div>\n");
    return true;
}

bool plot_draw(plot *p, const char *title, text *page) {
    text svg = {0};
    bool ok = !p->script.failed && run_gnuplot(&p->script, &svg) && put_svg(&svg, p->name, title, page);
    text_free(&svg);
    plot_drop(p);
    return ok;
}
