// Where softmax breaks: three ways to compute log-probabilities in float32, with the slope of the first, as lesson 03 has them.
"use strict";

const f = Math.fround;
const map = (x, g) => x.map((value, i) => f(g(value, i)));
const sum = (x) => x.reduce((total, value) => f(total + value), 0);

// Each gives the log-probabilities of a row of logits, and the slopes of number `i` of them by every logit.
const versions = {
  "softmax, then log": (x, i) => {
    const e = map(x, Math.exp), s = sum(e), p = map(e, (value) => value / s);
    const back = map(p, (value, j) => (j === i ? 1 : 0) / value);  // through the log, then through both parts of the division
    const byTotal = sum(map(p, (value, j) => -back[j] * f(value / s)));
    return [map(p, Math.log), map(e, (value, j) => f(f(back[j] / s) + byTotal) * value)];
  },
  "x - log(sum(exp(x)))": (x, i) => {
    const e = map(x, Math.exp), s = sum(e), l = f(Math.log(s)), back = f(-1 / s);
    return [map(x, (value) => value - l), map(e, (value, j) => f(back * value) + (j === i ? 1 : 0))];
  },
  "shifted by the maximum": (x, i) => {
    const m = Math.max(...x);
    return versions["x - log(sum(exp(x)))"](map(x, (value) => value - m), i);
  },
};

// The same in 64 bits, shifted: what the others should say.
function truth(x, i) {
  const m = Math.max(...x), e = x.map((value) => Math.exp(value - m)), s = e.reduce((a, b) => a + b);
  return [x.map((value) => value - m - Math.log(s)), e.map((value, j) => (j === i ? 1 : 0) - value / s)];
}

function show(place) {
  const numbers = [...place.querySelectorAll('input[type="number"]')], table = place.querySelector("tbody");
  const row = (name, parts, right) => {
    const cells = parts.flat().map((value, k) => {
      const off = Number.isFinite(value) ? Math.abs(value - right[k]) > 1e-3 * (1 + Math.abs(right[k])) : true;
      const text = Number.isFinite(value) ? value.toFixed(4) : String(value).replace("Infinity", "inf").replace("NaN", "nan");
      return `<td${off ? ' class="off"' : ""}>${text}</td>`;
    });
    return `<tr><th scope="row">${name}</th>${cells.join("")}</tr>`;
  };
  const draw = () => {
    const [shift, ...logits] = numbers.map(({ value }) => Number(value));
    const x = logits.map((value) => f(value + shift)), right = truth(x, 0).flat();
    const rows = Object.entries(versions).map(([name, version]) => row(name, version(x, 0), right));
    table.innerHTML = rows.join("") + row("the truth, in 64 bits", truth(x, 0), right);
  };
  place.querySelectorAll("label").forEach((label) => {
    const [slider, number] = label.querySelectorAll("input");
    slider.addEventListener("input", () => { number.value = slider.value; draw(); });
    number.addEventListener("input", () => { slider.value = number.value; draw(); });
  });
  draw();
}

if (typeof document !== "undefined") {
  document.addEventListener("DOMContentLoaded", () => document.querySelectorAll(".where-softmax-breaks").forEach(show));
}
