// Draw a digit: the drawing in the form of MNIST, and what the network makes of it, from logits to the gradient, as one draws.
"use strict";

function drawingBoard(place) {
  const find = (selector) => place.querySelector(selector), net = network(), side = 280;
  const paper = find(".paper"), pen = paper.getContext("2d", { willReadFrequently: true }), seen = find(".seen").getContext("2d");
  const state = { params: null, digit: new Float32Array(784), losses: [], steps: 0, x: side / 2, y: side / 2, down: false, waiting: false };

  function clear() {
    pen.fillStyle = "white";
    pen.fillRect(0, 0, side, side);
    state.losses = [];
    look();
  }

  // The reader's own network where there is one; else, or when asked, the one that the page came with.
  function take(own) {
    const trained = own && store.load();
    Object.assign(state, { params: trained || store.network(WEIGHTS), whose: trained ? "you trained" : "the page came with", steps: 0, losses: [] });
    look();
  }

  function strokeTo(x, y) {
    Object.assign(pen, { lineWidth: 22, lineCap: "round", lineJoin: "round", strokeStyle: "black" });
    pen.beginPath();
    pen.moveTo(state.x, state.y);
    pen.lineTo(x, y);
    pen.stroke();
    Object.assign(state, { x, y, losses: [] });
    if (!state.waiting) requestAnimationFrame(look);
    state.waiting = true;
  }

  // From the drawing to the digit that the network sees.
  function look() {
    state.waiting = false;
    const pixels = pen.getImageData(0, 0, side, side).data;
    state.digit = form(Uint8Array.from({ length: side * side }, (_, k) => (pixels[4 * k] < 128 ? 1 : 0)), side);
    const picture = seen.createImageData(28, 28);
    state.digit.forEach((ink, k) => picture.data.set([255 * (1 - ink), 255 * (1 - ink), 255 * (1 - ink), 255], 4 * k));
    seen.putImageData(picture, 0, 0);
    show();
  }

  const short = (value) => (value !== 0 && Math.abs(value) < 0.005 ? value.toExponential(0) : value.toFixed(2));

  // One row of ten numbers, each with a bar up or down from the middle, whose full length is `top`.
  function row(name, values, top) {
    find(`tr.${name}`).querySelectorAll("td").forEach((cell, j) => {
      const height = (50 * Math.abs(values[j])) / top, edge = values[j] < 0 ? "top" : "bottom";
      const bar = values[j] === null ? "" : `<span class="bar"><i style="${edge}: 50%; height: ${height}%"></i></span><span>${short(values[j])}</span>`;
      cell.innerHTML = bar;
    });
  }

  function show() {
    const label = Number(find("select").value), empty = !state.digit.some((ink) => ink);
    const { loss, logits, d } = net.backward(state.params, state.digit, [label]), logp = Array.from(net.logSoftmax(logits)), p = logp.map(Math.exp);
    const largest = (values) => Math.max(...values.map(Math.abs), 1e-9);
    row("logits", Array.from(logits), largest(logits));
    row("softmax", p, 1);
    row("log", logp, largest(logp));
    row("loss", p.map((_, j) => (j === label ? loss : null)), largest(logp));  // as long as the one above it
    row("gradient", Array.from(d), 1);
    const best = p.indexOf(Math.max(...p));
    find(".says").textContent = empty ? "Nothing is drawn yet: these are the numbers for empty paper." : `The network says ${best}, with probability ${p[best].toFixed(3)}.`;
    const steps = state.steps ? `, after ${state.steps} step${state.steps > 1 ? "s" : ""} on your drawing` : "";
    find(".whose").textContent = `This is the network that ${state.whose}${steps}.`;
    find(".losses").textContent = state.losses.length ? `Loss: ${[...state.losses, loss].map((value) => value.toPrecision(3)).join(", ")}` : "";
    place.dataset.logits = Array.from(logits).join(" ");
  }

  function step() {
    const { loss, grads } = net.backward(state.params, state.digit, [Number(find("select").value)]);
    state.params.forEach((part, k) => net.steps.sgd(part, grads[k], 0.005));
    state.losses = [...state.losses.slice(-7), loss];
    state.steps += 1;
    show();
  }

  // A ring where the pen is, for those who move it with the keys.
  function ring() {
    Object.assign(find(".pen").style, { left: `${(100 * state.x) / side}%`, top: `${(100 * state.y) / side}%` });
    find(".pen").classList.toggle("down", state.down);
  }

  const at = (event) => [(event.offsetX * side) / paper.clientWidth, (event.offsetY * side) / paper.clientHeight];
  paper.addEventListener("pointerdown", (event) => {
    paper.setPointerCapture(event.pointerId);
    [state.x, state.y] = at(event);
    state.down = true;
    strokeTo(state.x, state.y);
  });
  paper.addEventListener("pointermove", (event) => { if (event.buttons && state.down) strokeTo(...at(event)); });
  paper.addEventListener("pointerup", () => { state.down = false; });
  paper.addEventListener("keydown", (event) => {
    const [dx, dy] = { ArrowLeft: [-10, 0], ArrowRight: [10, 0], ArrowUp: [0, -10], ArrowDown: [0, 10], " ": [0, 0] }[event.key] ?? [];
    if (dx === undefined) return;
    event.preventDefault();
    if (event.key === " ") state.down = !state.down;
    const inside = (value) => Math.min(Math.max(value, 0), side), x = inside(state.x + dx), y = inside(state.y + dy);
    if (state.down) strokeTo(x, y);
    else Object.assign(state, { x, y });
    ring();
  });
  paper.addEventListener("focus", ring);
  find("select").addEventListener("change", () => { state.losses = []; show(); });
  find(".clear").addEventListener("click", clear);
  find(".step").addEventListener("click", step);
  find(".back").addEventListener("click", () => take(false));
  document.addEventListener("trained", () => take(true));
  place.addEventListener("drawn", look);
  pen.fillStyle = "white";
  pen.fillRect(0, 0, side, side);
  take(true);
}

if (typeof document !== "undefined") {
  document.addEventListener("DOMContentLoaded", () => document.querySelectorAll(".drawing-board").forEach(drawingBoard));
}
