/* page.c - the page: verdict, speed, memory, lengths, quality, conditions. Colours are CSS variables with a dark set;
 * tables scroll sideways inside their own box, so a phone never scrolls the page. */
#include "report/figures.h"
#include "report/report.h"
#include "base/status.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char style[] =
    "<style>\n"
    ":root{--bg:#fbfaf7;--card:#fff;--ink:#1d2126;--soft:#5d6670;--line:#e2dfd8;--good:20,140,90;--bad:200,70,50;--acc:"
    "#1f6feb;"
    "--p00:#333a42;--p01:#e2dfd8;--p99:transparent;--p10:#7a52c7;--p11:#1f6feb;--p12:#d9730d;--p13:#c2185b;--p14:#"
    "0f8a5f;--p15:#8a6d00;"
    "--p16:#00838f;--p17:#6d4c41}\n"
    "@media(prefers-color-scheme:dark){:root{--bg:#14171a;--card:#1c2024;--ink:#e6e8ea;--soft:#9aa4ae;--line:#30363d;--"
    "good:60,190,130;"
    "--bad:235,110,90;--acc:#6ea8fe;--p00:#c9d1d9;--p01:#30363d;--p10:#b39ddb;--p11:#6ea8fe;--p12:#ffb366;--p13:#"
    "f48fb1;--p14:#5fd3a5;"
    "--p15:#e0c25c;--p16:#4dd0e1;--p17:#bcaaa4}}\n"
    "*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.55 system-ui,sans-serif}"
    "main{max-width:60rem;margin:0 auto;padding:1.2rem 1rem 4rem}h1{font-size:1.5rem;line-height:1.25;margin:.4rem 0 "
    ".2rem}"
    "h2{font-size:1.15rem;margin:2.4rem 0 .6rem}h3{font-size:1rem;margin:.2rem 0 "
    ".4rem}.sub,.note{color:var(--soft);font-size:.875rem}"
    ".lead{font-size:1.12rem;background:var(--card);border:1px solid var(--line);border-left:4px solid "
    "var(--acc);border-radius:6px;"
    "padding:.8rem 1rem}.verdicts{padding:0;list-style:none}.verdicts li{background:var(--card);border:1px solid "
    "var(--line);"
    "border-radius:6px;padding:.6rem 1rem;margin:.5rem 0}.name{font-family:ui-monospace,monospace;margin-right:.4rem}"
    ".maps{display:grid;grid-template-columns:repeat(auto-fill,minmax(15rem,1fr));gap:.8rem}.map{background:var(--card)"
    ";"
    "border:1px solid var(--line);border-radius:6px;padding:.6rem .8rem;overflow-x:auto}"
    "table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums}.map table{width:100%}"
    "th{font-weight:600;color:var(--soft);text-align:right;padding:.25rem .5rem;white-space:nowrap}"
    "td{text-align:right;padding:.3rem .5rem;white-space:nowrap}th:first-child,td:first-child{text-align:left}"
    ".wide{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:6px;padding:.3rem .5rem}"
    ".wide tr+tr td{border-top:1px solid var(--line)}.cell{border-radius:4px;text-align:center}.none{color:var(--soft)}"
    ".bar{display:inline-block;height:.7rem;background:var(--acc);border-radius:2px;vertical-align:middle;min-width:"
    "2px}"
    ".plot{background:var(--card);border:1px solid var(--line);border-radius:6px;padding:.5rem;overflow-x:auto}"
    ".plot svg{display:block;width:100%;min-width:32rem;height:auto}.plot text{fill:var(--ink)}"
    "dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem "
    "1rem;font-size:.9rem}dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}"
    "code{font-family:ui-monospace,monospace;font-size:.85em;overflow-wrap:anywhere}\n</style>\n";

void html_text(text *page, const char *s) {
    for (; s && *s; s++) {
        const char *entity = *s == '<'   ? "&lt;"
                             : *s == '>' ? "&gt;"
                             : *s == '&' ? "&amp;"
                             : *s == '"' ? "&quot;"
                                         : NULL;
        if (entity)
            text_puts(page, entity);
        else
            text_append(page, s, 1);
    }
}

/* ---- speed ---- */

/* A cell's colour: how far the ratio is from 1, full at 2x and at 0.5x. */
static void put_cell(const figures *f, const char *label, int batch, int prompt, const char *stage, text *page) {
    double noise = 0, ratio = figures_ratio(f, label, batch, prompt, stage, &noise);
    const store_point *p = figures_any(f, label, batch, prompt, stage);
    char bytes[16];
    if (ratio <= 0) {
        text_puts(page, "<td class=\"cell none\" title=\"");
        html_text(page, p && p->error ? p->error : "not measured");
        text_puts(page, p && p->error ? "\">no room</td>" : "\">&ndash;</td>");
        return;
    }
    double depth = fabs(log2(ratio));
    depth = depth > 1 ? 1 : depth;
    text_printf(page,
                "<td class=cell style=\"background:rgba(var(--%s),%.2f)\" title=\"%.1f tokens/s, spread %.1f %%, KV "
                "%s%s\">%.2f</td>",
                ratio >= 1 ? "good" : "bad", 0.75 * depth, p->median, 100 * p->spread, text_bytes(p->kv_bytes, bytes),
                p->filled ? ", over a synthetic fill" : "", ratio);
}

static void put_map(const figures *f, const char *label, const char *stage, text *page) {
    text_puts(page, "<div class=map><h3 class=name>");
    html_text(page, label);
    text_puts(page, "</h3><table><tr><th>batch</th>");
    for (int k = 0; k < f->n_prompt; k++)
        text_printf(page, "<th>%d</th>", f->prompt[k]);
    text_puts(page, "</tr>\n");
    for (int i = 0; i < f->n_batch; i++) {
        text_printf(page, "<tr><td>%d</td>", f->batch[i]);
        for (int k = 0; k < f->n_prompt; k++)
            put_cell(f, label, f->batch[i], f->prompt[k], stage, page);
        text_puts(page, "</tr>\n");
    }
    text_puts(page, "</table></div>\n");
}

static void put_base_rates(const figures *f, text *page) {
    text_puts(page, "<h3>f16 itself, tokens per second of the whole batch</h3><div "
                    "class=wide><table><tr><th>stage</th><th>batch</th>");
    for (int k = 0; k < f->n_prompt; k++)
        text_printf(page, "<th>%d</th>", f->prompt[k]);
    text_puts(page, "</tr>\n");
    static const char *const stages[] = {"decode", "prefill"};
    for (int s = 0; s < 2; s++)
        for (int i = 0; i < f->n_batch; i++) {
            text_printf(page, "<tr><td>%s</td><td>%d</td>", stages[s], f->batch[i]);
            for (int k = 0; k < f->n_prompt; k++) {
                const store_point *p = figures_point(f, "f16", f->batch[i], f->prompt[k], stages[s]);
                if (p)
                    text_printf(page, "<td title=\"spread %.1f %%\">%.0f</td>", 100 * p->spread, p->median);
                else
                    text_puts(page, "<td class=none>&ndash;</td>");
            }
            text_puts(page, "</tr>\n");
        }
    text_puts(page, "</table></div>\n");
}

static void put_refused(const figures *f, text *page) {
    bool any = false;
    char bytes[16];
    for (int i = 0; i < f->points.n; i++) {
        const store_point *p = &f->points.point[i];
        if (!p->error || strcmp(p->stage, "decode"))
            continue;
        text_puts(page, any ? "<li>" : "<h3>Points that could not be measured</h3><ul><li>");
        any = true;
        html_text(page, p->label);
        text_printf(page, ", batch %d, %d tokens: ", p->batch, p->prompt_tokens);
        html_text(page, p->error);
        text_printf(page, " (%s)</li>\n", text_bytes(p->bytes_needed, bytes));
    }
    text_puts(page, any ? "</ul>\n" : "");
}

static void put_speed(const figures *f, text *page) {
    static const struct {
        const char *stage, *title;
    } parts[] = {{"decode", "Decode speed over f16"}, {"prefill", "Prefill speed over f16"}};
    if (!f->points.n) {
        text_puts(page, "<h2>Speed</h2><p class=note>Not measured yet.</p>\n");
        return;
    }
    for (int s = 0; s < 2; s++) {
        text_printf(page,
                    "<h2>%s</h2><p class=note>Rows: batch; columns: tokens in the prompt. Above 1 is faster. A cell's "
                    "title has the rate.</p>\n<div class=maps>\n",
                    parts[s].title);
        for (int i = 1; i < f->n_labels; i++)
            put_map(f, f->label[i], parts[s].stage, page);
        text_puts(page, "</div>\n");
        if (s == 0)
            plot_rates(f, page);
    }
    put_base_rates(f, page);
    if (f->has_agreement && f->agreement.rate[1] > 0)
        text_printf(page,
                    "<p class=note>Cells over a synthetic fill time decode only. Check at %d tokens: %.1f tokens/s "
                    "over a fill, %.1f over a real "
                    "prompt (%.2f).</p>\n",
                    f->agreement.prompt_tokens, f->agreement.rate[0], f->agreement.rate[1],
                    f->agreement.rate[0] / f->agreement.rate[1]);
    put_refused(f, page);
}

/* ---- memory ---- */

static void put_memory(const figures *f, text *page) {
    if (!f->n_prompt)
        return;
    int batch = f->batch[0];
    text_printf(page,
                "<h2>Memory</h2><p class=note>KV cache after decode at batch %d; the bar is the share of f16's at the "
                "longest prompt.</p>\n"
                "<div class=wide><table><tr><th>method</th>",
                batch);
    for (int k = 0; k < f->n_prompt; k++)
        text_printf(page, "<th>%d tokens</th>", f->prompt[k]);
    text_puts(page, "<th>peak</th><th>holds</th><th></th></tr>\n");
    for (int i = 0; i < f->n_labels; i++) {
        char bytes[16];
        text_puts(page, "<tr><td class=name>");
        html_text(page, f->label[i]);
        text_puts(page, "</td>");
        const store_point *p = NULL;
        for (int k = 0; k < f->n_prompt; k++) {
            p = figures_point(f, f->label[i], batch, f->prompt[k], "decode");
            text_printf(page, "<td>%s</td>", p ? text_bytes(p->kv_bytes, bytes) : "&ndash;");
        }
        double holds = figures_holds(f, f->label[i], batch, f->prompt[f->n_prompt - 1]);
        text_printf(page, "<td>%s</td>", p ? text_bytes(p->kv_peak_bytes, bytes) : "&ndash;");
        if (holds > 0)
            text_printf(
                page,
                "<td>%.1fx</td><td style=\"text-align:left\"><span class=bar style=\"width:%.2frem\"></span></td>",
                holds, 8 / holds);
        else
            text_puts(page, "<td>&ndash;</td><td></td>");
        text_puts(page, "</tr>\n");
    }
    text_puts(page, "</table></div>\n");
}

/* ---- answers ---- */

static void put_lengths(const figures *f, text *page) {
    text_puts(page, "<h2>Length of answers</h2>\n");
    if (!f->answers.n) {
        text_puts(page, "<p class=note>Not measured yet.</p>\n");
        return;
    }
    text_puts(page, "<p class=note>The same prompts, greedy, after one shared exact prefill; each dot is one answer's "
                    "length over f16's, the bar the mean.</p>\n");
    if (!plot_lengths(f, page))
        text_puts(page, "<p class=note>(gnuplot is not installed here, so the figure is left out; the table has its "
                        "numbers.)</p>\n");
    text_puts(page, "<div class=wide><table><tr><th>method</th><th>pairs</th><th>mean ratio</th><th>&ge; "
                    "1.5x</th><th>same as f16 from the start</th>"
                    "<th>met the limit</th></tr>\n");
    for (int i = 1; i < f->n_labels; i++) {
        figures_lengths l;
        figures_lengths_of(f, f->label[i], &l);
        if (!l.n)
            continue;
        text_puts(page, "<tr><td class=name>");
        html_text(page, f->label[i]);
        text_printf(page, "</td><td>%d</td><td>%.3f</td><td>%.0f %%</td><td>%.0f %%</td><td>%d</td></tr>\n", l.n,
                    l.mean, 100 * l.share_longer, 100 * l.agree, l.n_capped);
    }
    text_puts(page, "</table></div>\n<p class=note>\"Met the limit\": pairs in which an answer was cut at the limit of "
                    "new tokens, so that its true "
                    "length is not known. A method that never acts within these lengths gives f16's answers.</p>\n");
}

/* ---- quality ---- */

static void put_quality(const figures *f, text *page) {
    double most = 0;
    text_puts(page, "<h2>What it does to the model</h2>\n");
    if (!f->qualities.n) {
        text_puts(page, "<p class=note>Not measured yet.</p>\n");
        return;
    }
    const store_quality *first = &f->qualities.quality[0];
    text_puts(page, "<p class=note>");
    html_text(page, first->text_name);
    text_printf(page,
                ": %d window%s of %d tokens; the first half prefilled and compressed, the second decoded through the "
                "compressed cache, "
                "%d positions scored.</p>\n",
                first->windows, first->windows == 1 ? "" : "s", first->ctx, first->tokens);
    for (int i = 0; i < f->qualities.n; i++)
        most = f->qualities.quality[i].kl_mean > most ? f->qualities.quality[i].kl_mean : most;
    text_puts(page, "<div class=wide><table><tr><th>method</th><th>KL mean</th><th></th><th>KL p99</th><th>same next "
                    "token</th><th>perplexity</th>"
                    "<th>tokens kept</th></tr>\n");
    for (int i = 0; i < f->n_labels; i++) {
        const store_quality *q = figures_quality(f, f->label[i]);
        if (!q)
            continue;
        text_puts(page, "<tr><td class=name>");
        html_text(page, q->label);
        text_printf(page,
                    "</td><td>%.4f</td><td style=\"text-align:left\"><span class=bar "
                    "style=\"width:%.2frem\"></span></td><td>%.3f</td>"
                    "<td>%.1f %%</td><td>%.2f &plusmn; %.2f</td><td>%.0f %%</td></tr>\n",
                    q->kl_mean, most > 0 ? 6 * q->kl_mean / most : 0, q->kl_p99, 100 * q->top1_agreement, q->perplexity,
                    q->stderr_ppl, 100 * q->kept_share);
    }
    text_puts(page, "</table></div>\n");
}

/* ---- conditions ---- */

static void put_pair(text *page, const char *name, const char *value) {
    text_printf(page, "<dt>%s</dt><dd>", name);
    html_text(page, value ? value : "");
    text_puts(page, "</dd>\n");
}

static void put_conditions(const figures *f, text *page) {
    char number[32];
    text_puts(page, "<h2>What was measured where</h2><dl>\n");
    put_pair(page, "model", f->run.model_name);
    put_pair(page, "file hash", f->run.model_hash);
    put_pair(page, "machine", f->run.machine);
    put_pair(page, "kernels", f->run.level);
    snprintf(number, sizeof(number), "%d", f->run.n_threads);
    put_pair(page, "threads", number);
    put_pair(page, "begun (UTC)", f->run.started);
    put_pair(page, "pleat", f->run.version);
    text_puts(page, "</dl>\n<h3>Methods</h3><div class=wide><table>\n");
    for (int i = 0; i < f->n_labels; i++) {
        const char *spec = NULL;
        for (int k = 0; k < f->points.n && !spec; k++)
            spec = strcmp(f->points.point[k].label, f->label[i]) ? NULL : f->points.point[k].spec;
        for (int k = 0; k < f->qualities.n && !spec; k++)
            spec = strcmp(f->qualities.quality[k].label, f->label[i]) ? NULL : f->qualities.quality[k].spec;
        text_puts(page, "<tr><td class=name>");
        html_text(page, f->label[i]);
        text_puts(page, "</td><td style=\"text-align:left\"><code>");
        html_text(page, spec);
        text_puts(page, "</code></td></tr>\n");
    }
    text_puts(page, "</table></div>\n<p class=note>Options: <code>");
    html_text(page, f->run.options);
    text_puts(page, "</code></p>\n");
}

static void put_page(const figures *f, text *page) {
    text_puts(page, "<!doctype html>\n<html lang=en>\n<head><meta charset=utf-8>\n<meta name=viewport "
                    "content=\"width=device-width,initial-scale=1\">\n"
                    "<meta name=color-scheme content=\"light dark\">\n<title>pleat: ");
    html_text(page, f->run.model_name);
    text_puts(page, "</title>\n");
    text_puts(page, style);
    text_puts(page, "</head>\n<body><main>\n<h1>Does KV-cache compression pay here?</h1>\n<p class=sub>");
    html_text(page, f->run.model_name);
    text_puts(page, " on ");
    html_text(page, f->run.machine);
    text_printf(page, ", %d threads, %s</p>\n", f->run.n_threads, f->run.level);
    if (!f->run.finished)
        text_puts(page, "<p class=lead>This study is not finished: what follows is what has been measured so far. Run "
                        "it again and it goes on.</p>\n");
    verdict_write(f, page);
    put_speed(f, page);
    put_memory(f, page);
    put_lengths(f, page);
    put_quality(f, page);
    put_conditions(f, page);
    text_puts(page, "</main></body></html>\n");
}

static pleat_status write_file(const char *path, const text *page, pleat_error *error) {
    char part[4200];
    if ((size_t)snprintf(part, sizeof(part), "%s.part", path) >= sizeof(part))
        return err_set(error, PLEAT_EINPUT, "the path of the report is too long");
    FILE *to = fopen(part, "wb");
    if (!to)
        return err_set(error, PLEAT_EIO, "%.300s cannot be written: %s", part, strerror(errno));
    bool ok = fwrite(page->bytes, 1, page->n, to) == page->n;
    ok = fclose(to) == 0 && ok;
    if (!ok || rename(part, path)) {
        int why = errno;
        unlink(part);
        return err_set(error, PLEAT_EIO, "%.300s cannot be written: %s", path, strerror(why));
    }
    return PLEAT_OK;
}

pleat_status report_write(store *db, int64_t run, const char *path, pleat_error *error) {
    figures f;
    text page = {0};
    pleat_status status = figures_read(db, run, &f, error);
    if (status)
        return status;
    put_page(&f, &page);
    status = page.failed ? err_set(error, PLEAT_EMEMORY, "no memory for the report") : write_file(path, &page, error);
    text_free(&page);
    figures_free(&f);
    return status;
}
