/* verdict.c - the plain words on top of the page. Every number in them stands in one of the page's tables; the
 * thresholds that choose the words are printed below them.
 *
 * The place is the largest measured one: the longest prompt, then the largest batch, at which f16 and at least one
 * other method were measured. */
#include "report/figures.h"
#include "report/html.h"
#include <math.h>
#include <string.h>

#define KL_SMALL     0.01
#define KL_LARGE     0.1
#define AGREE_LOW    0.9
#define LONGER_SHARE 0.1

enum { MOST_PARAGRAPHS = 8 }; /* a study of more methods has them folded, under one table */

typedef struct place {
    int batch, prompt;
} place;

static bool largest_place(const figures *f, place *out) {
    figures_speed speed;
    for (int i = f->n_prompt - 1; i >= 0; i--)
        for (int k = f->n_batch - 1; k >= 0; k--)
            for (int m = 1; m < f->n_labels; m++)
                if (figures_speed_of(f, f->label[m], f->batch[k], f->prompt[i], "decode", &speed)) {
                    *out = (place){f->batch[k], f->prompt[i]};
                    return true;
                }
    return false;
}

static void say_place(place at, text *page) {
    char n[32];
    text_printf(page, "at batch %d and %s tokens", at.batch, html_count(at.prompt, n));
}

static void say_name(const char *label, text *page) {
    text_puts(page, "<b class=\"name\">");
    html_text(page, label);
    text_puts(page, "</b>");
}

/* ---- what the figures say of one method ---- */

static void say_cells(const figures_cells *c, text *page) {
    char low[16], high[16];
    text_printf(page, "%s to %s over the %d measured cells, faster in %d and slower in %d", html_times(c->lowest, low),
                html_times(c->highest, high), c->n, c->n_faster, c->n_slower);
}

static void say_decode(const figures *f, const char *label, place at, text *page) {
    static const char *const words[] = {
        [FIGURES_SAME] = "Decode does not differ from f16 beyond the noise",
        [FIGURES_FASTER] = "Decodes <b>faster</b> than f16",
        [FIGURES_SLOWER] = "Decodes <b>slower</b> than f16",
        [FIGURES_UNSURE] = "Decode was timed once, so that its noise is not known",
    };
    figures_speed speed;
    char times[16];
    figures_cells c = figures_cells_of(f, label, "decode");
    if (!figures_speed_of(f, label, at.batch, at.prompt, "decode", &speed)) {
        const store_point *p = figures_any(f, label, at.batch, at.prompt, "decode");
        text_puts(page, p && p->error ? "<li>Decode could not be measured " : "<li>Decode was not measured ");
        say_place(at, page);
    } else {
        text_printf(page, "<li>%s: <b>%s</b> ", words[speed.verdict], html_times(speed.ratio, times));
        say_place(at, page);
        double spread = fmax(speed.point->spread, speed.base->spread);
        if (speed.verdict == FIGURES_SAME)
            text_printf(page, " (repeats spread by %.0f %%)", 100 * spread);
    }
    if (c.n > 1) {
        text_puts(page, "; ");
        say_cells(&c, page);
    }
    text_puts(page, ".</li>\n");
}

static void say_prefill(const figures *f, const char *label, text *page) {
    figures_cells c = figures_cells_of(f, label, "prefill");
    if (!c.n_faster && !c.n_slower)
        return;
    text_puts(page, "<li>Reads prompts at ");
    say_cells(&c, page);
    text_puts(page, ".</li>\n");
}

static void say_memory(const figures *f, const char *label, place at, text *page) {
    double share = figures_share(f, label, at.batch, at.prompt);
    char times[16];
    if (share <= 0)
        return;
    text_printf(page, "<li>Holds <b>%s the requests</b> in the same memory ", html_times(1 / share, times));
    say_place(at, page);
    text_printf(page, " (%.0f %% of f16's bytes).</li>\n", 100 * share);
}

/* Cells that the method was measured in and f16 had no room for. */
static void say_room(const figures *f, const char *label, text *page) {
    int n = 0;
    place largest = {0, 0};
    for (int i = 0; i < f->n_prompt; i++)
        for (int k = 0; k < f->n_batch; k++) {
            const store_point *base = figures_any(f, "f16", f->batch[k], f->prompt[i], "decode");
            if (!base || !base->error || !figures_point(f, label, f->batch[k], f->prompt[i], "decode"))
                continue;
            n++;
            largest = (place){f->batch[k], f->prompt[i]};
        }
    if (!n)
        return;
    text_printf(page, "<li>Ran in %d cell%s where f16 could not be measured, the largest ", n, n > 1 ? "s" : "");
    say_place(largest, page);
    text_puts(page, ".</li>\n");
}

static const char *quality_words(double kl) {
    return kl < KL_SMALL   ? "hardly changes the model"
           : kl < KL_LARGE ? "changes the model visibly"
                           : "changes the model a lot";
}

static void say_quality(const figures_quality *q, text *page) {
    if (!q)
        return;
    text_printf(page, "<li>It %s: KL %.4f, another next token at %.1f %% of positions.</li>\n",
                quality_words(q->result.kl_mean), q->result.kl_mean, 100 * (1 - q->result.top1_agreement));
}

static void say_lengths(const figures *f, const char *label, text *page) {
    figures_lengths l;
    figures_lengths_of(f, label, &l);
    if (!l.n)
        return;
    if (!l.n_acted) {
        text_printf(page, "<li>It never acted within the %d answers, so their lengths say nothing about it.</li>\n",
                    l.n);
        return;
    }
    text_printf(page,
                "<li>Its answers are %.2f times as long as f16's in the mean; %.0f %% of %d grew to 1.5 times and more",
                l.mean, 100 * l.share_longer, l.n);
    if (l.n_capped)
        text_printf(page, " (%d pairs met the limit of new tokens)", l.n_capped);
    text_puts(page, ".</li>\n");
}

/* What the figures speak against: "Avoid it where ... and where ...", or nothing. */
static void say_avoid(const figures *f, const char *label, text *page) {
    const figures_quality *q = figures_quality_of(f, label);
    figures_cells c = figures_cells_of(f, label, "decode");
    figures_lengths l;
    char times[16];
    int n = 0;
    text reason[3] = {{0}};
    figures_lengths_of(f, label, &l);
    if (q && q->result.top1_agreement < AGREE_LOW)
        text_puts(&reason[n++], "where answers must stay what they are");
    if (l.n_acted && l.share_longer > LONGER_SHARE)
        text_puts(&reason[n++], "where every token of an answer costs");
    if (c.n_slower == c.n && c.n > 0) {
        text_puts(&reason[n++], "where speed counts");
    } else if (c.n_slower) {
        text_puts(&reason[n], "where speed counts ");
        say_place((place){c.slowest_batch, c.slowest_prompt}, &reason[n]);
        text_printf(&reason[n++], " (%s)", html_times(c.slowest_ratio, times));
    }
    for (int i = 0; i < n; i++) {
        text_puts(page, i == 0 ? " Avoid it " : i + 1 == n ? " and " : ", ");
        text_puts(page, reason[i].bytes ? reason[i].bytes : "");
        text_free(&reason[i]);
    }
    text_puts(page, n ? "." : "");
}

static void say_method(const figures *f, const char *label, place at, text *page) {
    text_puts(page, "<li>");
    say_name(label, page);
    text_puts(page, "\n<ul>\n");
    say_decode(f, label, at, page);
    say_prefill(f, label, page);
    say_memory(f, label, at, page);
    say_room(f, label, page);
    say_quality(figures_quality_of(f, label), page);
    say_lengths(f, label, page);
    text_puts(page, "</ul>\n");
    text avoid = {0};
    say_avoid(f, label, &avoid);
    if (avoid.n)
        text_printf(page, "<p class=\"avoid\">%s</p>\n", avoid.bytes + 1);
    page->failed = page->failed || avoid.failed;
    text_free(&avoid);
    text_puts(page, "</li>\n");
}

/* ---- the headline ---- */

/* The fastest of the methods that are faster than f16 beyond the noise, among those that change the model by less than
 * `most_kl` (INFINITY: whether that was measured or not); NULL: none. */
static const char *fastest(const figures *f, place at, double most_kl, figures_speed *out) {
    const char *found = NULL;
    for (int i = 1; i < f->n_labels; i++) {
        figures_speed speed;
        const figures_quality *q = figures_quality_of(f, f->label[i]);
        if (!figures_speed_of(f, f->label[i], at.batch, at.prompt, "decode", &speed) ||
            speed.verdict != FIGURES_FASTER || (most_kl < INFINITY && !(q && q->result.kl_mean < most_kl)))
            continue;
        if (!found || speed.ratio > out->ratio) {
            found = f->label[i];
            *out = speed;
        }
    }
    return found;
}

/* The one that holds the most requests with a KL below most_kl; NULL: none holds more than f16. */
static const char *smallest(const figures *f, place at, double most_kl) {
    const char *found = NULL;
    double least = 0.97;
    for (int i = 1; i < f->n_labels; i++) {
        const figures_quality *q = figures_quality_of(f, f->label[i]);
        double share = figures_share(f, f->label[i], at.batch, at.prompt);
        if (share > 0 && share < least && (most_kl == INFINITY || (q && q->result.kl_mean < most_kl))) {
            least = share;
            found = f->label[i];
        }
    }
    return found;
}

/* "NAME decodes 1.60x as fast as f16, holds 3.00x the requests and hardly changes the model (KL 0.0012)" */
static void say_short(const figures *f, const char *label, place at, const figures_speed *speed, text *page) {
    char a[16], b[16];
    double share = figures_share(f, label, at.batch, at.prompt);
    const figures_quality *q = figures_quality_of(f, label);
    say_name(label, page);
    if (speed)
        text_printf(page, " decodes %s as fast as f16%s", html_times(speed->ratio, a),
                    share <= 0 ? ""
                    : q        ? ","
                               : " and");
    if (share > 0)
        text_printf(page, " holds %s the requests", html_times(1 / share, b));
    if (q)
        text_printf(page, " and %s (KL %.4f)", quality_words(q->result.kl_mean), q->result.kl_mean);
}

/* Nobody is faster beyond the noise at this place, as far as repeats can tell. */
static void say_none_faster(const figures *f, place at, text *page) {
    const char *small = smallest(f, at, KL_LARGE);
    int n = 0, n_unsure = 0;
    const char *only = NULL;
    figures_speed speed;
    small = small ? small : smallest(f, at, INFINITY);
    for (int i = 1; i < f->n_labels; i++)
        if (figures_speed_of(f, f->label[i], at.batch, at.prompt, "decode", &speed)) {
            only = f->label[i];
            n++;
            n_unsure += speed.verdict == FIGURES_UNSURE;
        }
    if (n_unsure) {
        text_puts(page, "nothing can be said about speed, because rates were timed only once");
    } else if (n == 1) {
        say_name(only, page);
        text_puts(page, " was not seen to decode faster than f16 beyond the noise");
    } else {
        text_puts(page, "no method was seen to decode faster than f16 beyond the noise");
    }
    if (small) {
        text_puts(page, "; what compression saves here is memory: ");
        say_short(f, small, at, NULL, page);
    }
    text_puts(page, ".");
}

static void headline(const figures *f, place at, text *page) {
    figures_speed speed, gentle_speed;
    const char *fast = fastest(f, at, INFINITY, &speed), *gentle = fastest(f, at, KL_LARGE, &gentle_speed);
    char n[32];
    text_printf(page, "<p class=\"lead\">At batch %d and %s tokens, ", at.batch, html_count(at.prompt, n));
    if (!fast) {
        say_none_faster(f, at, page);
    } else {
        const char *first = gentle ? gentle : fast;
        text_puts(page, "compression pays in speed: ");
        say_short(f, first, at, gentle ? &gentle_speed : &speed, page);
        text_puts(page, ".");
        say_avoid(f, first, page);
        if (first != fast) {
            text_puts(page, " Faster still: ");
            say_short(f, fast, at, &speed, page);
            text_puts(page, ".");
        }
    }
    text_puts(page, "</p>\n");
}

void verdict_write(const figures *f, text *page) {
    place at;
    if (!largest_place(f, &at)) {
        text_puts(page, "<p class=\"lead\">Nothing can be said about speed and memory: no method was measured beside "
                        "f16.</p>\n");
        at = (place){0, 0};
    } else {
        headline(f, at, page);
    }
    if (f->n_labels < 2)
        return;
    bool many = f->n_labels - 1 > MOST_PARAGRAPHS;
    if (many) {
        glance_write(f, at.batch, at.prompt, page);
        html_fold(page, "Method by method");
    }
    text_puts(page, "<ul class=\"verdicts\">\n");
    for (int i = 1; i < f->n_labels; i++)
        say_method(f, f->label[i], at, page);
    text_puts(page, "</ul>\n");
    if (many)
        html_fold_end(page);
    html_note(
        page,
        "How the words are chosen. Faster or slower: all repeats lie on one side of all of f16's, and the medians "
        "differ by more than %.0f %%. Hardly: KL below %.2f; a lot: from %.1f on. Answers must stay what they "
        "are: fewer than %.0f %% of next tokens are f16's. Every token costs: more than %.0f %% of answers grew "
        "to 1.5 times.",
        100 * FIGURES_LEAST_DIFFERENCE, KL_SMALL, KL_LARGE, 100 * AGREE_LOW, 100 * LONGER_SHARE);
}
