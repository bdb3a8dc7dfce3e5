/* verdict.c - the plain words on top of the page. Every number in them is one of the page's tables; the thresholds that
 * choose the words are printed at its end.
 *
 * The place is the largest measured one: the longest prompt, then the largest batch, at which f16 and at least one
 * other method were measured. */
#include "report/figures.h"
#include <math.h>
#include <string.h>

#define KL_SMALL     0.01
#define KL_LARGE     0.1
#define AGREE_LOW    0.9
#define LONGER_SHARE 0.1

typedef struct place {
    int batch, prompt;
} place;

static bool largest_place(const figures *f, place *out) {
    for (int i = f->n_prompt - 1; i >= 0; i--)
        for (int k = f->n_batch - 1; k >= 0; k--)
            for (int m = 1; m < f->n_labels; m++)
                if (figures_ratio(f, f->label[m], f->batch[k], f->prompt[i], "decode", NULL) > 0) {
                    *out = (place){f->batch[k], f->prompt[i]};
                    return true;
                }
    return false;
}

static const char *times(double x, char out[16]) {
    text t = {0};
    text_printf(&t, x >= 9.95 ? "%.0fx" : "%.1fx", x);
    if (x < 1.995 && x >= 0.0)
        t.n = 0, text_printf(&t, "%.2fx", x);
    strncpy(out, t.bytes ? t.bytes : "", 15);
    out[15] = 0;
    text_free(&t);
    return out;
}

static const char *speed_words(double ratio, double noise) {
    return ratio > 1 + noise ? "faster" : ratio < 1 - noise ? "slower" : "as fast within the noise";
}

/* ---- one method ---- */

static void say_speed(const figures *f, const char *label, place at, text *page) {
    char a[16], b[16];
    double noise, ratio = figures_ratio(f, label, at.batch, at.prompt, "decode", &noise);
    double holds = figures_holds(f, label, at.batch, at.prompt);
    if (ratio <= 0) {
        const store_point *p = figures_any(f, label, at.batch, at.prompt, "decode");
        text_printf(page,
                    p && p->error ? "could not be measured at batch %d and %d tokens. "
                                  : "was not measured at batch %d and %d tokens. ",
                    at.batch, at.prompt);
        return;
    }
    if (ratio > 1 - noise && ratio < 1 + noise)
        text_printf(page, "decodes as fast as f16 within the noise (%s, spread %.0f %%)", times(ratio, a), 100 * noise);
    else
        text_printf(page, "decodes <b>%s as fast</b> as f16", times(ratio, a));
    if (holds > 0)
        text_printf(page, " and holds <b>%s the requests</b> in the same memory", times(holds, b));
    text_puts(page, ". ");
}

static void say_quality(const store_quality *q, text *page) {
    if (!q)
        return;
    const char *much = q->kl_mean < KL_SMALL   ? "hardly changes the model"
                       : q->kl_mean < KL_LARGE ? "changes the model visibly"
                                               : "changes the model a lot";
    text_printf(page, "It %s (KL %.4f, another next token at %.1f %% of positions). ", much, q->kl_mean,
                100 * (1 - q->top1_agreement));
}

static void say_lengths(const figures *f, const char *label, text *page) {
    figures_lengths l;
    figures_lengths_of(f, label, &l);
    if (!l.n)
        return;
    text_printf(page, "Its answers are %.2f times as long in the mean; %.0f %% of %d grew to 1.5 times and more. ",
                l.mean, 100 * l.share_longer, l.n);
}

/* What the figures speak against; nothing when they do not. */
static void say_avoid(const figures *f, const char *label, place at, text *page) {
    const store_quality *q = figures_quality(f, label);
    figures_lengths l;
    double noise = 0, ratio = figures_ratio(f, label, at.batch, at.prompt, "decode", &noise);
    const char *reason[3];
    int n = 0;
    figures_lengths_of(f, label, &l);
    if (q && q->top1_agreement < AGREE_LOW)
        reason[n++] = "where answers must stay what they are";
    if (l.n && l.share_longer > LONGER_SHARE)
        reason[n++] = "where answers are paid by length";
    if (ratio > 0 && ratio < 1 - noise)
        reason[n++] = "where only speed counts";
    for (int i = 0; i < n; i++)
        text_printf(page, "%s%s", i == 0 ? "Avoid it " : i + 1 == n ? " and " : ", ", reason[i]);
    text_puts(page, n ? "." : "");
}

/* ---- the headline ---- */

static void headline(const figures *f, place at, text *page) {
    const char *fastest = NULL, *gentle = NULL;
    double best = 0, least = INFINITY, noise = 0, fastest_noise = 0;
    char a[16], b[16];
    for (int i = 1; i < f->n_labels; i++) {
        double ratio = figures_ratio(f, f->label[i], at.batch, at.prompt, "decode", &noise);
        const store_quality *q = figures_quality(f, f->label[i]);
        if (ratio > best) {
            best = ratio;
            fastest = f->label[i];
            fastest_noise = noise;
        }
        if (q && q->kl_mean < least && figures_holds(f, f->label[i], at.batch, at.prompt) > 0) {
            least = q->kl_mean;
            gentle = f->label[i];
        }
    }
    text_printf(page, "<p class=lead>At batch %d and %d tokens, ", at.batch, at.prompt);
    if (best > 1 + fastest_noise) {
        text_puts(page, "compression pays in speed: <b>");
        html_text(page, fastest);
        text_printf(page, "</b> decodes %s as fast as f16 and holds %s the requests.", times(best, a),
                    times(figures_holds(f, fastest, at.batch, at.prompt), b));
    } else {
        text_puts(page, "no method decodes faster than f16 beyond the noise; what compression saves here is memory.");
    }
    if (gentle) {
        double ratio = figures_ratio(f, gentle, at.batch, at.prompt, "decode", &noise);
        text_puts(page, " The one that changes the model least is <b>");
        html_text(page, gentle);
        text_printf(page, "</b> (KL %.4f): %s the requests, %s (%s).", least,
                    times(figures_holds(f, gentle, at.batch, at.prompt), a), speed_words(ratio, noise),
                    times(ratio, b));
    }
    text_puts(page, "</p>\n");
}

void verdict_write(const figures *f, text *page) {
    place at;
    if (!largest_place(f, &at)) {
        text_puts(page, "<p class=lead>Nothing can be said yet: no method was measured beside f16.</p>\n");
        return;
    }
    headline(f, at, page);
    text_puts(page, "<ul class=verdicts>\n");
    for (int i = 1; i < f->n_labels; i++) {
        text_puts(page, "<li><b class=name>");
        html_text(page, f->label[i]);
        text_puts(page, "</b> ");
        say_speed(f, f->label[i], at, page);
        say_quality(figures_quality(f, f->label[i]), page);
        say_lengths(f, f->label[i], page);
        say_avoid(f, f->label[i], at, page);
        text_puts(page, "</li>\n");
    }
    text_printf(page,
                "</ul>\n<p class=note>Words and thresholds: a speed differs when it is off by more than the larger "
                "spread of the two "
                "rates (at least 3 %%); KL below %.2f hardly changes the model, from %.1f on a lot; answers must stay "
                "what they are: "
                "fewer than %.0f %% of next tokens agree; paid by length: more than %.0f %% of answers grew to 1.5 "
                "times.</p>\n",
                KL_SMALL, KL_LARGE, 100 * AGREE_LOW, 100 * LONGER_SHARE);
}
