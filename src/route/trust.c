/* trust.c - how far predicted lengths are believed.
 *
 * A length predictor is worth as much as it has been right here. Per method, the logarithm of the real length minus
 * that of the predicted one is regressed on (1, x, m): x the logarithm of what was predicted for this method, m the
 * mean of x over the pool's methods. The three coefficients say a bias, how far to shrink all lengths to the usual one,
 * and how far to shrink the differences between methods; the last is what a choice between replicas hangs on. Requests
 * go where their prediction is good, but that is selection by the regressor, so the fit stays unbiased.
 *
 * Least squares, each coefficient drawn to 0 (the prediction as told) with the weight of some answers, old answers
 * fading: with right predictions nothing changes, with useless ones every answer is believed to be as long as the usual
 * one of its method. Believed is the mean of the resulting lognormal. Cost: 3 x 3 equations per ended request. */
#include "route/inside.h"
#include <math.h>

static const double centre = 5.5; /* logarithm of a usual length: the bias is taken there */
static const double prior = 10, fade = 1 - 1.0 / 2000;

static void regressors(float own, float mean, double z[3]) {
    z[0] = 1;
    z[1] = (double)own - centre;
    z[2] = (double)mean - centre;
}

static double corrected(const route_trust *t, float own, float mean) {
    double z[3];
    regressors(own, mean, z);
    return (double)own + t->fit[0] * z[0] + t->fit[1] * z[1] + t->fit[2] * z[2];
}

void route_trust_believe(const route_table *t, const route_request *request, route_belief *b) {
    float sum = 0;
    for (int m = 0; m < t->n_methods; m++) {
        b->told[m] = logf(request->answer_tokens[m] > 1 ? request->answer_tokens[m] : 1);
        sum += b->told[m];
    }
    b->told_mean = sum / (float)t->n_methods;
    for (int m = 0; m < t->n_methods; m++) {
        double spread = (double)t->trust[m].spread, x = corrected(&t->trust[m], b->told[m], b->told_mean);
        double tokens = exp(x + spread * spread / 2);
        if (request->most_answer_tokens && tokens > request->most_answer_tokens)
            tokens = request->most_answer_tokens;
        b->tokens[m] = tokens > 1 ? (float)tokens : 1;
    }
}

/* Gauss on a symmetric positive definite 3 x 3. */
static void solve(route_trust *t) {
    double a[3][4];
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 4; j++)
            a[i][j] = j == 3 ? t->xy[i] : t->xx[i][j] + (i == j ? prior : 0);
    for (int k = 0; k < 3; k++)
        for (int i = k + 1; i < 3; i++) {
            double factor = a[i][k] / a[k][k];
            for (int j = k; j < 4; j++)
                a[i][j] -= factor * a[k][j];
        }
    for (int i = 2; i >= 0; i--) {
        double sum = a[i][3];
        for (int j = i + 1; j < 3; j++)
            sum -= a[i][j] * t->fit[j];
        t->fit[i] = sum / a[i][i];
    }
}

void route_trust_learn(route_trust *t, const float told[2], int answer_tokens) {
    double z[3], real = log(answer_tokens > 1 ? answer_tokens : 1), error = real - (double)told[0];
    double rest = real - corrected(t, told[0], told[1]);
    regressors(told[0], told[1], z);
    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < 3; j++)
            t->xx[i][j] = fade * t->xx[i][j] + z[i] * z[j];
        t->xy[i] = fade * t->xy[i] + z[i] * error;
    }
    t->square = fade * t->square + rest * rest;
    t->weight = fade * t->weight + 1;
    t->spread = (float)sqrt(t->square / (t->weight + prior));
    solve(t);
}
