/* plot.c - plots by gnuplot, as SVG inside the page.
 *
 * gnuplot draws with placeholder colours (#0101NN), which are replaced by CSS variables, so that one drawing serves
 * light and dark. Data goes in through a temporary script; when gnuplot is missing or fails the page goes without (its
 * tables hold the same figures). */
#include "report/figures.h"
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { N_COLOURS = 8 };

static const char head[] =
    "set terminal svg size 720,%d dynamic font 'sans-serif,13' name '%s' background rgb '#010199'\n"
    "set border 3 lc rgb '#010100'\nset tics nomirror textcolor rgb '#010100'\n"
    "set grid y lc rgb '#010101'\nset key textcolor rgb '#010100' outside top horizontal left\n"
    "set xlabel textcolor rgb '#010100'\nset ylabel textcolor rgb '#010100'\n";

/* Runs gnuplot on a script; its output is appended to out. */
static bool run_gnuplot(const text *script, text *out) {
    char path[] = "/tmp/pleat-plot-XXXXXX";
    int fd = mkstemp(path), pipe_end[2];
    extern char **environ;
    if (fd < 0)
        return false;
    bool ok = write(fd, script->bytes, script->n) == (ssize_t)script->n && pipe(pipe_end) == 0;
    close(fd);
    if (ok) {
        posix_spawn_file_actions_t actions;
        pid_t child;
        posix_spawn_file_actions_init(&actions);
        posix_spawn_file_actions_adddup2(&actions, pipe_end[1], 1);
        posix_spawn_file_actions_addclose(&actions, pipe_end[0]);
        posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
        ok = posix_spawnp(&child, "gnuplot", &actions, NULL, (char *[]){"gnuplot", path, NULL}, environ) == 0;
        posix_spawn_file_actions_destroy(&actions);
        close(pipe_end[1]);
        char part[4096];
        for (ssize_t n; ok && (n = read(pipe_end[0], part, sizeof(part))) > 0;)
            text_append(out, part, (size_t)n);
        close(pipe_end[0]);
        int status = 1;
        ok = ok && waitpid(child, &status, 0) > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    }
    unlink(path);
    return ok && out->n > 0 && !out->failed;
}

/* "#0101NN" or "rgb(  1,   1, NN)" becomes var(--pNN); the XML head before <svg is dropped. */
static void put_svg(const text *svg, text *page) {
    const char *at = strstr(svg->bytes, "<svg");
    if (!at)
        return;
    text_puts(page, "<div class=plot>");
    while (*at) {
        int r, g, b, n = 0;
        const char *next = at;
        if (sscanf(at, "#%2x%2x%2x%n", (unsigned *)&r, (unsigned *)&g, (unsigned *)&b, &n) == 3 && n == 7 && r == 1 &&
            g == 1)
            next = at + n;
        else if (!strncmp(at, "rgb(", 4) && sscanf(at, "rgb( %d , %d , %d )%n", &r, &g, &b, &n) == 3 && n && r == 1 &&
                 g == 1)
            next = at + n;
        if (next > at)
            text_printf(page, "var(--p%02x)", (unsigned)b);
        else
            text_append(page, at, 1);
        at = next > at ? next : at + 1;
    }
    text_puts(page, "</div>\n");
}

static bool draw(text *script, text *page) {
    text svg = {0};
    bool ok = !script->failed && run_gnuplot(script, &svg);
    if (ok)
        put_svg(&svg, page);
    text_free(&svg);
    text_free(script);
    return ok;
}

/* A label inside a single-quoted gnuplot string, without enhanced-text marks. */
static void put_label(text *script, const char *label) {
    for (; *label; label++) {
        if (strchr("_^{}@&~\\", *label))
            text_puts(script, "\\");
        text_append(script, *label == '\'' ? "\"" : label, 1);
    }
}

bool plot_lengths(const figures *f, text *page) {
    text s = {0};
    figures_lengths l;
    int n = 0;
    double highest = 1.6;
    text_printf(&s, head, 320, "lengths");
    text_puts(&s, "set ylabel 'tokens, over f16'\nset yrange [0:*]\nunset key\nset arrow 1 from graph 0, first 1 to "
                  "graph 1, first 1 nohead "
                  "lc rgb '#010100' dt 2\nset xtics (");
    for (int i = 1; i < f->n_labels; i++) {
        text_puts(&s, i > 1 ? ", '" : "'");
        put_label(&s, f->label[i]);
        text_printf(&s, "' %d", i);
    }
    text_printf(&s, ")\nset xrange [0.4:%d.6]\n$all << EOD\n", f->n_labels - 1);
    for (int i = 1; i < f->n_labels; i++) {
        figures_lengths_of(f, f->label[i], &l);
        n += l.n;
        for (int k = 0; k < l.n; k++) { /* spread sideways by a fixed pattern so that equal values stay visible */
            text_printf(&s, "%.3f %.4f %d\n", i + (k * 37 % 41 - 20) / 80.0, l.ratio[k], 16 + i % N_COLOURS);
            highest = l.ratio[k] > highest ? l.ratio[k] : highest;
        }
    }
    text_puts(&s, "EOD\n$mean << EOD\n");
    for (int i = 1; i < f->n_labels; i++) {
        figures_lengths_of(f, f->label[i], &l);
        if (l.n)
            text_printf(&s, "%d %.4f\n", i, l.mean);
    }
    text_printf(&s, "EOD\nset yrange [0:%.2f]\nplot ", highest * 1.08);
    for (int i = 1; i < f->n_labels; i++)
        text_printf(&s, "$all using 1:($3==%d ? $2 : NaN) with points pt 7 ps 0.55 lc rgb '#0101%02x', ",
                    16 + i % N_COLOURS, 16 + i % N_COLOURS);
    text_puts(&s, "$mean using 1:2:(0.28) with xerrorbars pt -1 lw 3 lc rgb '#010100'\n");
    if (n == 0) {
        text_free(&s);
        return false;
    }
    return draw(&s, page);
}

bool plot_rates(const figures *f, text *page) {
    text s = {0};
    int batch = f->n_batch ? f->batch[f->n_batch - 1] : 0, n = 0;
    text_printf(&s, head, 360, "rates");
    text_printf(&s,
                "set xlabel 'tokens in the cache (batch %d)'\nset ylabel 'decode, tokens/s'\nset yrange [0:*]\nset "
                "logscale x 2\n",
                batch);
    for (int i = 0; i < f->n_labels; i++) {
        text_printf(&s, "$m%d << EOD\n", i);
        for (int k = 0; k < f->n_prompt; k++) {
            const store_point *p = figures_point(f, f->label[i], batch, f->prompt[k], "decode");
            if (!p)
                continue;
            double low = p->rate[0], high = p->rate[0];
            for (int r = 1; r < p->n_repeats; r++) {
                low = p->rate[r] < low ? p->rate[r] : low;
                high = p->rate[r] > high ? p->rate[r] : high;
            }
            text_printf(&s, "%d %.3f %.3f %.3f\n", f->prompt[k], p->median, low, high);
            n++;
        }
        text_puts(&s, "EOD\n");
    }
    text_puts(&s, "plot ");
    for (int i = 0, first = 1; i < f->n_labels; i++) {
        bool some = false;
        for (int k = 0; k < f->n_prompt; k++)
            some = some || figures_point(f, f->label[i], batch, f->prompt[k], "decode");
        if (!some)
            continue;
        text_printf(&s, "%s$m%d using 1:2:3:4 with yerrorlines pt 7 ps 0.5 lw 2 lc rgb '#0101%02x' title '",
                    first ? "" : ", ", i, i ? 16 + i % N_COLOURS : 0);
        put_label(&s, f->label[i]);
        text_puts(&s, "'");
        first = 0;
    }
    text_puts(&s, "\n");
    if (n < 2 || f->n_prompt < 2) {
        text_free(&s);
        return false;
    }
    return draw(&s, page);
}
