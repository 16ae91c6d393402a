// The network of lesson 02, its loss (lesson 04), gradients (lesson 06) and steps (lessons 07 and 08), in float32.
// One function, so that its text can be sent into a worker too. Matrices lie in memory row by row; `params` is [w1, b1, w2, b2].
"use strict";

function network() {
  const f = Math.fround;
  const sizes = [784, 50, 10];

  // Uniform numbers from 0 to 1 that a whole number decides (mulberry32, by T. Ettinger).
  function random(seed) {
    return () => {
      seed = (seed + 0x6d2b79f5) | 0;
      let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
    };
  }

  // The first weights, as torch.nn.Linear draws them: between -1 and 1 over the root of the number of inputs.
  function fresh(seed) {
    const next = random(seed);
    return [0, 1].flatMap((layer) => {
      const [n, m] = sizes.slice(layer), bound = 1 / Math.sqrt(n);
      return [n * m, m].map((length) => Float32Array.from({ length }, () => (2 * next() - 1) * bound));
    });
  }

  // The numbers from 0 to n - 1 in random order (Fisher and Yates).
  function shuffled(n, next) {
    const order = Uint32Array.from({ length: n }, (_, i) => i);
    for (let i = n - 1; i > 0; i--) {
      const j = Math.floor(next() * (i + 1));
      [order[i], order[j]] = [order[j], order[i]];
    }
    return order;
  }

  // Where row `i` of a matrix is not 0: most pixels of a digit are, and add nothing.
  function nonzero(x, i, width) {
    const found = [];
    for (let k = 0; k < width; k++) if (x[i * width + k] !== 0) found.push(k);
    return found;
  }

  // x @ w.T + b: [n, width] and [m, width] to [n, m].
  function linear(x, w, b) {
    const m = b.length, width = w.length / m, n = x.length / width, out = new Float32Array(n * m);
    for (let i = 0; i < n; i++) {
      const ks = nonzero(x, i, width);
      for (let j = 0; j < m; j++) {
        let total = b[j];
        for (const k of ks) total += x[i * width + k] * w[j * width + k];
        out[i * m + j] = total;
      }
    }
    return out;
  }

  // d.T @ x: [n, m] and [n, width] to [m, width].
  function outer(d, x, m) {
    const n = d.length / m, width = x.length / n, out = new Float32Array(m * width);
    for (let i = 0; i < n; i++) {
      const ks = nonzero(x, i, width);
      for (let j = 0; j < m; j++) {
        const slope = d[i * m + j];
        if (slope !== 0) for (const k of ks) out[j * width + k] += slope * x[i * width + k];
      }
    }
    return out;
  }

  // d.sum(0): the sum of each of m columns.
  function columns(d, m) {
    const out = new Float32Array(m);
    d.forEach((value, k) => { out[k % m] += value; });
    return out;
  }

  function forward([w1, b1, w2, b2], x) {
    const h = linear(x, w1, b1).map((value) => Math.max(value, 0));
    return { h, logits: linear(h, w2, b2) };
  }

  // x - (m + log(sum(exp(x - m)))), row by row.
  function logSoftmax(logits) {
    const out = new Float32Array(logits.length);
    for (let i = 0; i < out.length; i += 10) {
      const row = logits.subarray(i, i + 10), m = Math.max(...row);
      const l = f(Math.log(row.reduce((total, value) => f(total + f(Math.exp(f(value - m)))), 0)));
      row.forEach((value, j) => { out[i + j] = f(value - m) - l; });
    }
    return out;
  }

  // The mean loss of a batch and the gradients of all weights: the eight lines of lesson 06.
  function backward(params, x, y) {
    const w2 = params[2], n = y.length, m = sizes[1];
    const { h, logits } = forward(params, x), logp = logSoftmax(logits);
    let loss = 0;
    y.forEach((label, i) => { loss -= logp[i * 10 + label] / n; });
    const d = logp.map((value, k) => (f(Math.exp(value)) - (y[Math.floor(k / 10)] === k % 10 ? 1 : 0)) / n);
    const dh = h.map((value, k) => {
      if (value === 0) return 0;  // where ReLU was flat
      let total = 0;
      for (let j = 0; j < 10; j++) total += d[Math.floor(k / m) * 10 + j] * w2[j * m + (k % m)];
      return total;
    });
    return { loss: f(loss), logits, d, grads: [outer(dh, x, m), columns(dh, m), outer(d, h, 10), columns(d, 10)] };
  }

  // Each takes the weights, their gradient, the learning rate and what it remembers of this weight, and changes the weights in place.
  const steps = {
    sgd: (p, g, lr) => { for (let k = 0; k < p.length; k++) p[k] -= lr * g[k]; },
    momentum: (p, g, lr, memory) => {
      const v = (memory.v ??= new Float32Array(p.length));
      for (let k = 0; k < p.length; k++) {
        v[k] = 0.9 * v[k] + g[k];
        p[k] -= lr * v[k];
      }
    },
    adam: (p, g, lr, memory) => {
      const m = (memory.m ??= new Float32Array(p.length)), s = (memory.s ??= new Float32Array(p.length));
      const t = (memory.t = (memory.t ?? 0) + 1), mean = 1 - 0.9 ** t, square = 1 - 0.999 ** t;
      for (let k = 0; k < p.length; k++) {
        m[k] += 0.1 * (g[k] - m[k]);
        s[k] = 0.999 * s[k] + 0.001 * g[k] * g[k];
        p[k] -= (lr * (m[k] / mean)) / (Math.sqrt(s[k] / square) + 1e-8);
      }
    },
  };

  // The share of rows whose largest logit is the label's.
  function accuracy(params, x, y) {
    const { logits } = forward(params, x);
    const right = y.filter((label, i) => {
      const row = logits.subarray(i * 10, i * 10 + 10);
      return row.indexOf(Math.max(...row)) === label;
    });
    return right.length / y.length;
  }

  return { random, fresh, shuffled, forward, logSoftmax, backward, steps, accuracy };
}
